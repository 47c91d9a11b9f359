"""Figures of a loop while it runs: lines of JSON in a file that outlives every process.

Rank 0 appends; the driver reads along and shows; a run that goes on from step 30 cuts what came after it, so that a
loss curve has each step once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "progress.jsonl"
Figures = dict[str, Any]


def read_progress(storage: Path, name: str) -> list[Figures]:
    """What rank 0 reported so far, in order: [{"step": 1, "loss": 8.3}, …]; [] before the first."""
    path = storage / name / FILE
    return _lines(path.read_bytes())[0] if path.exists() else []


def append(path: Path, step: int, figures: dict[str, float]) -> None:
    """One line, in one write, so that a reader sees all of it or none; ready for the kernel, not forced to disk."""
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps({"step": step, **figures}).encode() + b"\n")


def cut(path: Path, step: int) -> None:
    """Drops the lines after this step; step -1 drops all. Shortens the file in place: what stays is never rewritten."""
    if not path.exists():
        return
    keep = 0
    data = path.read_bytes()
    for raw in data.splitlines(keepends=True):
        found, _ = _lines(raw)
        if not found or found[0]["step"] > step:
            break
        keep += len(raw)
    with path.open("r+b") as file:
        file.truncate(keep)


def _lines(data: bytes) -> tuple[list[Figures], int]:
    """The complete lines of `data` and how many bytes they take. A half line, cut by a kill, is left for later."""
    end = data.rfind(b"\n") + 1
    figures = []
    for raw in data[:end].splitlines():
        try:
            figures.append(json.loads(raw))
        except ValueError:  # the file was shortened and grew again between two looks: we stand inside a line
            continue
    return figures, end


class Tail:
    """Follows the file in a thread and calls `show` with each new line; nothing of what was there before.

    Leaving the block shows what is still unread. An exception of `show` ends the showing and is raised there.
    """

    def __init__(self, path: Path, show: Callable[[Figures], None] | None, every_s: float = 0.25):
        self._path, self._show, self._every_s = path, show, every_s
        self._position = path.stat().st_size if path.exists() else 0
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name=f"tail {path}", daemon=True)

    def __enter__(self) -> Tail:
        if self._show:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._stop.set()
        if self._show:
            self._thread.join()
        if self._error and kind is None:
            raise self._error

    def _follow(self) -> None:
        try:
            while not self._stop.wait(self._every_s):
                self._read()
            self._read()
        except Exception as error:
            self._error = error

    def _read(self) -> None:
        if not self._path.exists() or self._show is None:
            return
        self._position = min(self._position, self._path.stat().st_size)  # shorter: the run went back to a checkpoint
        with self._path.open("rb") as file:
            file.seek(self._position)
            figures, length = _lines(file.read())
        self._position += length
        for line in figures:
            self._show(line)
