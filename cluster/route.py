"""Checks that a cluster can be reached, and explains why it cannot. Used by the session and by jobs."""

from __future__ import annotations

import socket

from cluster import token
from cluster.errors import ClusterError

CONNECT_S = 10.0


def check(address: str, host: str, port: int, remedy: str) -> None:
    """Raises ClusterError within 10 s unless something listens there: Ray's clients would retry for minutes."""
    try:
        socket.create_connection((host.strip("[]"), port), timeout=CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"{address}: no route to the cluster ({error.strerror or error}; waited at most {CONNECT_S:.0f} s). "
            f"Expected a Ray head that listens there: is it up (`ray status` on the head), is the port open to this "
            f"machine? {remedy}"
        ) from error


def explain(error: BaseException) -> str:
    """What an exception of a Ray client means, and the remedy."""
    text = " ".join(str(error).split())[:500]
    if "ersion mismatch" in text:
        return (
            f"{text}. Expected the same Ray and the same Python on both sides: install the cluster's versions here, "
            f"or send the recipe as a job with `rayse submit`"
        )
    if "uthenticat" in text or "auth token" in text.lower():
        return (
            f"the cluster refused this machine's token ({text}). Expected the cluster's token in {token.location()}: "
            f"copy ~/.ray/auth_token of the head there, readable by you alone"
        )
    return (
        f"could not be joined ({type(error).__name__}: {text}). Expected a Ray cluster with this machine as a node; "
        f"from any other machine send the recipe as a job: `rayse submit --address http://HEAD:8265`"
    )
