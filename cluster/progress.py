"""Metrics of a training loop while it runs: lines of JSON in a file that survives the death of every process.

Rank 0 appends to the file, the driver follows it and displays the lines. A run that resumes from step 30 first deletes
the lines of later steps, so that each step of a loss curve occurs once.
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
    """What rank 0 has reported so far, in order: [{"step": 1, "loss": 8.3}, …]; [] before the first step."""
    path = storage / name / FILE
    return _lines(path.read_bytes())[0] if path.exists() else []


def append(path: Path, step: int, figures: dict[str, float]) -> None:
    """Appends one line in a single write, so that a reader sees all of it or none; it is not forced to disk."""
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps({"step": step, **figures}).encode() + b"\n")


def cut(path: Path, step: int) -> None:
    """Deletes the lines after this step (-1: all lines). Truncates in place: the lines that stay are not rewritten."""
    if not path.exists():
        return
    num_bytes = 0
    data = path.read_bytes()
    for raw in data.splitlines(keepends=True):
        parsed, _ = _lines(raw)
        if not parsed or parsed[0]["step"] > step:
            break
        num_bytes += len(raw)
    with path.open("r+b") as file:
        file.truncate(num_bytes)


def _lines(data: bytes) -> tuple[list[Figures], int]:
    """The complete lines of `data` and their size in bytes. An incomplete last line is left for the next read."""
    end = data.rfind(b"\n") + 1
    figures = []
    for raw in data[:end].splitlines():
        try:
            figures.append(json.loads(raw))
        except ValueError:  # the file was truncated and grew again between two reads: this one began inside a line
            continue
    return figures, end


class Tail:
    """Follows the file in a thread and calls `on_line` with each new line, but not with those already there.

    Leaving the block reads what is still unread. An exception of `on_line` stops the thread and is raised on leaving.
    """

    def __init__(self, path: Path, on_line: Callable[[Figures], None] | None, every_s: float = 0.25):
        self._path, self._on_line, self._every_s = path, on_line, every_s
        self._position = path.stat().st_size if path.exists() else 0
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name=f"tail {path}", daemon=True)

    def __enter__(self) -> Tail:
        if self._on_line:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._stop.set()
        if self._on_line:
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
        if not self._path.exists() or self._on_line is None:
            return
        self._position = min(self._position, self._path.stat().st_size)  # shorter: the run resumed from a checkpoint
        with self._path.open("rb") as file:
            file.seek(self._position)
            figures, num_bytes = _lines(file.read())
        self._position += num_bytes
        for line in figures:
            self._on_line(line)
