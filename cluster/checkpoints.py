"""Repairs a run's folder of checkpoints before the next attempt: the list must be readable, unlisted ones are deleted.

Ray Train rewrites its list (checkpoint_manager_snapshot.json) in place, so a kill can leave half of it, and every later
attempt would fail. So the list is copied atomically after each checkpoint, and a broken list is replaced by its copy.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

LIST = "checkpoint_manager_snapshot.json"
COPY = "checkpoints.json"


def copy_list(folder: Path) -> None:
    """Copies the list of checkpoints atomically. Ray Train's controller calls it after it has written the list."""
    temporary = folder / f".{COPY}.{os.getpid()}"
    temporary.write_bytes((folder / LIST).read_bytes())
    os.replace(temporary, folder / COPY)


def repair(folder: Path) -> None:
    """Replaces a broken list by its copy, or deletes it if there is none, and deletes checkpoints that are not listed.

    Those are uploads that a kill interrupted. Only one run may use the folder (the draft's lease ensures it).
    """
    names = _listed(folder / LIST)
    if names is None:
        (folder / LIST).unlink(missing_ok=True)
        names = _listed(folder / COPY)
        if names is not None:
            shutil.copyfile(folder / COPY, folder / LIST)
    for checkpoint in folder.glob("checkpoint_*"):
        if checkpoint.is_dir() and checkpoint.name not in (names or ()):
            shutil.rmtree(checkpoint)


def newest(folder: Path) -> str:
    """Name of the newest complete checkpoint; empty where there is none."""
    return max(_listed(folder / LIST) or _listed(folder / COPY) or (), default="")


def _listed(path: Path) -> set[str] | None:
    """Names of the checkpoints in a list; None if it is missing, truncated, or names a folder that does not exist."""
    try:
        results = json.loads(path.read_text())["checkpoint_results"]
        names = {result["checkpoint_dir_name"] for result in results}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return names if all((path.parent / name).is_dir() for name in names) else None
