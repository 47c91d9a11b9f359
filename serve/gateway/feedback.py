"""What users say of replies: a thumb and a comment, on disk before they are told so.

    reply ──remember──► Memory (the newest, in this process) ──POST /feedback {reply_id, thumb, comment}──► SQLite

A client sends an id only; the reply, its prompt, the model's version and how it was sampled are the server's to know.
Nothing of a conversation reaches the disk unless its user gives a thumb.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

THUMBS = ("up", "down")
COMMENT_CHARACTERS = 4000
REMEMBERED, REMEMBERED_CHARACTERS = 2000, 16_000_000  # replies, and characters of all of them with their prompts

TABLE = """CREATE TABLE IF NOT EXISTS feedback (
    reply_id TEXT PRIMARY KEY,
    thumb TEXT NOT NULL CHECK (thumb IN ('up', 'down')),
    comment TEXT NOT NULL,
    prompt TEXT NOT NULL,          -- messages as JSON, or the text that was continued
    reply TEXT NOT NULL,
    model TEXT NOT NULL,           -- what clients call it
    version TEXT NOT NULL,         -- fingerprint of its artifact
    sampling TEXT NOT NULL,        -- JSON
    created REAL NOT NULL,         -- seconds since 1970; of the reply
    changed REAL NOT NULL          -- of the thumb
)"""
KEEP = """INSERT INTO feedback VALUES (:reply_id, :thumb, :comment, :prompt, :reply, :model, :version, :sampling,
    :created, :changed) ON CONFLICT (reply_id) DO UPDATE SET thumb = :thumb, comment = :comment, changed = :changed"""


class UnknownReply(LookupError):
    """No such reply is remembered."""


@dataclass(frozen=True)
class Reply:
    """A reply as its user saw it. prompt: messages, or a text that was continued."""

    reply_id: str
    prompt: Any
    reply: str
    model: str
    version: str
    sampling: dict[str, Any]
    created: float


class Memory:
    """The newest replies, in this process. The oldest are forgotten first."""

    def __init__(self, most: int = REMEMBERED, most_characters: int = REMEMBERED_CHARACTERS):
        self._replies: OrderedDict[str, tuple[Reply, int]] = OrderedDict()
        self._characters, self._most, self._most_characters = 0, most, most_characters

    def remember(self, reply: Reply) -> None:
        size = len(reply.reply) + len(json.dumps(reply.prompt, ensure_ascii=False))
        self._replies[reply.reply_id] = (reply, size)
        self._characters += size
        while len(self._replies) > self._most or self._characters > self._most_characters:
            _, (_, gone) = self._replies.popitem(last=False)
            self._characters -= gone

    def get(self, reply_id: str) -> Reply | None:
        found = self._replies.get(reply_id)
        return found[0] if found else None


class Feedback:
    """The file. Its calls block for a disk's sync: not for an event loop. Raises sqlite3.Error, OSError."""

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(file, timeout=10, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")  # a commit returns when the log is on disk
        self._database.execute(TABLE)

    def keep(self, reply_id: str, thumb: str, comment: str, reply: Reply | None) -> None:
        """On disk when it returns. A second word on the same reply replaces the first.

        Raises UnknownReply where `reply` is None and nothing is known of it on disk either."""
        with self._lock:
            if reply is None:
                changed = self._database.execute(
                    "UPDATE feedback SET thumb = ?, comment = ?, changed = ? WHERE reply_id = ?",
                    (thumb, comment, time.time(), reply_id),
                )
                if changed.rowcount == 0:
                    raise UnknownReply(reply_id)
                return
            row = asdict(reply) | {"thumb": thumb, "comment": comment, "changed": time.time()}
            row["prompt"] = json.dumps(reply.prompt, ensure_ascii=False)
            row["sampling"] = json.dumps(reply.sampling)  # ASCII: a stop string may be half of a surrogate pair
            self._database.execute(KEEP, row)

    def close(self) -> None:
        with self._lock:
            self._database.close()


def read(file: Path) -> list[dict[str, Any]]:
    """All that was kept, oldest first."""
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM feedback ORDER BY changed")]
    finally:
        database.close()
    return [row | {"prompt": json.loads(row["prompt"]), "sampling": json.loads(row["sampling"])} for row in rows]
