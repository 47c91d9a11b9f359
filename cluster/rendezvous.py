"""How the processes of a group find each other, and how to recognise the loss of one in the errors of the others."""

from __future__ import annotations

import os
import socket

import psutil

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


def group_environment(address: str) -> dict[str, str]:
    """Variables by which gloo, NCCL and TensorPipe use the network interface that has this node's address.

    By themselves they ask a name server for the host's name, or take the first interface, which may be one that other
    nodes do not reach. On a local Ray the address is that of loopback, and no outside port listens. Variables that are
    set already stay; empty where no interface has the address."""
    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if address in [each.address.partition("%")[0] for each in addresses]
    ]
    if not names:
        return {}
    name = names[0]
    variables = {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}", "TP_SOCKET_IFNAME": name}  # =: not eth10
    return {variable: os.environ.get(variable, value) for variable, value in variables.items()}


def reserve_port(host: str, port: int = 0) -> socket.socket:
    """A socket bound to a port of this address (0: a free one), which reserves the port while the socket exists.

    The caller may listen on it, as may any process that sets SO_REUSEADDR (torch's TCPStore does)."""
    reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    # As the servers that will listen there: connections that were closed may linger.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((host, port))
    return reserved
