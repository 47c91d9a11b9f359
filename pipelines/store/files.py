"""Files of a store: published under their name in one rename, synced to the disk, never seen half written."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Names of files and folders that are not published yet, or are replaced: blocks.py, objects' copies, write_atomically.
UNPUBLISHED = re.compile(r"\.(.+\.)?([0-9a-f]{12}|[0-9a-f]{32})(\.partial|\.old)?")
COPIES = "@"  # begins the names of folders of objects' copies, which are complete: the names in them are the user's
ABANDONED_S = 24 * 3600.0  # without a write: whoever wrote it is gone, on this machine or another


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON into a draft; use write_atomically for a file that others may be reading."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read(path: Path) -> bytes | None:
    """The bytes of a file; None if there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file in one rename: a reader sees the old text or the new, never a part, after a power cut too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")  # tempfile's would have mode 0600 for ever
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Holds a lock (flock) on a file, which stays: one process, or thread, at a time is in the block."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def remove_abandoned(root: Path) -> None:
    """Deletes what killed processes have left in a store's cache, and beside its artifacts, under the names of files
    and folders that are not published: those in which nothing was written for ABANDONED_S."""
    left = [path for path in root.glob("artifacts/*/.*") if UNPUBLISHED.fullmatch(path.name)]
    for folder, folders, files in os.walk(root / "cache"):
        left += [Path(folder, name) for name in (*folders, *files) if UNPUBLISHED.fullmatch(name)]
        folders[:] = [name for name in folders if not name.startswith(COPIES) and not UNPUBLISHED.fullmatch(name)]
    for path in left:
        with suppress(OSError):  # published meanwhile, or another run deletes it, too
            if time.time() - max(entry.stat().st_mtime for entry in (path, *path.rglob("*"))) > ABANDONED_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def share(folder: Path, mode: int) -> None:
    """Gives the files of a folder at least the mode of a new one: safetensors writes weights with mode 0600."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        if mode & ~file.stat().st_mode:
            file.chmod(mode & 0o777)


def sync(path: Path) -> None:
    """Forces a file's bytes, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
