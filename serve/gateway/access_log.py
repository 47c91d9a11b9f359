"""The access log: one line of JSON for each request, without a word of what it says.

    {"time": "2026-01-31T12:00:00.123Z", "route": "/v1/chat/completions", "status": 200, "seconds": 1.2, "key": "ana",
     "model": "sft", "id": "chatcmpl-…", "prompt_tokens": 31, "reply_tokens": 120, "first_text_s": 0.2, "guard": null}

Several replicas append to one file: a line is one write, and they take turns at rotating it.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAX_BYTES = 50_000_000  # of the file, before it is renamed to FILE.1
NUM_OLD = 4  # rotated files that are kept: FILE.1, the newest, to FILE.4


class AccessLog:
    """A file that lines are appended to. Calls wait for the file system: run them outside the event loop.

    Raises OSError."""

    def __init__(self, file: Path, *, max_bytes: int = MAX_BYTES, num_old: int = NUM_OLD):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._max_bytes, self._num_old = file, max_bytes, num_old
        self._lock = threading.Lock()
        file.touch(mode=0o600)

    def write(self, facts: dict[str, Any]) -> None:
        """Appends a line with these facts and the time."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, **facts}, ensure_ascii=False).encode() + b"\n"
        with self._lock, self._file.with_name(self._file.name + ".lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # of all processes; let go when it is closed
            if self._file.exists() and self._file.stat().st_size + len(line) > self._max_bytes:
                self._rotate()
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)

    def _rotate(self) -> None:
        for number in range(self._num_old, 0, -1):
            older = self._file.with_name(f"{self._file.name}.{number}")
            newer = self._file.with_name(f"{self._file.name}.{number - 1}") if number > 1 else self._file
            if newer.exists():
                newer.replace(older)
