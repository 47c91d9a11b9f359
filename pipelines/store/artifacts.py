"""Artifacts, drafts and the store that holds them.

    STORE/artifacts/<kind>/<fingerprint>/   files + manifest.json: complete, or absent
    STORE/drafts/<fingerprint>/             the one mutable place: leased, resumable; out/ becomes the artifact
    STORE/leases/<fingerprint>.json         who works on the draft (pipelines/store/lease.py)
    STORE/runs/<time>.json                  the record of one run (pipelines/store/runs.py)
    STORE/aside/                            damaged artifacts and those replaced by --force: never deleted
    STORE/cache/                            digests of files by (path, size, mtime), and whatever else can be rebuilt

An artifact is written in its draft and renamed to its path with its manifest, so a kill at any moment leaves either
all of it or none. A store is a folder that all nodes share, or objects (s3://…, gs://…; pipelines/store/remote.py);
then `root` is a scratch folder of this machine, with the drafts, the cache, and copies of artifacts that are used here.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from io import RawIOBase
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, disk_full
from pipelines.errors import UserError
from pipelines.objects import is_url
from pipelines.store import manifest as manifests
from pipelines.store.digests import FileDigests, digest_value
from pipelines.store.drafts import Draft, folders, opened, publish
from pipelines.store.facts import Facts
from pipelines.store.files import locked, read, read_json, remove_abandoned, share, sync, write_atomically, write_json
from pipelines.store.lease import Lease, Owner
from pipelines.store.manifest import FileEntry, Manifest
from pipelines.store.remote import SCRATCH, Put, Remote, scratch_folder, upload
from pipelines.store.slots import FileSlot, ObjectSlot

__all__ = ["Artifact", "Draft", "FileEntry", "Manifest", "Store", "fingerprint", "read_json", "write_atomically",
           "write_json"]  # fmt: skip

NO_SPACE = ("store {}: no space left on the device; free some or choose another --store, then run the same command: "
            "finished stages are kept")  # fmt: skip

FINGERPRINT = re.compile("[0-9a-f]{16}")  # the leases of sweeps have other names


@dataclass(frozen=True)
class Artifact:
    """An immutable directory: manifest.json and the files it lists. `path` is its place on this machine."""

    path: Path
    manifest: Manifest
    digests: FileDigests
    store: Store | None = None
    text: bytes = b""  # of the manifest, where the store is one of objects

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def facts(self) -> Facts:
        return self.manifest.facts

    @property
    def _remote(self) -> Remote | None:
        return self.store.remote if self.store is not None else None

    @property
    def location(self) -> str:
        """Where the store has it: a folder, or a URL."""
        if self._remote is None:
            return str(self.path)
        return self._remote.objects.url_of(f"artifacts/{self.kind}/{self.fingerprint}")

    def local(self) -> Path:
        """The directory on this machine, complete: from objects it is brought here, verified, then renamed, unless an
        undamaged copy is here already. In a folder, `Store.find` verified it."""
        if self._remote is not None and not self._is_here():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._bringing():
                if not self._is_here():  # another process has not brought it meanwhile
                    self._remote.fetch(self.manifest, self.text, self.path)
        return self.path

    def _is_here(self) -> bool:
        return read(self.path / manifests.NAME) == self.text and self._local_damage() is None

    def _bringing(self) -> AbstractContextManager[None]:
        """While one process of this machine brings files, the others wait: none replaces what another reads."""
        return locked(self.path.parents[2] / "cache" / "locks" / f"{self.kind}-{self.fingerprint}")

    def file(self, name: str) -> Path | None:
        """One of its files, on this machine; None if it has no such file. Others are not brought here."""
        if self._remote is None or read(self.path / manifests.NAME) == self.text:
            return self.path / name if (self.path / name).is_file() else None
        if name not in self.manifest.files:
            return None
        folder = self.path.parents[2] / "cache" / "files" / self.fingerprint / self.manifest.files[name].xxh3_128
        if not (folder / name).is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with self._bringing():
                if not (folder / name).is_file():
                    self._remote.fetch(self.manifest, self.text, folder, [name])
        return folder / name

    def opened(self, name: str) -> Path | RawIOBase:
        """One of its files, to read parts of: on this machine, or in the store, where its hash is not compared."""
        if self._remote is None or read(self.path / manifests.NAME) == self.text:
            return self.path / name
        return self._remote.open(self.manifest, name)

    def parent(self, kind: str) -> Artifact | None:
        """The parent artifact under this key of the manifest's `parents`; None if absent from the store or damaged."""
        fingerprint = self.manifest.parents.get(kind)
        if fingerprint is None:
            return None
        store = self.store or Store(self.path.parents[2])  # STORE/artifacts/<kind>/<fingerprint>
        return store.find(kind, fingerprint)

    def damage(self) -> str | None:
        """The first problem with the files where the store has them, or None.

        Hashes are cached by path, size and mtime; of objects only the sizes are compared."""
        return self._remote.damage(self.manifest) if self._remote is not None else self._local_damage()

    def _local_damage(self) -> str | None:
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                return f"{file}: missing"
            if entry.bytes < 0:
                return f"{file}: not readable as a manifest"
            if file.stat().st_size != entry.bytes:
                return f"{file}: {file.stat().st_size:,} bytes, the manifest says {entry.bytes:,}"
            if self.digests.of(file) != entry.xxh3_128:
                return f"{file}: its bytes do not match the manifest's hash"
        return None


