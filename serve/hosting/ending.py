"""The end of a server's application: requests in flight end, and nothing waits for a replica that has none.

delete ──► replicas that are loading: killed    that do not answer: killed after HUNG_S    others: drained
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cluster.errors import ClusterError
from cluster.session import log_location
from serve.hosting import serve_private
from serve.settings import Settings

END_S = 30.0  # beside the time of requests, until Ray has ended the replicas
QUIET_END_S = 5.0  # an end without requests takes less
HUNG_S = 30.0  # a replica that answers nothing in that time ends no request either: so Ray Serve has it, too


def end(settings: Settings, log: Callable[[str], object]) -> None:
    """Removes the application, once the requests in flight have ended or limits.longest_drain_s are over. Raises
    ClusterError where it does not end."""
    import ray
    import ray.serve

    drain_s, start = settings.limits.longest_drain_s, time.monotonic()
    pings = {actor: actor.check_health.remote() for actor in serve_private.replica_actors(settings.app, "RUNNING")}
    loading = serve_private.replica_actors(settings.app, "STARTING")
    ray.serve.delete(settings.app, _blocking=False)  # which would wait for 60 s at most
    for actor in loading:  # whose process may be busy until the model is loaded; no request has come to it
        ray.kill(actor)
    was_said = False
    while settings.app in ray.serve.status().applications:
        waited_s = time.monotonic() - start
        if waited_s > drain_s + END_S:
            raise ClusterError(f"the application {settings.app} did not end within {waited_s:.0f} s. Logs: "
                               f"{log_location()}")  # fmt: skip
        if waited_s > QUIET_END_S and not was_said:
            log(f"requests in flight get {drain_s:g} s to end; Ctrl-C or SIGTERM once more ends the server at once")
            was_said = True
        if waited_s > HUNG_S and pings:
            for actor in (actor for actor, ping in pings.items() if _hangs(ping)):
                log(f"a replica has answered nothing for {HUNG_S:g} s, and is ended")
                ray.kill(actor)
            pings = {}
        time.sleep(serve_private.POLL_S)


def _hangs(ping: Any) -> bool:
    """Whether a replica has not answered a call until now; Ray gives up on the connection before it does on the
    process."""
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError

    try:
        ray.get(ping, timeout=0)
    except (GetTimeoutError, ActorUnavailableError):
        return True
    except RayError:  # it is dead, or says that its engine is
        return False
    return False
