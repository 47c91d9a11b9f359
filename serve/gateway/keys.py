"""Named keys: which key a request carries, and whether its rate and quota leave room for it.

    Authorization: Bearer KEY ──SHA-256──► NamedKey ──admit──► 429 beyond its requests a minute or a day

The server knows digests only. Requests are counted in memory, in whole minutes and days (UTC), by each replica.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence

from serve.gateway.asgi import ApiError
from serve.settings import NamedKey

MINUTE_S, DAY_S = 60, 86_400


class Access:
    """The named keys of a server with their use. clock: seconds since 1970."""

    def __init__(self, keys: Sequence[NamedKey], clock: Callable[[], float] = time.time):
        self._keys, self._clock = keys, clock
        self._counts: dict[tuple[str, int], tuple[int, int]] = {}  # (name, window) → (number of the window, requests)

    def find(self, secret: str) -> NamedKey | None:
        """The key of this text, if it is one."""
        digest = hashlib.sha256(secret.encode("latin-1", "replace")).hexdigest()
        matching = [key for key in self._keys if secrets.compare_digest(key.sha256, digest)]  # all are compared
        return matching[0] if matching else None

    def admit(self, key: NamedKey) -> None:
        """Counts a request. Raises ApiError (429) where the key has none left in this minute or day."""
        now = self._clock()
        counted: dict[tuple[str, int], tuple[int, int]] = {}
        for window_s, limit, unit in ((MINUTE_S, key.per_minute, "minute"), (DAY_S, key.per_day, "day")):
            number, count = self._counts.get((key.name, window_s), (0, 0))
            count = count if number == int(now // window_s) else 0
            if limit is not None and count >= limit:
                wait_s = window_s - int(now % window_s)
                raise ApiError(429, f"key {key.name}: {limit} requests a {unit} are its limit; try again in {wait_s} s",
                               code="rate_limit_exceeded", headers={"retry-after": str(wait_s)})  # fmt: skip
            counted[key.name, window_s] = (int(now // window_s), count + 1)
        self._counts |= counted
