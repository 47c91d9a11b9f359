"""Named keys: which key a request carries, and whether its rate and quota leave room for it.

    Authorization: Bearer KEY ──SHA-256──► NamedKey ──admit──► 429 beyond its requests a minute or a day

The server knows digests only. Requests are counted in whole minutes and days (UTC), in the database of feedback: quotas
hold over restarts, and over all servers of the same database. A server that stores no feedback counts in memory.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from serve.gateway.asgi import ApiError
from serve.gateway.database import Database, DatabaseError, open_database
from serve.settings import NamedKey, Settings

MINUTE_S, DAY_S = 60, 86_400
NO_LIMIT = 2**62
# Rows of days stay, as the use of a key; those of minutes go with the next one.
CREATE_TABLE = """CREATE TABLE IF NOT EXISTS key_use (
    name TEXT NOT NULL,            -- of the key
    window_s INTEGER NOT NULL,     -- 60 or 86,400
    number BIGINT NOT NULL,        -- of the window since 1970
    requests BIGINT NOT NULL,      -- admitted in it
    PRIMARY KEY (name, window_s, number)
)"""
COUNT = """INSERT INTO key_use VALUES (:name, :window_s, :number, 1) ON CONFLICT (name, window_s, number)
    DO UPDATE SET requests = key_use.requests + 1 WHERE key_use.requests < :maximum RETURNING requests"""
DROP_EARLIER = "DELETE FROM key_use WHERE name = :name AND window_s = :window_s AND number < :number"


class Access:
    """The named keys of a server with their use. clock: seconds since 1970. Raises DatabaseError."""

    def __init__(self, keys: Sequence[NamedKey], database: Database, clock: Callable[[], float] = time.time):
        self._keys, self._database, self._clock = keys, database, clock
        with database.setup():
            database.execute(CREATE_TABLE)

    def find(self, secret: str) -> NamedKey | None:
        """The key of this text, if it is one."""
        digest = hashlib.sha256(secret.encode("latin-1", "replace")).hexdigest()
        matching = [key for key in self._keys if secrets.compare_digest(key.sha256, digest)]  # all are compared
        return matching[0] if matching else None

    def admit(self, key: NamedKey) -> None:
        """Counts a request. Raises ApiError: 429 where the key has none left in this minute or day, 503 where it cannot
        be counted. Blocks: call it outside the event loop."""
        now = self._clock()
        try:
            with self._database.transaction():  # a request that is refused counts in neither window
                self._count(key, MINUTE_S, key.per_minute, "minute", now)
                self._count(key, DAY_S, key.per_day, "day", now)
        except DatabaseError as error:
            raise ApiError(503, f"key {key.name}: its requests cannot be counted ({error}); try again later",
                           code="database_unavailable") from None  # fmt: skip

    def use_by_day(self, since: float = 0.0) -> list[dict[str, Any]]:
        """The requests of each key in each day (`number`, since 1970) that ended after a time in seconds since 1970."""
        return self._database.execute(
            "SELECT name, number, requests FROM key_use WHERE window_s = :window_s AND number >= :number "
            "ORDER BY number, name", window_s=DAY_S, number=int(since // DAY_S),
        )  # fmt: skip

    def _count(self, key: NamedKey, window_s: int, limit: int | None, unit: str, now: float) -> None:
        window = {"name": key.name, "window_s": window_s, "number": int(now // window_s)}
        counted = self._database.execute(COUNT, **window, maximum=limit or NO_LIMIT)
        if not counted:
            wait_s = window_s - int(now % window_s)
            raise ApiError(429, f"key {key.name}: {limit} requests a {unit} are its limit; try again in {wait_s} s",
                           code="rate_limit_exceeded", headers={"retry-after": str(wait_s)})  # fmt: skip
        if window_s == MINUTE_S and counted[0]["requests"] == 1:
            self._database.execute(DROP_EARLIER, **window)


def open_access(settings: Settings) -> Access:
    """The named keys of these settings, counted in the database of feedback if there is one. Raises DatabaseError."""
    file, url = (settings.feedback, settings.feedback_url) if settings.keys else (None, None)
    return Access(settings.keys, open_database(file, url, synced=False))
