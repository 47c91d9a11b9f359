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

    Files and folders get the modes of new ones, by the user's umask: safetensors writes weights with mode 0600.

    Raises UserError for a folder that is not empty or not writable, and for a damaged artifact."""
    artifact = resolve(store, name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; name a new one")
    damage = artifact.damage()
    if damage:
        raise UserError(f"{name}: damaged: {damage}; run its recipe again to remake it")
    files = artifact.local()
    partial = folder.absolute().parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _copy(files, partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    facts = {"kind": artifact.kind, "fingerprint": artifact.fingerprint, "folder": str(folder.absolute())}
    if as_json:
        return print_json(facts)
    print(f"{artifact.kind} {artifact.fingerprint} -> {folder}")


def _copy(source: Path, target: Path) -> None:
    """Copies a folder without its manifest; what it makes has the modes of new files and folders, by the umask."""
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir()
        elif path != source / "manifest.json":
            shutil.copyfile(path, copy)
