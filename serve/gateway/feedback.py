"""Users' feedback on replies, on disk before it is acknowledged: thumb, comment, correction, report of an error.

    reply ──► RecentReplies (in this process) ──POST /feedback {reply_id, thumb, …}──► FeedbackStore (database.py)
      └─────► receipt (receipts.py) ──POST /feedback {receipt, thumb, …}──────────────────┘

A client sends an id only; the server looks up the reply, its prompt, the model's version and the sampling parameters.
Where no replica remembers the reply, its receipt says the same, but for the texts, which the client may send along.
Nothing of a conversation reaches the disk unless its user sends feedback on it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from pipelines.data.text.privacy import Privacy
from pipelines.data.text.privacy_kinds import PrivateKind
from serve.gateway.conversation import each_key_once
from serve.gateway.database import Database

MAX_COMMENT_CHARACTERS = 4000
MAX_CORRECTION_CHARACTERS = 32_000
MAX_RECENT_REPLIES = 2000
MAX_RECENT_CHARACTERS = 16_000_000  # of all recent replies with their prompts
# Without names: what is asked about people would be lost, and names are found in part only.
MASKED: list[PrivateKind] = [kind for kind in get_args(PrivateKind) if kind != "names"]
MASK, KEEP = (Privacy(dict.fromkeys(MASKED, action), seed=0) for action in ("mask", "keep"))
ReportKind = Literal["wrong", "unsafe", "format", "other"]

CREATE_TABLE = """CREATE TABLE IF NOT EXISTS feedback (
    reply_id TEXT PRIMARY KEY,
    thumb TEXT NOT NULL CHECK (thumb IN ('up', 'down')),
    comment TEXT NOT NULL,
    prompt TEXT NOT NULL,          -- messages as JSON, or the text of a completion's prompt
    reply TEXT NOT NULL,
    model TEXT NOT NULL,           -- its name in the API
    version TEXT NOT NULL,         -- fingerprint of its artifact
    sampling TEXT NOT NULL,        -- sampling parameters of the request, as JSON
    created DOUBLE PRECISION NOT NULL,  -- time of the reply, seconds since 1970
    changed DOUBLE PRECISION NOT NULL   -- time of the feedback, seconds since 1970
)"""
CREATE_INDEX = "CREATE INDEX IF NOT EXISTS feedback_changed ON feedback (changed, reply_id)"  # for PAGE
ADDED_COLUMNS = {  # since the first version
    "receipt": "'{}'",  # facts of the reply's receipt, as JSON
    "correction": "''",  # the text that the reply should have been
    "report": "''",  # kind of an error: wrong, unsafe, format, other
    "user_digest": "''",  # keyed digest of the request's `user`
    "key_digest": "''",  # keyed digest of the name of the request's key
    "tool_calls": "''",  # calls of tools in the reply, as JSON
    "tools": "''",  # tools that the reply could call, as JSON
}
UPDATE = """UPDATE feedback SET thumb = :thumb, comment = :comment, correction = :correction, report = :report,
    changed = :changed WHERE reply_id = :reply_id RETURNING reply_id"""
UPSERT = """INSERT INTO feedback (reply_id, thumb, comment, prompt, reply, model, version, sampling, created, changed,
    receipt, correction, report, user_digest, key_digest, tool_calls, tools) VALUES (:reply_id, :thumb, :comment,
    :prompt, :reply, :model, :version, :sampling, :created, :changed, :receipt, :correction, :report, :user_digest,
    :key_digest, :tool_calls, :tools)
    ON CONFLICT (reply_id) DO UPDATE SET thumb = :thumb, comment = :comment, correction = :correction, report = :report,
    changed = :changed,
    prompt = CASE feedback.prompt WHEN 'null' THEN :prompt ELSE feedback.prompt END,  -- not known before
    reply = CASE feedback.reply WHEN '' THEN :reply ELSE feedback.reply END,
    tool_calls = CASE feedback.tool_calls WHEN '' THEN :tool_calls ELSE feedback.tool_calls END"""
PAGE_ROWS = 1000  # of feedback in memory at a time
PAGE = """SELECT * FROM feedback WHERE (changed, reply_id) > (:changed, :reply_id)
          ORDER BY changed, reply_id LIMIT :limit"""
COUNTS = """SELECT model, version, thumb, report, corrected, COUNT(*) AS number FROM
    (SELECT *, CASE correction WHEN '' THEN 0 ELSE 1 END AS corrected FROM feedback WHERE changed >= :since) AS since
    GROUP BY model, version, thumb, report, corrected ORDER BY MIN(changed), MIN(reply_id)"""
DELETE_USER = "DELETE FROM feedback WHERE user_digest = :digest OR key_digest = :digest RETURNING reply_id"


class UnknownReply(LookupError):
    """Feedback on a reply that is neither among the recent replies nor in the database."""


@dataclass(frozen=True)
class Opinion:
    """What a user says of a reply; the fields are columns of the table.

    correction: the text that the reply should have been; report: kind of its error; each empty where there is none."""

    thumb: Literal["up", "down"]
    comment: str = ""
    correction: str = ""
    report: ReportKind | Literal[""] = ""


@dataclass(frozen=True)
class Reply:
    """A reply as its user saw it; the fields are columns of the table.

    prompt: messages, or a completion's prompt; null, and an empty reply, where only their digests are known, which are
    in `receipt` with the other facts that its receipt signs. user_digest, key_digest: receipts.pseudonym of the
    request's `user` and of its key's name; empty without. tool_calls: calls of tools in the reply, as a message of a
    conversation has them; tools: those that it could call; each as JSON text, empty for none."""

    reply_id: str
    prompt: Any
    reply: str
    model: str
    version: str
    sampling: dict[str, Any]
    created: float
    receipt: dict[str, Any] = field(default_factory=dict)
    user_digest: str = ""
    key_digest: str = ""
    tool_calls: str = ""
    tools: str = ""


class RecentReplies:
    """The newest replies of this process, by id, safe for several threads. The oldest is dropped where there are too
    many, or too long ones."""

    def __init__(self, max_replies: int = MAX_RECENT_REPLIES, max_characters: int = MAX_RECENT_CHARACTERS):
        self._replies: OrderedDict[str, tuple[Reply, int]] = OrderedDict()  # with their characters
        self._characters, self._max_replies, self._max_characters = 0, max_replies, max_characters
        self._lock = threading.Lock()

    def add(self, reply: Reply) -> None:
        """Adds a reply, and drops the oldest beyond the bounds."""
        size = len(reply.reply + reply.tool_calls + reply.tools) + len(json.dumps(reply.prompt, ensure_ascii=False))
        with self._lock:
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
    """The feedback of a database, safe for several threads and processes. privacy: replaces personal data in texts.

    Calls block until the disk has synced: run them outside the event loop. Raises DatabaseError."""

    def __init__(self, database: Database, privacy: Privacy = MASK):
        self._database, self._privacy = database, privacy
        with database.setup():
            database.execute(CREATE_TABLE)
            database.execute(CREATE_INDEX)
            for name, default in ADDED_COLUMNS.items():
                if not database.has_column("feedback", name):
                    database.execute(f"ALTER TABLE feedback ADD COLUMN {name} TEXT NOT NULL DEFAULT {default}")

    def save(self, reply_id: str, opinion: Opinion, reply: Reply | None) -> None:
        """Writes feedback on a reply; it is on disk when this returns. Later feedback on the same reply replaces it.

        Raises UnknownReply where `reply` is None and the database holds no earlier feedback on it."""
        values = {name: self._text(text) for name, text in asdict(opinion).items()} | {"changed": time.time()}
        if reply is None:
            if not self._database.execute(UPDATE, reply_id=reply_id, **values):
                raise UnknownReply(reply_id)
            return
        row: dict[str, Any] = asdict(reply) | values
        row["prompt"] = json.dumps(self._without_personal_data(reply.prompt), ensure_ascii=False)
        row |= {name: self._text(row[name]) for name in ("reply", "tool_calls", "tools")}
        row["receipt"] = json.dumps(reply.receipt)
        row["sampling"] = json.dumps(reply.sampling)  # ASCII: a stop string may be half of a surrogate pair
        self._database.execute(UPSERT, **row)

    def rows(self, since: float = 0.0) -> list[dict[str, Any]]:
        """All feedback that changed since a time (seconds since 1970), oldest first."""
        return list(self.each(since))

    def each(self, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """Yields the rows of `rows`, some in memory at a time; one that changes meanwhile as it was first read."""
        seen: set[str] = set()
        last: dict[str, Any] = {"changed": since, "reply_id": ""}
        while page := self._database.execute(PAGE, limit=PAGE_ROWS, changed=last["changed"], reply_id=last["reply_id"]):
            last = page[-1]
            for row in page:
                if row["reply_id"] not in seen:
                    seen.add(row["reply_id"])
                    yield row | {name: json.loads(row[name]) for name in ("prompt", "sampling", "receipt")}

    def counts(self, since: float = 0.0) -> list[dict[str, Any]]:
        """How many replies have the same model, version, thumb, report and `corrected` (1 or 0): number, of feedback
        that changed since a time (seconds since 1970); in the order of the first of each."""
        return self._database.execute(COUNTS, since=since)

    def thumbs(self) -> dict[str, dict[str, int]]:
        """The number of thumbs up and down, by the version of the model."""
        counts: dict[str, dict[str, int]] = {}
        for row in self._database.execute("SELECT version, thumb, COUNT(*) AS n FROM feedback GROUP BY version, thumb"):
            counts.setdefault(row["version"], {"up": 0, "down": 0})[row["thumb"]] = row["n"]
        return counts

    def delete_user(self, digest: str) -> int:
        """Deletes all feedback on replies to a user, or to the requests of a key; returns the number of rows.

        digest: receipts.pseudonym of the user, or of the key's name. Nothing of them stays in a SQLite file."""
        deleted = self._database.execute(DELETE_USER, digest=digest)
        self._database.erase_deleted()
        return len(deleted)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def _text(self, text: str) -> str:
        """A text that both databases can hold, without personal data. One that is JSON, such as the calls of a reply,
        is masked in the texts and numbers that it says, and stays JSON."""
        text = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        if not text.lstrip().startswith(("{", "[")):
            return self._privacy.replace_escaped(text)
        try:
            value = json.loads(text, object_pairs_hook=each_key_once)
            masked = self._without_personal_data(value)
            return text if masked == value else json.dumps(masked, ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError):  # cut off, a key repeats, or a number that JSON has not
            return self._privacy.replace_escaped(text)

    def _without_personal_data(self, value: Any) -> Any:
        """A prompt: text, or JSON that holds texts. A number that is personal data becomes text."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self._without_personal_data(item) for item in value]
        if isinstance(value, dict):
            return self._object_without_personal_data(value)
        if isinstance(value, int) and not isinstance(value, bool):
            masked = self._privacy.replace_escaped(str(value))
            return value if masked == str(value) else masked
        return value

    def _object_without_personal_data(self, value: dict[str, Any]) -> dict[str, Any]:
        """A JSON object; keys that are equal once they are masked get a number, so that each keeps its value."""
        masked: dict[str, Any] = {}
        for key, item in value.items():
            name = text = self._text(key)
            while name in masked:
                name = f"{text} {len(masked) + 1}"
            masked[name] = self._without_personal_data(item)
        return masked