class Store:
    """Artifacts, drafts and records, in a folder that every node of the cluster can read and write, or in objects.

    location: the folder, s3://bucket/prefix or gs://bucket/prefix."""

    def __init__(self, location: str | Path):
        self.remote = Remote(str(location)) if is_url(location) else None
        if self.remote is None and "://" in str(location):
            raise UserError(f"store {location}: expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
        folder = Path(location) if self.remote is None else scratch_folder(self.remote.objects.url)
        self.root = folder.expanduser().absolute()
        self.location = str(self.root) if self.remote is None else self.remote.objects.url

    def create(self) -> Store:
        """Creates the folders. Raises UserError if the store is not writable, ClusterError if the disk is full."""
        if self.remote is not None:
            self.remote.objects.check()
        try:
            for name in ("artifacts", "drafts", "runs", "aside", "cache"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            for dropped in (self.root / "cache").glob("dropped-*"):  # a kill between drop's rename and its removal
                shutil.rmtree(dropped, ignore_errors=True)
            remove_abandoned(self.root)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            if disk_full(error):
                raise ClusterError(NO_SPACE.format(self.root)) from error
            choice = "a writable folder with --store" if self.remote is None else f"a writable folder with {SCRATCH}"
            raise UserError(f"store {self.root}: cannot be written ({error.strerror}); choose {choice}") from error
        return self

    def exists(self) -> bool:
        """Whether there is a store: its folder, or its bucket. Raises UserError for a bucket that cannot be listed."""
        if self.remote is not None:
            self.remote.objects.check()
            return True
        return (self.root / "artifacts").is_dir()

    @cached_property
    def digests(self) -> FileDigests:
        return FileDigests.of_cache(self.root / "cache")

    # ---- records ----------------------------------------------------------------------------------------------------

    def write(self, name: str, text: str) -> None:
        """Writes a record of the store, such as runs/<time>.json: a reader sees the old text or the new."""
        if self.remote is not None:
            return self.remote.objects.put(name, text.encode())
        return write_atomically(self.root / name, text)

    def read(self, name: str) -> str | None:
        """The text of a record; None if there is none."""
        if self.remote is None:
            data = read(self.root / name)
        else:
            stored = self.remote.objects.get(name)
            data = None if stored is None else stored[0]
        return None if data is None else data.decode()

    def names(self, folder: str) -> list[str]:
        """The names of the JSON records in a folder, sorted: ["runs/<time>.json"]."""
        if self.remote is None:
            names = [f"{folder}/{file.name}" for file in (self.root / folder).glob("*.json")]
        else:
            names = [entry.key for entry in self.remote.objects.list(folder)]
        return sorted(name for name in names if name.count("/") == folder.count("/") + 1 and name.endswith(".json"))

    # ---- artifacts --------------------------------------------------------------------------------------------------

    def find(self, kind: str, fingerprint: str, warn: Callable[[str], object] = print) -> Artifact | None:
        """The complete, undamaged artifact, or None. A damaged one is reported through `warn` and set aside."""
        artifact = self._open(kind, fingerprint)
        if artifact is None:
            return None
        damage = artifact.damage()
        if damage is None:
            return artifact
        try:
            new_place = self.set_aside(artifact)
        except FileNotFoundError:
            return None  # another run set it aside at the same moment, and reported it
        warn(f"damaged artifact: {damage}; moved to {new_place}, it will be made again")
        return None

    def _open(self, kind: str, fingerprint: str) -> Artifact | None:
        path = self.root / "artifacts" / kind / fingerprint
        if self.remote is not None:
            stored = self.remote.manifest(kind, fingerprint)
            return None if stored is None else Artifact(path, stored[0], self.digests, self, stored[1])
        text = read(path / manifests.NAME)
        return None if text is None else Artifact(path, manifests.parse(text, kind, fingerprint), self.digests, self)

    def _complete(self, fingerprint: str | None = None) -> Iterator[Artifact]:
        """Every complete artifact, or those with this fingerprint. Files are not hashed."""
        if self.remote is not None:
            for manifest, text in self.remote.manifests(fingerprint):
                path = self.root / "artifacts" / manifest.kind / manifest.fingerprint
                if manifest.created:
                    yield Artifact(path, manifest, self.digests, self, text)
            return
        for path in self.root.glob(f"artifacts/*/{fingerprint or '*'}"):
            artifact = self._open(path.parent.name, path.name)
            if artifact is not None and artifact.manifest.created:
                yield artifact

    def artifacts(self) -> Iterator[Artifact]:
        """Every complete artifact, oldest first. Files are not hashed."""
        yield from sorted(self._complete(), key=lambda artifact: artifact.manifest.created)

    def by_fingerprint(self, fingerprint: str) -> Artifact | None:
        """The artifact with this fingerprint, of any kind. Its files are not hashed."""
        return next(self._complete(fingerprint), None)

    def set_aside(self, artifact: Artifact) -> str:
        """Moves an artifact to STORE/aside/ instead of deleting it. Returns its new place."""
        new_path = self._aside(artifact.manifest)
        if self.remote is not None:
            return self.remote.set_aside(artifact.manifest, new_path.name)
        new_path.parent.mkdir(parents=True, exist_ok=True)
        return str(artifact.path.rename(new_path))

    def _aside(self, manifest: Manifest) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        return self.root / "aside" / f"{manifest.kind}-{manifest.fingerprint}-{stamp}"

    # ---- drafts -----------------------------------------------------------------------------------------------------

    def lease(self, name: str, what: str) -> Lease:
        """The lease of a draft, by its fingerprint, or of something else. what: names it in messages."""
        if self.remote is not None:
            return Lease(ObjectSlot(self.remote.leases, f"leases/{name}.json"), what)
        return Lease(FileSlot(self.root / "leases" / f"{name}.json"), what)

    def drafts(self) -> dict[str, Owner | None]:
        """The drafts by fingerprint, with the run that works on each; None if no run does.

        One on another machine is the run that did so last: it may have ended."""
        if self.remote is not None:
            leases = self.remote.objects.list("leases")
            names = {entry.key.removeprefix("leases/").removesuffix(".json") for entry in leases}
        else:
            names = {path.name.partition(".")[0] for path in self.root.glob("drafts/*") if path.is_dir()}
        return {name: self.lease(name, "").live_owner() for name in sorted(names) if FINGERPRINT.fullmatch(name)}

    def has_draft(self, fingerprint: str) -> bool:
        """Whether a draft of this fingerprint is on this machine."""
        return bool(folders(self.root / "drafts", fingerprint))

    def draft(
        self,
        fingerprint: str,
        *,
        wait: bool = True,
        to_drop: bool = False,
        on_message: Callable[[str], object] = print,
        put: Put = upload,
    ) -> Draft:
        """Opens (or resumes) the draft of a fingerprint and leases it. to_drop: its files need not be brought here.

        put: what puts them, of a store of objects. Where another live run holds it, waits or raises ClusterError."""
        drafts = self.root / "drafts"
        drafts.mkdir(parents=True, exist_ok=True)
        lease = self.lease(fingerprint, f"draft {fingerprint}")
        lease.acquire(wait=wait, on_message=on_message)
        lease.keep()
        if to_drop:
            return Draft(drafts / fingerprint, fingerprint, lease)
        return opened(drafts, fingerprint, lease, self.remote, on_message, put)

    def commit(self, draft: Draft, manifest: Manifest) -> Artifact:
        """Turns draft.out into an artifact: hashes the files, writes the manifest last, renames, drops the draft.

        Raises ClusterError if another run has taken over the lease, or if the manifest does not read back."""
        superseded = ClusterError(f"draft {draft.path}: this run was stalled for so long that another took it over; "
                                  f"let that one end, then run the same command")  # fmt: skip
        if draft.snapshots is not None:
            draft.snapshots.stop()
        if draft.lease is not None and not draft.lease.held():
            raise superseded
        paths = sorted(path for path in draft.out.rglob("*") if path != draft.out / manifests.NAME)
        for path in paths:
            sync(path)
        paths = [path for path in paths if path.is_file()]
        files = {
            path.relative_to(draft.out).as_posix(): FileEntry(bytes=path.stat().st_size, xxh3_128=digest)
            for path, digest in zip(paths, self.digests.of_all(paths), strict=True)
        }
        folder = draft.lease.nonce[:8] if self.remote is not None and draft.lease is not None else ""
        created = datetime.now(UTC).isoformat()
        complete = manifest.model_copy(update={"files": files, "folder": folder, "created": created})
        complete.check_facts()
        text = complete.model_dump_json(indent=1)
        # Written outside `out`: a kill must not leave a file there that does not belong to the artifact.
        write_atomically(draft.path / manifests.NAME, text)
        share(draft.out, (draft.path / manifests.NAME).stat().st_mode)
        os.replace(draft.path / manifests.NAME, draft.out / manifests.NAME)
        sync(draft.out)
        if draft.lease is not None and not draft.lease.held():
            raise superseded
        if self.remote is not None and not self.remote.put(draft.out, complete, text.encode(), draft.put):
            raise superseded
        artifact = self._publish(draft, complete, text)
        if artifact is None:
            raise superseded
        self.drop(draft)
        return artifact

    def _publish(self, draft: Draft, manifest: Manifest, text: str) -> Artifact | None:
        """Renames draft.out to the artifact's path, and reads the manifest back. None if another run was quicker."""
        path = self.root / "artifacts" / manifest.kind / manifest.fingerprint
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.remote is not None and read(path / manifests.NAME) != text.encode():
            shutil.rmtree(path, ignore_errors=True)  # a copy of one that is no longer in the store
        if not publish(draft.out, path, self._aside(manifest), manifests.NAME) and self.remote is None:
            return None  # of objects: another process here brought it, as soon as it was in the store
        sync(path.parent)
        artifact = self._open(manifest.kind, manifest.fingerprint)
        if artifact is None or (path / manifests.NAME).read_text(encoding="utf-8") != text:
            raise ClusterError(f"{path}/{manifests.NAME}: does not read back as it was written; check the disk or the "
                               f"network file system under the store, then run the same command")  # fmt: skip
        return artifact

    def drop(self, draft: Draft) -> None:
        """Deletes a draft that this process leases, and the lease. Renames it first, so it is never seen half gone."""
        if draft.snapshots is not None:
            draft.snapshots.stop()
        (self.root / "cache").mkdir(parents=True, exist_ok=True)
        for number, folder in enumerate((self.root / "drafts").glob(f"*{draft.fingerprint}*")):
            dropped = self.root / "cache" / f"dropped-{draft.fingerprint}-{time.time_ns()}-{number}"
            folder.rename(dropped)
            shutil.rmtree(dropped, ignore_errors=True)
        if self.remote is not None and (draft.lease is None or draft.lease.update(snapshot=None)):
            # The lease no longer names a snapshot: after a kill here, nobody goes on from one that is half gone.
            keys = [entry.key for entry in self.remote.objects.list(f"drafts/{draft.fingerprint}")]
            self.remote.objects.delete(keys)
        if draft.lease is not None:
            draft.lease.remove()

    def drop_leftover(self, fingerprint: str) -> None:
        """Deletes what a kill at the end of `commit` left of a draft, unless another run holds it."""
        lease = self.lease(fingerprint, f"draft {fingerprint}")
        is_left = self.has_draft(fingerprint) or lease.slot.read()[1] is not None
        if is_left and lease.attempt() is None:
            self.drop(Draft(self.root / "drafts" / fingerprint, fingerprint, lease))


def fingerprint(**parts: Any) -> str:
    """16 hex digits: a digest of everything that determines an artifact's content."""
    return digest_value(parts)[:16]
