"""Drafts: the folders in which artifacts are made, one holder at a time.

STORE/drafts/<fingerprint>/            the usual folder; after a kill on this machine the next run goes on in it
STORE/drafts/<fingerprint>.<nonce>/    after a holder of which it is not certain that it has ended, and of objects
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.objects import Damaged
from pipelines.store.lease import Lease
from pipelines.store.remote import Put, Remote, upload
from pipelines.store.snapshots import TEMPORARY, Snapshots

RECENT_S = 120.0


@dataclass(frozen=True)
class Draft:
    """Working directory of an artifact in progress, leased by one run at a time. Survives a kill; gone once
    committed."""

    path: Path
    fingerprint: str
    lease: Lease | None = None
    snapshots: Snapshots | None = None  # where the store is one of objects
    put: Put = upload  # what puts its files then

    @cached_property
    def out(self) -> Path:
        """The folder whose files become the artifact."""
        return self.folder("out")

    def folder(self, name: str) -> Path:
        """A folder of the draft for blocks or checkpoints, created if missing."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def release(self) -> None:
        """Releases the lease, so that another run can continue the draft."""
        if self.snapshots is not None:
            self.snapshots.stop()
        if self.lease is not None:
            self.lease.release()


def publish(folder: Path, path: Path, aside: Path, mark: str) -> bool:
    """Renames a folder to a path. Returns False, and leaves there what is complete, where it has a file `mark`: the
    caller was stalled, and another was quicker.

    A folder there without that file moves to `aside`, and is looked at again: it may have been replaced meanwhile."""
    try:
        if path.is_dir():
            if (path / mark).exists():
                return False
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.rename(aside)
            if (aside / mark).exists():
                aside.rename(path)
                return False
        folder.rename(path)
    except OSError:
        if folder.is_dir() and not (path / mark).exists():
            raise
        return False  # another took the folder over, or has published its own
    return True


def folders(drafts: Path, fingerprint: str) -> list[Path]:
    """The folders of a draft on this machine: that of its holder, and those of holders that were superseded."""
    return sorted(drafts.glob(f"{fingerprint}*"))


def opened(
    drafts: Path, fingerprint: str, lease: Lease, remote: Remote | None, on_message: Callable[[str], object], put: Put
) -> Draft:
    """The draft with its folder, complete; snapshots are taken from then on. After an error the lease is free."""
    try:
        if remote is None:
            return Draft(leased_folder(drafts, fingerprint, lease), fingerprint, lease)
        snapshots = leased_copy(drafts, fingerprint, lease, remote, on_message, put)
    except BaseException:
        with suppress(OSError, ClusterError, UserError):  # the error itself matters more
            lease.release()
        raise
    snapshots.start()
    return Draft(snapshots.folder, fingerprint, lease, snapshots, put)


def leased_folder(drafts: Path, fingerprint: str, lease: Lease) -> Path:
    """The draft's folder. After a holder of which it is not certain that it has ended, it gets another name, so
    that the other, should it go on, writes into a folder of its own."""
    canonical = drafts / fingerprint
    recorded = drafts / lease.previous.get("folder", fingerprint)
    folder = recorded if recorded.is_dir() else next(iter(folders(drafts, fingerprint)), canonical)
    if not lease.previous_ended and folder.is_dir():
        renamed = folder.with_name(f"{fingerprint}.{lease.nonce[:8]}")
        lease.update(folder=renamed.name)
        folder = folder.rename(renamed)
        _detach(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _detach(folder: Path) -> None:
    """Gives the files that the last holder may have open a copy of their own, so that it writes into no file of ours.

    Those are the ones that were written shortly before it was last heard of; an unfinished one is deleted."""
    files = [(file, file.stat().st_mtime) for file in folder.rglob("*") if file.is_file()]
    newest = max((modified for _, modified in files), default=0.0)
    for file, modified in files:
        if TEMPORARY.fullmatch(file.name):
            file.unlink()
        elif modified > newest - RECENT_S:
            copy = file.with_name(f".{uuid.uuid4().hex}")
            shutil.copy2(file, copy)
            copy.replace(file)


def leased_copy(
    drafts: Path, fingerprint: str, lease: Lease, remote: Remote, on_message: Callable[[str], object], put: Put
) -> Snapshots:
    """The draft's folder on this machine: the last holder's if that was here and has ended, else its snapshot.

    A snapshot that is damaged is reported, and the draft begins again with an empty folder."""
    key = f"drafts/{fingerprint}"
    last = drafts / lease.previous.get("folder", "absent")
    if lease.previous_ended and last.is_dir():
        return Snapshots(last, remote.objects, lease, key, on_message, put)
    folder = drafts / f"{fingerprint}.{lease.nonce[:8]}"
    snapshots = Snapshots(folder, remote.objects, lease, key, on_message, put)
    snapshot = lease.previous.get("snapshot")
    if snapshot:
        try:
            snapshots.pull(snapshot)
            on_message(f"draft {fingerprint}: continues from its snapshot {remote.objects.url_of(snapshot)}")
        except Damaged as error:
            on_message(f"draft {fingerprint}: begins again, for its snapshot cannot be read: {error}")
            snapshot = None
    folder.mkdir(parents=True, exist_ok=True)
    lease.update(folder=folder.name, snapshot=snapshot)
    return snapshots
