"""Kills what a local Ray leaves behind when the process that started it dies, even by kill -9.

Ray ties its daemons to the driver, but its node agents outlive the raylet by up to a minute, and a subprocess of a
worker may stay forever. So Session runs this file beside its local Ray, as a program of its own:

    driver ──(pipe, closed by the kernel at death)──► reaper ── SIGKILL ──► every process with RAYSE_SESSION=<mark>

The mark is in the environment that Ray is started with, so all its children inherit it. Processes that set a
title (ray::DashboardAgent) overwrite the memory that their environment is read from: they are recognised by the title
and by open files in the session's folder. Only the standard library is imported, and the program is started with
-I -S: it takes 8 MB and starts in 20 ms.
"""

import os
import select
import shutil
import signal
import sys
import time

VARIABLE = "RAYSE_SESSION"


def marked(mark: str, folder: str = "") -> list[int]:
    """Ids of other processes whose environment holds the mark, or titled ray:: with a file open in `folder`.

    Processes of other users cannot be read and are left out."""
    entry = f"{VARIABLE}={mark}".encode()
    pids = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = file.read()
            titled = folder and is_titled_inside(name, folder)
        except OSError:  # it has ended, or belongs to another user
            continue
        if entry in environment.split(b"\0") or titled:
            pids.append(int(name))
    return pids


def is_titled_inside(pid: str, folder: str) -> bool:
    """Whether a process is titled ray::… and has a file of this folder open."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if not file.read().startswith(b"ray::"):
            return False
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith(f"{folder}/"):
                return True
        except FileNotFoundError:  # closed meanwhile
            continue
    return False


def wait_for_end(parent: int) -> None:
    """Returns when the driver has closed its end of the pipe on standard input, or has died."""
    while os.getppid() == parent:  # a forked child of the driver may hold the pipe open after the driver's death
        ready, _, _ = select.select([0], [], [], 1.0)
        if ready and not os.read(0, 1):
            return


def kill_all(mark: str, seconds: float = 10.0, folder: str = "") -> list[int]:
    """Kills the marked processes, new ones included, for at most so long. Returns the ids of those that remain."""
    end = time.monotonic() + seconds
    remaining = marked(mark, folder)
    while remaining and time.monotonic() < end:
        for pid in remaining:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
        remaining = marked(mark, folder)
    return remaining


def main(mark: str, parent: int, folder: str, logs: str) -> int:
    """Waits for the driver's end, kills, moves Ray's logs to `logs` (unless empty) and deletes Ray's temporary folder.

    Returns the exit code: 1 if a marked process could not be killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait_for_end(parent)
    remaining = kill_all(mark, folder=folder)
    if logs:
        keep_logs(folder, logs)
    shutil.rmtree(folder, ignore_errors=True)
    return 1 if remaining else 0


def keep_logs(folder: str, logs: str) -> None:
    """Replaces the session's link to its logs by the logs themselves. A full disk must not stop the rest."""
    latest = os.path.join(folder, "session_latest", "logs")
    try:
        if os.path.islink(logs):
            os.unlink(logs)
        shutil.move(os.path.realpath(latest), logs)
    except OSError as error:
        print(f"{logs}: Ray's logs could not be kept ({error})", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
