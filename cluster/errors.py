"""Failures of the cluster or the machine, as opposed to mistakes in what the user wrote."""

from __future__ import annotations

import errno
import pickle
import traceback
from pathlib import Path


class ClusterError(Exception):
    """The cluster or the machine failed: no route, a port in use, a full disk, a worker that does not reply.

    The message says where it failed, what happened, what was expected and what to do. The command line exits with 3.
    """


class MemberLost(ClusterError):
    """A member of a gang died or missed a deadline. A caller that has kept enough state may start a new gang."""


class DiskFull(ClusterError):
    """A file could not be written for want of room: which one, and how much was free for it."""


def disk_full(error: BaseException) -> bool:
    """Whether an error means that a disk or a quota is used up. (safetensors says it only in its message.)"""
    has_code = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return has_code or "No space left on device" in str(error)


def picklable(error: Exception) -> Exception:
    """The exception itself if it can be pickled, else a RuntimeError with its traceback as text.

    From an exception that cannot be pickled Ray would make one that names neither its type nor its origin."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def portable(error: Exception, folder: Path) -> Exception:
    """The exception as the driver should get it: a full disk is a ClusterError, and it can be pickled.

    For one that cannot, Ray would report the worker as dead."""
    if disk_full(error):
        return ClusterError(
            f"{folder}: the disk is full ({str(error)[:200]}); the last complete checkpoint is intact. "
            f"Make room and run again"
        )
    return picklable(error)
