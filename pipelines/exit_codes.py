"""Exit codes of the command line: 2 the input is wrong, 3 the cluster or machine failed, 130 interrupted."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.termination import INTERRUPTED

USER_ERROR, CLUSTER_ERROR = 2, 3
UNUSABLE_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)  # of files that the user or a recipe names


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns errors that the user can fix into one line on stderr and an exit code; others keep their traceback."""
    from cluster.errors import ClusterError
    from pipelines.errors import UserError

    try:
        yield
    except UserError as error:
        _fail(error, USER_ERROR)
    except ClusterError as error:
        _fail(error, CLUSTER_ERROR)
    except OSError as error:
        from cluster.errors import disk_full

        if error.filename is not None and error.errno in UNUSABLE_NAMES:
            _fail(
                UserError(f"{error.filename}: {error.strerror}; expected a file or folder that can be used"), USER_ERROR
            )
        if not disk_full(error):
            raise
        _fail(ClusterError(f"{error.filename or 'a disk'}: no space left on the device; free some"), CLUSTER_ERROR)
    except KeyboardInterrupt:
        print("interrupted; finished stages are kept, and the same command resumes", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _fail(error: Exception, code: int) -> None:
    from pipelines.errors import printable

    print(f"error: {printable(str(error))}", file=sys.stderr)
    sys.exit(code)
