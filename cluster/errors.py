"""What went wrong with the machines rather than with what the user wrote."""

from __future__ import annotations

import errno
import pickle
import traceback


class ClusterError(Exception):
    """The cluster or the machine failed: no route, a port in use, a full disk, a worker that does not answer.

    The message says where, what was found, what was expected and what to do. The command line exits with 3.
    """


class MemberLost(ClusterError):
    """A member of a gang died or did not answer in time. Who has kept enough to go on may make a new gang."""


def disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is used up. (safetensors says so in words alone.)"""
    by_number = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return by_number or "No space left on device" in str(error)


def travelling(error: Exception) -> Exception:
    """The exception itself where it can go to another process by pickle, else a RuntimeError that says all of it: Ray
    would name neither what was raised nor by whom."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
