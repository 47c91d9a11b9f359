"""Checkpoints on disk between two attempts: the list Ray Train keeps of them must be readable, the rest is swept.

Ray Train writes its list (checkpoint_manager_snapshot.json) in place, so a kill can leave half of one, and every
later attempt would fail on it. After each checkpoint a copy is made by rename; a broken list is replaced by it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

LIST = "checkpoint_manager_snapshot.json"
COPY = "checkpoints.json"


def keep_copy(place: Path) -> None:
    """Copies the list, whole or not at all. Called by Ray Train's controller after it has written the list."""
    temporary = place / f".{COPY}.{os.getpid()}"
    temporary.write_bytes((place / LIST).read_bytes())
    os.replace(temporary, place / COPY)


def tidy(place: Path) -> None:
    """Before an attempt: a broken list gives way to its copy, or to none; checkpoints that no list names go.

    Those are uploads cut by a kill. The folder must be held by one run (the draft's lease sees to that).
    """
    names = _listed(place / LIST)
    if names is None:
        (place / LIST).unlink(missing_ok=True)
        names = _listed(place / COPY)
        if names is not None:
            shutil.copyfile(place / COPY, place / LIST)
    for folder in place.glob("checkpoint_*"):
        if folder.is_dir() and folder.name not in (names or ()):
            shutil.rmtree(folder)


def _listed(path: Path) -> set[str] | None:
    """Names of the checkpoints in a list; None where it is missing, cut, or names one that is not there."""
    try:
        results = json.loads(path.read_text())["checkpoint_results"]
        names = {result["checkpoint_dir_name"] for result in results}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return names if all((path.parent / name).is_dir() for name in names) else None
