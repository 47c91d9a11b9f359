"""SIGTERM ends a program as Ctrl-C does: with an exception in the main thread, so that it releases what it holds.

    with sigterm_interrupts():
        ...                     SIGTERM raises Terminated, a KeyboardInterrupt, wherever the main thread is

`ray job stop`, the end of a pod, `timeout` and `kill PID` all send SIGTERM. Left out on purpose: SIGINT, whose handler
is Python's, and SIGHUP, whose default (the process ends at once) costs no finished work.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # exit code of a program that Ctrl-C or SIGTERM ended
REPEAT_S = 1.0  # `timeout` sends SIGTERM to the process and to its group: within this time it is the same request

AGAIN_S = 0.05  # from an exception that was dropped to the next


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived: the program must end, even where Ctrl-C ends less (in `rayse chat`, a reply)."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raises Terminated in the main thread at the first SIGTERM; a second one ends the process at once, with code 130.

    Where a library drops the exception it is raised again. The quick end skips all cleaning up: the session's reaper
    ends a local Ray, and drafts are safe after any kill. Does nothing outside of the main thread, where Python allows
    no signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    main_thread = threading.get_ident()
    first_s: float | None = None
    active, dropped = True, False
    raised: weakref.ref[Terminated] | None = None

    def interrupt() -> Terminated:
        nonlocal raised
        error = Terminated("SIGTERM")
        raised = weakref.ref(error, raise_again)
        return error

    def raise_again(_: weakref.ref[Terminated]) -> None:
        # Nobody holds the exception any more, yet the program goes on: it was raised inside a destructor, a callback
        # from C or a broad `except` of a library. Here it would be dropped too, so it is raised a moment later.
        nonlocal dropped
        dropped = True
        timer = threading.Timer(AGAIN_S, resend)
        timer.daemon = True
        timer.start()

    def resend() -> None:
        if active:
            signal.pthread_kill(main_thread, signal.SIGTERM)  # to that thread, so that it wakes from a system call

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_s, dropped
        now_s = time.monotonic()
        if first_s is None or dropped:
            first_s, dropped = first_s or now_s, False
            raise interrupt()
        if now_s - first_s > REPEAT_S:
            os.write(2, b"a second SIGTERM: ended without cleaning up; the same command resumes\n")
            os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        active = False
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)  # None: set by native code
