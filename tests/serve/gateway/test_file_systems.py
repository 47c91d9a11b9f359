"""Where SQLite may be: on a disk of this machine, and on no network's file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import UserError
from serve.gateway import file_systems
from serve.gateway.database import Sqlite, open_database
from serve.gateway.file_systems import shared_file_system

MOUNTS = r"""22 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /home rw,relatime shared:9 master:2 - nfs4 server:/home rw,vers=4.2
31 30 0:27 / /home/ann/fast rw - xfs /dev/nvme0n1 rw
32 22 0:28 / /mnt/a\040b rw - cifs //server/share rw
33 22 0:29 / /mnt/bucket rw - fuse.s3fs s3fs rw
34 22 0:30 / /container rw - fuse.fuse-overlayfs fuse-overlayfs rw
35 22 0:31 / /over rw - nfs server:/x rw
36 35 0:32 / /over rw - tmpfs tmpfs rw
37 22 0:33 / /scratch rw - lustre mds@tcp:/scratch rw
"""


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("/var/lib/rayse/feedback.sqlite", None),
        ("/home/ann/store/feedback.sqlite", "nfs4"),
        ("/home/ann/fast/feedback.sqlite", None),
        ("/homes/feedback.sqlite", None),
        ("/mnt/a b/feedback.sqlite", "cifs"),
        ("/mnt/bucket/feedback.sqlite", "fuse.s3fs"),
        ("/container/feedback.sqlite", None),
        ("/over/feedback.sqlite", None),  # the later mount is on top
        ("/scratch/feedback.sqlite", "lustre"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(file: str, kind: str | None) -> None:
    assert shared_file_system(Path(file), MOUNTS) == kind


def test_a_network_file_system_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "store"
    (tmp_path / "link").symlink_to(folder)
    (mounts := tmp_path / "mounts").write_text(f"{MOUNTS}40 22 0:40 / {folder} rw - nfs4 server:/store rw\n")
    Sqlite(tmp_path / "local.sqlite").close()
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)
    for file in (folder / "feedback.sqlite", tmp_path / "link" / "feedback.sqlite"):
        with pytest.raises(UserError, match=r"network's file system \(nfs4\).* expected --feedback postgresql://.*or"):
            open_database(file, None)
    assert not folder.exists()
    database = Sqlite(tmp_path / "local.sqlite")
    assert database.execute("PRAGMA busy_timeout") == [{"timeout": 10_000}]  # of processes that share the file
    database.close()
    Sqlite().close()
