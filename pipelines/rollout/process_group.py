"""The process group of the learners."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def join_process_group() -> torch.device:
    """Joins the process group that the environment describes (as under torchrun); returns this rank's device."""
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl")
    return device
