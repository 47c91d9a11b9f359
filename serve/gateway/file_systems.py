"""Which file system holds a file: SQLite's write-ahead log needs memory that all its processes share, so one machine's.

On a network's file system two machines would each have an index of the log of their own, and damage the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.errors import UserError

SHARED = ("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "lustre", "ceph", "beegfs", "gpfs", "afs", "glusterfs")
LOCAL_FUSE = ("fuse.fuse-overlayfs",)  # the root of a container without root
MOUNTS = Path("/proc/self/mountinfo")  # Linux's
ESCAPE = re.compile(r"\\([0-7]{3})")


def shared_file_system(file: Path, mounts: str) -> str | None:
    """The type of a network's file system under a file that may not be there yet; None for a local one.

    mounts: as MOUNTS has them."""
    place, found, kind = file.absolute().resolve(), Path(), ""
    for line in mounts.splitlines():
        fields, dash, described = line.partition(" - ")
        if not dash:
            continue
        mount = Path(ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4]))
        if place.is_relative_to(mount) and len(mount.parts) >= len(found.parts):  # of two, the later one is on top
            found, kind = mount, described.split(" ")[0]
    is_shared = kind in SHARED or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)
    return kind if is_shared else None


def check_is_local(file: Path) -> None:
    """Raises UserError where SQLite cannot be safe in this file. Other systems than Linux say nothing of theirs."""
    kind = shared_file_system(file, MOUNTS.read_text(encoding="utf-8", errors="replace")) if MOUNTS.exists() else None
    if kind is not None:
        raise UserError(
            f"{file}: is on a network's file system ({kind}), where SQLite would damage the file as soon as a second "
            f"machine opens it; expected --feedback postgresql://USER@HOST:PORT/DATABASE, or --feedback with a file on "
            f"a disk of this machine, such as /var/lib/rayse/feedback.sqlite (a file that is there may be copied to it "
            f"while no server runs). `rayse serve --feedback none` stores none"
        )
