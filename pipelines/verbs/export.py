"""`rayse export`."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.console import print_json
from pipelines.errors import UserError
from pipelines.store.artifacts import Store
from pipelines.store.runs import resolve


def export_artifact(store: Store, name: str, folder: Path, *, as_json: bool) -> None:
    """`rayse export`: the artifact's files without the manifest; whole, or not there."""
    artifact = resolve(store, name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; name a new one")
    damage = artifact.damage()
    if damage:
        raise UserError(f"{name}: damaged: {damage}; run its recipe again to remake it")
    partial = folder.absolute().parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(artifact.path, partial, ignore=shutil.ignore_patterns("manifest.json"))
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except shutil.Error as error:  # copytree gathers what went wrong with each file: (from, to, why)
        raise UserError(f"{folder}: cannot be written ({error.args[0][0][2]}); choose another folder") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    facts = {"kind": artifact.kind, "fingerprint": artifact.fingerprint, "folder": str(folder.absolute())}
    if as_json:
        return print_json(facts)
    print(f"{artifact.kind} {artifact.fingerprint} -> {folder}")
