"""Ends what a local Ray left behind when the process that started it dies, even by kill -9.

Ray ties its daemons to the driver, but its node agents outlive the raylet by up to a minute, and what a worker
started may stay for ever. So Session runs this file beside its local Ray, as a program of its own:

    driver ──(pipe, closed by the kernel at death)──► reaper ── SIGKILL ──► every process with RAYSE_SESSION=<mark>

The mark is in the environment Ray was started with, so all its children inherit it. Those that give themselves a
title (ray::DashboardAgent) overwrite the memory their environment is read from: they are known by that title and the
files they hold open in the session's folder. Only the standard library is
imported, and the program is started with -I -S: 8 MB and 20 ms.
"""

import os
import select
import shutil
import signal
import sys
import time

VARIABLE = "RAYSE_SESSION"


def marked(mark: str, folder: str = "") -> list[int]:
    """Process ids, other than ours, whose environment holds the mark, or titled ray:: with a file open in `folder`.

    Processes of other users cannot be read."""
    entry = f"{VARIABLE}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = file.read()
            titled = folder and is_titled_inside(name, folder)
        except OSError:  # it ended, or it is another user's
            continue
        if entry in environment.split(b"\0") or titled:
            found.append(int(name))
    return found


def is_titled_inside(process: str, folder: str) -> bool:
    """Whether a process calls itself ray::… and holds a file of this folder open."""
    with open(f"/proc/{process}/cmdline", "rb") as file:
        if not file.read().startswith(b"ray::"):
            return False
    for number in os.listdir(f"/proc/{process}/fd"):
        try:
            if os.readlink(f"/proc/{process}/fd/{number}").startswith(f"{folder}/"):
                return True
        except FileNotFoundError:  # closed meanwhile
            continue
    return False


def wait_for_end(parent: int) -> None:
    """Returns when the driver closed its end of the pipe on our standard input, or died."""
    while os.getppid() == parent:  # a forked child of the driver may hold the pipe open after its death
        ready, _, _ = select.select([0], [], [], 1.0)
        if ready and not os.read(0, 1):
            return


def kill_all(mark: str, seconds: float = 10.0, folder: str = "") -> list[int]:
    """Kills the marked processes, also those born meanwhile. Returns the ids of any still there at the end."""
    end = time.monotonic() + seconds
    while (left := marked(mark, folder)) and time.monotonic() < end:
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    return left


def main(mark: str, parent: int, folder: str, logs: str) -> int:
    """Waits, kills, keeps Ray's logs in `logs` (unless it is empty) and removes Ray's temporary folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait_for_end(parent)
    left = kill_all(mark, folder=folder)
    if logs:
        keep_logs(folder, logs)
    shutil.rmtree(folder, ignore_errors=True)
    return 1 if left else 0


def keep_logs(folder: str, logs: str) -> None:
    """Moves the session's logs to where Session linked to them. A full disk must not keep the rest from happening."""
    latest = os.path.join(folder, "session_latest", "logs")
    try:
        if os.path.islink(logs):
            os.unlink(logs)
        shutil.move(os.path.realpath(latest), logs)
    except OSError as error:
        print(f"{logs}: Ray's logs could not be kept ({error})", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
