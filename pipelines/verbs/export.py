"""`rayse export`: copies an artifact out of the store."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.console import print_json
from pipelines.errors import UserError
from pipelines.store.artifacts import Store
from pipelines.store.runs import resolve


def export_artifact(store: Store, name: str, folder: Path, *, as_json: bool) -> None:
    """`rayse export`: copies the artifact's files, without the manifest, to a new or empty folder; all or none.

    Raises UserError for a folder that is not empty or not writable, and for a damaged artifact."""
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
    except shutil.Error as error:  # copytree collects the errors of all files: (source, destination, reason)
        raise UserError(f"{folder}: cannot be written ({error.args[0][0][2]}); choose another folder") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    facts = {"kind": artifact.kind, "fingerprint": artifact.fingerprint, "folder": str(folder.absolute())}
    if as_json:
        return print_json(facts)
    print(f"{artifact.kind} {artifact.fingerprint} -> {folder}")
