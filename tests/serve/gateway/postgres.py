"""A real PostgreSQL server for tests, on a Unix socket in a private folder; None where this machine has none."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def server() -> Iterator[str | None]:
    """Starts a server, yields the URL of its database, and stops it. As root it runs as the user postgres: PostgreSQL
    refuses to run as root."""
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if shutil.which("initdb") is None or user not in [entry.pw_name for entry in pwd.getpwall()]:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    shutil.chown(folder, user)

    def run(*command: str) -> None:
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    data, options = str(folder / "data"), f"-c listen_addresses='' -c fsync=off -k {folder}"
    try:
        run("initdb", "-D", data, "-A", "trust", "-U", "rayse", "--no-sync")
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://rayse@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
