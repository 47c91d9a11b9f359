"""Who may send a request: which key it carries, and whether the rate and quota of a named key leave room for it.

    headers ──authorize──► 401, 403
    Authorization: Bearer KEY ──SHA-256──► NamedKey ──admit──► 429 beyond its requests a minute or a day

The server knows digests only. Requests are counted in whole minutes and days (UTC), in the database of feedback: quotas
hold over restarts, and over all servers of the same database. A server that stores no feedback counts in memory.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from serve.gateway.asgi import ApiError
from serve.gateway.database import Database, DatabaseError, open_database
from serve.settings import NamedKey, Settings

MINUTE_S, DAY_S = 60, 86_400
NO_LIMIT = 2**62
PUBLIC_PATHS = ("/", "/page", "/health")  # need no key: the page asks for it, and health tells nothing about users
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
# Rows of days stay, as the use of a key; those of minutes go with the next one.
CREATE_TABLE = """CREATE TABLE IF NOT EXISTS key_use (
    name TEXT NOT NULL,            -- of the key
    window_s INTEGER NOT NULL,     -- 60 or 86,400
    number BIGINT NOT NULL,        -- of the window since 1970
    requests BIGINT NOT NULL,      -- admitted in it
    PRIMARY KEY (name, window_s, number)
)"""
COUNT = """INSERT INTO key_use VALUES (:name, :window_s, :number, :requests) ON CONFLICT (name, window_s, number)
    DO UPDATE SET requests = key_use.requests + :requests WHERE key_use.requests + :requests <= :maximum
    RETURNING requests"""
DROP_EARLIER = "DELETE FROM key_use WHERE name = :name AND window_s = :window_s AND number < :number"


class Access:
    """The named keys of a server with their use. clock: seconds since 1970. Raises DatabaseError."""

    def __init__(self, keys: Sequence[NamedKey], database: Database, clock: Callable[[], float] = time.time):
        self._keys, self._database, self._clock = keys, database, clock
        with database.setup():
            database.execute(CREATE_TABLE)

    def find(self, secret: str) -> NamedKey | None:
        """The key of this text, if it is one."""
        return find_key(self._keys, secret)

    def admit(self, key: NamedKey, requests: int = 1) -> None:
        """Counts requests, all or none. Raises ApiError: 429 where the key has too few left in this minute or day, 503
        where they cannot be counted. Blocks: call it outside the event loop."""
        now = self._clock()
        try:
            with self._database.transaction():  # a request that is refused counts in neither window
                self._count(key, MINUTE_S, key.per_minute, "minute", now, requests)
                self._count(key, DAY_S, key.per_day, "day", now, requests)
        except DatabaseError as error:
            raise ApiError(503, f"key {key.name}: its requests cannot be counted ({error}); try again later",
                           code="database_unavailable") from None  # fmt: skip

    def use_by_day(self, since: float = 0.0) -> list[dict[str, Any]]:
        """The requests of each key in each day (`number`, since 1970) that ended after a time in seconds since 1970."""
        return self._database.execute(
            "SELECT name, number, requests FROM key_use WHERE window_s = :window_s AND number >= :number "
            "ORDER BY number, name", window_s=DAY_S, number=int(since // DAY_S),
        )  # fmt: skip

    def _count(
        self, key: NamedKey, window_s: int, limit: int | None, unit: str, now: float, requests: int
    ) -> None:  # fmt: skip
        window = {"name": key.name, "window_s": window_s, "number": int(now // window_s)}
        maximum = limit or NO_LIMIT
        fits = requests <= maximum  # the first of a window is inserted, whatever its number
        counted = self._database.execute(COUNT, **window, requests=requests, maximum=maximum) if fits else []
        if not counted:
            wait_s = window_s - int(now % window_s)
            fewer = ";" if requests == 1 else ", and each prompt is one; send fewer prompts, or"
            raise ApiError(429, f"key {key.name}: {limit} requests a {unit} are its limit{fewer} try again in "
                           f"{wait_s} s", code="rate_limit_exceeded", headers={"retry-after": str(wait_s)})  # fmt: skip
        if window_s == MINUTE_S and counted[0]["requests"] == requests:
            self._database.execute(DROP_EARLIER, **window)


def find_key(keys: Sequence[NamedKey], secret: str) -> NamedKey | None:
    """The one of these keys that has this text, if any has."""
    digest = hashlib.sha256(secret.encode("latin-1", "replace")).hexdigest()
    matching = [key for key in keys if secrets.compare_digest(key.sha256, digest)]  # all are compared
    return matching[0] if matching else None


def bearer(headers: Mapping[str, str]) -> str:
    """The key that a request carries; empty without one. headers: by lower-case name."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def authorize(settings: Settings, path: str, headers: Mapping[str, str]) -> None:
    """Raises ApiError where a request lacks the key (401); where no key is set, for anything but programs of this
    machine and our page (403), so that no web site can reach a model on loopback through somebody's browser.

    Needs the headers alone, so that nothing is read of a request that is refused."""
    if settings.key is not None or settings.keys:
        key = bearer(headers)
        is_valid = find_key(settings.keys, key) is not None or secrets.compare_digest(
            key.encode("latin-1", "replace"), (settings.key or secrets.token_hex()).encode()
        )
        if not is_valid and path not in PUBLIC_PATHS and not path.startswith("/page/"):
            raise ApiError(401, "wrong or missing key; expected the header `Authorization: Bearer KEY`",
                           code="invalid_api_key", headers={"www-authenticate": "Bearer"})  # fmt: skip
        return
    host, origin = headers.get("host", ""), headers.get("origin")
    if _split_url(f"//{host}").hostname not in (*LOCAL_NAMES, settings.host):
        raise ApiError(403, f"the Host header is {host!r}; expected localhost", code="foreign_host")
    if origin is not None and _split_url(origin).netloc != host:
        raise ApiError(403, f"pages of {origin!r} may not send requests to this server", code="foreign_origin")


def _split_url(url: str) -> SplitResult:
    """The parts of a URL, empty ones where it is malformed."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def open_access(settings: Settings) -> Access:
    """The named keys of these settings, counted in the database of feedback if there is one. Raises DatabaseError."""
    file, url = (settings.feedback, settings.feedback_url) if settings.keys else (None, None)
    return Access(settings.keys, open_database(file, url, synced=False))
