"""Users' feedback on replies: a thumb and a comment, on disk before they are acknowledged.

    reply ──► RecentReplies (in this process) ──POST /feedback {reply_id, thumb, comment}──► FeedbackStore (SQLite)
      └─────► receipt (receipts.py) ──POST /feedback {receipt, thumb, comment}──────────────────┘

A client sends an id only; the server looks up the reply, its prompt, the model's version and the sampling parameters.
Where no replica remembers the reply, its receipt says the same, but for the texts, which the client may send along.
Nothing of a conversation reaches the disk unless its user gives a thumb.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MAX_COMMENT_CHARACTERS = 4000
MAX_RECENT_REPLIES = 2000
MAX_RECENT_CHARACTERS = 16_000_000  # of all recent replies with their prompts

CREATE_TABLE = """CREATE TABLE IF NOT EXISTS feedback (
    reply_id TEXT PRIMARY KEY,
    thumb TEXT NOT NULL CHECK (thumb IN ('up', 'down')),
    comment TEXT NOT NULL,
    prompt TEXT NOT NULL,          -- messages as JSON, or the text of a completion's prompt
    reply TEXT NOT NULL,
    model TEXT NOT NULL,           -- its name in the API
    version TEXT NOT NULL,         -- fingerprint of its artifact
    sampling TEXT NOT NULL,        -- sampling parameters of the request, as JSON
    created REAL NOT NULL,         -- time of the reply, seconds since 1970
    changed REAL NOT NULL,         -- time of the thumb, seconds since 1970
    receipt TEXT NOT NULL DEFAULT '{}'  -- facts of the reply's receipt, as JSON
)"""
ADD_RECEIPT = "ALTER TABLE feedback ADD COLUMN receipt TEXT NOT NULL DEFAULT '{}'"  # to files of earlier versions
UPSERT = """INSERT INTO feedback VALUES (:reply_id, :thumb, :comment, :prompt, :reply, :model, :version, :sampling,
    :created, :changed, :receipt) ON CONFLICT (reply_id)
    DO UPDATE SET thumb = :thumb, comment = :comment, changed = :changed,
    prompt = CASE prompt WHEN 'null' THEN :prompt ELSE prompt END,  -- texts that were not known before
    reply = CASE reply WHEN '' THEN :reply ELSE reply END"""


class UnknownReply(LookupError):
    """Feedback on a reply that is neither among the recent replies nor in the file."""


@dataclass(frozen=True)
class Reply:
    """A reply as its user saw it; the fields are columns of the table.

    prompt: messages, or a completion's prompt; null, and an empty reply, where only their digests are known, which are
    in `receipt` with the other facts that its receipt signs."""

    reply_id: str
    prompt: Any
    reply: str
    model: str
    version: str
    sampling: dict[str, Any]
    created: float
    receipt: dict[str, Any] = field(default_factory=dict)


class RecentReplies:
    """The newest replies of this process, by id. The oldest is dropped where there are too many, or too long ones."""

    def __init__(self, max_replies: int = MAX_RECENT_REPLIES, max_characters: int = MAX_RECENT_CHARACTERS):
        self._replies: OrderedDict[str, tuple[Reply, int]] = OrderedDict()  # with their characters
        self._characters, self._max_replies, self._max_characters = 0, max_replies, max_characters

    def add(self, reply: Reply) -> None:
        """Adds a reply, and drops the oldest beyond the bounds."""
        size = len(reply.reply) + len(json.dumps(reply.prompt, ensure_ascii=False))
        self._replies[reply.reply_id] = (reply, size)
        self._characters += size
        while len(self._replies) > self._max_replies or self._characters > self._max_characters:
            _, (_, dropped_size) = self._replies.popitem(last=False)
            self._characters -= dropped_size

    def get(self, reply_id: str) -> Reply | None:
        """The reply of this id; None where it is unknown or was dropped."""
        entry = self._replies.get(reply_id)
        return entry[0] if entry else None


class FeedbackStore:
    """The SQLite file of feedback, safe for several threads and processes.

    Calls block until the disk has synced: run them outside the event loop. Raises sqlite3.Error, OSError."""

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(file, timeout=10, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")  # a commit returns when the log is on disk
        self._database.execute(CREATE_TABLE)
        if "receipt" not in [column[1] for column in self._database.execute("PRAGMA table_info(feedback)")]:
            self._database.execute(ADD_RECEIPT)

    def save(self, reply_id: str, thumb: str, comment: str, reply: Reply | None) -> None:
        """Writes feedback on a reply; it is on disk when this returns. Later feedback on the same reply replaces it.

        Raises UnknownReply where `reply` is None and the file holds no earlier feedback on it."""
        with self._lock:
            if reply is None:
                updated = self._database.execute(
                    "UPDATE feedback SET thumb = ?, comment = ?, changed = ? WHERE reply_id = ?",
                    (thumb, comment, time.time(), reply_id),
                )
                if updated.rowcount == 0:
                    raise UnknownReply(reply_id)
                return
            row = asdict(reply) | {"thumb": thumb, "comment": comment, "changed": time.time()}
            row["prompt"] = json.dumps(reply.prompt, ensure_ascii=False)
            row["receipt"] = json.dumps(reply.receipt)
            row["sampling"] = json.dumps(reply.sampling)  # ASCII: a stop string may be half of a surrogate pair
            self._database.execute(UPSERT, row)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._database.close()


def read(file: Path) -> list[dict[str, Any]]:
    """All rows of a feedback file, oldest first."""
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM feedback ORDER BY changed")]
    finally:
        database.close()
    return [row | {name: json.loads(row.get(name, "{}")) for name in ("prompt", "sampling", "receipt")} for row in rows]
