"""How the processes of a group find each other, and how to recognise the loss of one in the errors of the others."""

from __future__ import annotations

import socket

LOST_PEER = (  # messages of gloo, NCCL and TCPStore when the other side has gone
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "gloo/transport",
    "NCCL error",
    "ncclRemoteError",
    "NCCL communicator was aborted",
    "recvValue failed",
    "sendBytes failed",
    "Failed to recv",
)


def lost_peer(error: BaseException) -> bool:
    """Whether a worker's exception only means that another worker has gone, so that the cause is elsewhere."""
    module = type(error).__module__
    if module.startswith("torch") and type(error).__name__.startswith("Dist"):
        return True
    return isinstance(error, (RuntimeError, ConnectionError)) and any(text in str(error) for text in LOST_PEER)


def group_environment(*, loopback: bool) -> dict[str, str]:
    """Variables that keep gloo on the loopback interface: no name server is queried, no outside port listens.

    Empty if `loopback` is False: then gloo and NCCL choose the interface."""
    if not loopback:
        return {}
    interface = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    return {"GLOO_SOCKET_IFNAME": interface, "TP_SOCKET_IFNAME": interface}


def reserve_port(host: str, port: int = 0) -> socket.socket:
    """A socket bound to a port of this address (0: a free one), which reserves the port while the socket exists.

    The caller may listen on it, as may any process that sets SO_REUSEADDR (torch's TCPStore does)."""
    reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    # As the servers that will listen there: connections that were closed may linger.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((host, port))
    return reserved
