"""The readiness probe: real requests through the front, until replies come at a steady pace.

Only then is a server reported as ready, so that its first user waits no longer than its tenth.
"""

from __future__ import annotations

import json
import math
import time
import urllib.request
from http.client import HTTPException

from cluster.errors import ClusterError
from serve.gateway import asgi
from serve.gateway.routes import CHAT
from serve.settings import PROBE_PROMPT, PROBE_TOKENS

TIMEOUT_S = 60.0  # for a reply
MAX_PROBES = 8  # streamed replies; on a quiet machine the third is as fast as the second
STEADY_RATIO = 1.5  # how much slower than the fastest so far a reply of a steady server may be
MIN_REPLY_TOKENS = 8


def wait_until_steady(url: str, key: str | None, logs: str) -> None:
    """Requests one whole reply, then streamed ones until one takes at most STEADY_RATIO × the fastest before it; after
    MAX_PROBES of them on a machine that stays restless.

    url: of the server; logs: where its logs are, for the error. Raises ClusterError where no reply comes."""
    _probe(url, key, logs, stream=False)
    fastest_s = math.inf
    for _ in range(MAX_PROBES):
        start = time.monotonic()
        _probe(url, key, logs, stream=True)
        reply_s = time.monotonic() - start
        if fastest_s < math.inf and reply_s <= STEADY_RATIO * fastest_s:
            return
        fastest_s = min(fastest_s, reply_s)


def _probe(url: str, key: str | None, logs: str, *, stream: bool) -> None:
    """Requests a reply until a complete one comes: the front learns of a replica a moment after that is up."""
    headers = {"content-type": "application/json"}
    headers |= {"authorization": f"Bearer {key}"} if key else {}
    body = {
        "messages": [{"role": "user", "content": PROBE_PROMPT}],
        "max_tokens": PROBE_TOKENS,
        "min_tokens": MIN_REPLY_TOKENS,
        "stream": stream,
    }
    request = urllib.request.Request(f"{url}{CHAT}", json.dumps(body).encode(), headers)
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            with asgi.open_local(request, TIMEOUT_S) as response:
                reply = response.read()
            if asgi.is_complete_reply(reply, stream=stream):
                return
            problem = f"got {reply[-200:]!r}"
        except (OSError, HTTPException, ValueError) as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise ClusterError(f"{url}: the model is up, but no reply comes through the front ({problem}). Logs: "
                               f"{logs}")  # fmt: skip
        time.sleep(0.2)
