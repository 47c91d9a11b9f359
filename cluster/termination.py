"""SIGTERM ends a program as Ctrl-C does: with an exception in the main thread, so that it releases what it holds.

    with sigterm_interrupts():
        ...                     SIGTERM raises Terminated, a KeyboardInterrupt, wherever the main thread is

`ray job stop`, the end of a pod, `timeout` and `kill PID` all send SIGTERM. Left out on purpose: SIGINT, whose handler
is Python's, and SIGHUP, whose default (the process ends at once) costs no finished work.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # exit code of a program that Ctrl-C or SIGTERM ended
REPEAT_S = 1.0  # `timeout` sends SIGTERM to the process and to its group: within this time it is the same request
CHECK_S = 1.0  # how often it is checked whether the exception was dropped


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived: the program must end, even where Ctrl-C ends less (in `rayse chat`, a reply)."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raises Terminated in the main thread at the first SIGTERM; a second one ends the process at once, with code 130.

    The exception is raised again if it was dropped: in a destructor, a callback from C or a broad `except` of a
    library. The quick end skips all cleaning up: the session's reaper ends a local Ray, and drafts are safe after any
    kill. Does nothing outside of the main thread, where Python allows no signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    main_thread = threading.get_ident()
    first_s: float | None = None
    raise_again, left = False, threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_s, raise_again
        now_s = time.monotonic()
        if first_s is None:
            first_s = now_s
            threading.Thread(target=watch, daemon=True).start()
        elif raise_again:
            raise_again = False
        elif now_s - first_s > REPEAT_S:
            os.write(2, b"a second SIGTERM: ended without cleaning up; the same command resumes\n")
            os._exit(INTERRUPTED)
        else:
            return
        raise Terminated("SIGTERM")

    def watch() -> None:
        nonlocal raise_again
        while not left.wait(CHECK_S):
            if not _is_unwinding(main_thread):
                raise_again = True
                signal.pthread_kill(main_thread, signal.SIGTERM)  # to that thread, so that it wakes from a system call

    before = signal.signal(signal.SIGTERM, handle)
    try:
        with _dropped_quietly():
            yield
    finally:
        left.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)  # None: set by native code


def _is_unwinding(thread: int) -> bool:
    """Whether a thread is in an `except`, `finally` or `__exit__` that a KeyboardInterrupt has reached.

    Not only Terminated: Ray raises a new KeyboardInterrupt in its place."""
    entry = sys._current_exceptions().get(thread)
    error: BaseException | None = entry[1] if isinstance(entry, tuple) else entry  # a triple before Python 3.12
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


@contextmanager
def _dropped_quietly() -> Iterator[None]:
    """Keeps Python from printing a traceback where Terminated is dropped, since it is raised again."""
    hook = sys.unraisablehook

    def skip_terminated(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, Terminated):
            hook(dropped)

    sys.unraisablehook = skip_terminated
    try:
        yield
    finally:
        sys.unraisablehook = hook
