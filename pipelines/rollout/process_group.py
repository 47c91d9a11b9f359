"""The process group of the learners."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=30)  # torch's, of a rendezvous


def join_process_group() -> torch.device:
    """Joins the process group that the environment describes (in torchrun's variables); returns this rank's device."""
    group = {"store": _store(), "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    if not torch.cuda.is_available():
        dist.init_process_group("gloo", **group)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl", **group)
    return device


def _store() -> dist.TCPStore:
    """The store of the rendezvous, which rank 0 serves at MASTER_ADDR only: by itself torch listens on every interface
    of its node."""
    address, port, world = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ["WORLD_SIZE"])
    if int(os.environ["RANK"]) != 0:
        return dist.TCPStore(address, port, world, False, TIMEOUT)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family).detach()
    return dist.TCPStore(address, port, world, True, TIMEOUT, wait_for_workers=False, master_listen_fd=listener)
