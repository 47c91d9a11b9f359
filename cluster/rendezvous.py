"""How the processes of one group find each other, and how losing one looks to the others."""

from __future__ import annotations

import socket

LOST_PEER = (  # what gloo, NCCL and TCPStore say when the other side is gone
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
    """Whether an exception of a worker only says that another worker is gone. Its own death is then the news."""
    module = type(error).__module__
    if module.startswith("torch") and type(error).__name__.startswith("Dist"):
        return True
    return isinstance(error, (RuntimeError, ConnectionError)) and any(text in str(error) for text in LOST_PEER)


def group_environment(*, loopback: bool) -> dict[str, str]:
    """Variables for gloo and NCCL. On loopback gloo neither asks a name server for our host nor listens outside."""
    if not loopback:
        return {}
    interface = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    return {"GLOO_SOCKET_IFNAME": interface, "TP_SOCKET_IFNAME": interface}


def reserve_port(host: str) -> socket.socket:
    """A socket bound to a free port of this address. Keep it: while it is there nobody else is given the port, but who
    sets SO_REUSEADDR, as torch's store does, may listen there. Or listen on it yourself."""
    reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((host, 0))
    return reserved
