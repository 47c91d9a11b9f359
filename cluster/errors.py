"""What went wrong with the machines rather than with what the user wrote."""

import pickle
import traceback


class ClusterError(Exception):
    """The cluster or the machine failed: no route, a port in use, a full disk, a worker that does not answer.

    The message says where, what was found, what was expected and what to do. The command line exits with 3.
    """


class MemberLost(ClusterError):
    """A member of a gang died or did not answer in time. Who has kept enough to go on may make a new gang."""


def travelling(error: Exception) -> Exception:
    """The exception itself where it can go to another process by pickle, else a RuntimeError that says all of it: Ray
    would name neither what was raised nor by whom."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
