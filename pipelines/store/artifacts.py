"""Artifacts, drafts and the store that holds them.

    STORE/artifacts/<kind>/<fingerprint>/   files + manifest.json: complete, or absent
    STORE/drafts/<fingerprint>/             the one mutable place: leased, resumable; out/ becomes the artifact
    STORE/runs/<time>.json                  one walk of one recipe (pipelines/run/walk.py)
    STORE/aside/                            what was damaged or replaced by --force: nothing is deleted
    STORE/cache/                            digests of files by (path, size, mtime), and other things cheap to lose

An artifact is written in its draft and renamed into place with its manifest, so a kill at any moment leaves either
all of it or none. This module knows local and shared folders; object stores are refused with a clear message.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cluster.errors import ClusterError, disk_full
from pipelines.errors import UserError
from pipelines.store.digests import FileDigests, digest_value
from pipelines.store.facts import Facts
from pipelines.store.lease import Lease

NO_SPACE = ("store {}: no space left on the device; free some or choose another --store, then run the same command: "
            "what is made stays made")  # fmt: skip


class FileEntry(BaseModel):
    """A file of an artifact: its size and the xxh3-128 of its bytes."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    xxh3_128: str


class Manifest(BaseModel):
    """What an artifact is and where it came from. Its own bytes hold no secret and no machine path."""

    model_config = ConfigDict(frozen=True)

    kind: str
    fingerprint: str
    stage: str  # the stage's kind
    name: str  # the stage's name in the recipe that made it first
    stage_version: int
    seed: int
    options: dict[str, Any]
    sources: dict[str, Any] = {}
    parents: dict[str, str] = {}  # kind -> fingerprint
    code: str  # digest of the modules that made it
    packages: dict[str, str] = {}
    machine: dict[str, Any] = {}
    facts: Facts = {}
    files: dict[str, FileEntry] = {}
    created: str = ""


@dataclass(frozen=True)
class Artifact:
    """An immutable directory: manifest.json and the files it lists."""

    path: Path
    manifest: Manifest
    digests: FileDigests

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def facts(self) -> Facts:
        return self.manifest.facts

    def local(self) -> Path:
        """The directory on this node. Its files were verified when the store found the artifact."""
        return self.path

    def parent(self, kind: str) -> Artifact | None:
        """What it was made of, if its store still holds that whole. kind: as the manifest names its parents."""
        fingerprint = self.manifest.parents.get(kind)
        if fingerprint is None:
            return None
        return Store(self.path.parents[2]).find(kind, fingerprint)  # STORE/artifacts/<kind>/<fingerprint>

    def damage(self) -> str | None:
        """What is wrong with the files (the first found), or None. Hashes are cached by path, size and mtime."""
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


@dataclass(frozen=True)
class Draft:
    """Where one artifact is being made, held by one run at a time. Survives a kill; gone once committed."""

    path: Path
    fingerprint: str
    lease: Lease | None = None

    @cached_property
    def out(self) -> Path:
        """The folder whose files become the artifact."""
        folder = self.path / "out"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def folder(self, name: str) -> Path:
        """A folder of the draft for blocks or checkpoints."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def beat(self) -> None:
        """Says that its holder lives."""
        if self.lease is not None:
            self.lease.beat()

    def release(self) -> None:
        """Lets another run go on with it."""
        if self.lease is not None:
            self.lease.release()


class Store:
    """A folder of artifacts that every node of the cluster can read and write."""

    def __init__(self, root: str | Path):
        if "://" in str(root):
            raise UserError(
                f"store {root}: object stores are not supported yet; expected a folder that all nodes share "
                f"(NFS, Lustre, EFS). Pass one with --store"
            )
        self.root = Path(root).expanduser().absolute()

    def create(self) -> Store:
        """Makes the folders. Raises UserError where it cannot be written, ClusterError where the disk is full."""
        try:
            for name in ("artifacts", "drafts", "runs", "aside", "cache"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            for gone in (self.root / "cache").glob("dropped-*"):  # a kill came between drop's rename and its removal
                shutil.rmtree(gone, ignore_errors=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            if disk_full(error):
                raise ClusterError(NO_SPACE.format(self.root)) from error
            raise UserError(
                f"store {self.root}: cannot be written ({error.strerror}); choose a writable folder with --store"
            ) from error
        return self

    @cached_property
    def digests(self) -> FileDigests:
        return FileDigests(self.root / "cache" / "digests.json")

    def find(self, kind: str, fingerprint: str, warn=print) -> Artifact | None:
        """The complete, undamaged artifact, or None. A damaged one is named through `warn` and set aside."""
        artifact = self._open(self.root / "artifacts" / kind / fingerprint)
        if artifact is None:
            return None
        damage = artifact.damage()
        if damage is None:
            return artifact
        try:
            place = self.set_aside(artifact)
        except FileNotFoundError:
            return None  # another run set it aside this very moment, and said so
        warn(f"damaged artifact: {damage}; moved to {place}, it will be made again")
        return None

    def _open(self, path: Path) -> Artifact | None:
        try:
            text = (path / "manifest.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return Artifact(path, Manifest.model_validate_json(text), self.digests)
        except ValueError:
            return Artifact(path, _unreadable(path), self.digests)

    def artifacts(self) -> Iterator[Artifact]:
        """Every complete artifact, oldest first. Files are not hashed."""
        found = [self._open(path) for path in self.root.glob("artifacts/*/*")]
        yield from sorted((a for a in found if a and a.manifest.created), key=lambda a: a.manifest.created)

    def by_fingerprint(self, fingerprint: str) -> Artifact | None:
        """The artifact of this fingerprint, whatever its kind."""
        for path in self.root.glob(f"artifacts/*/{fingerprint}"):
            artifact = self._open(path)
            if artifact is not None and artifact.manifest.created:
                return artifact
        return None

    def set_aside(self, artifact: Artifact) -> Path:
        """Moves an artifact out of the way, keeping it. Returns its new place."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        place = self.root / "aside" / f"{artifact.kind}-{artifact.fingerprint}-{stamp}"
        place.parent.mkdir(parents=True, exist_ok=True)
        artifact.path.rename(place)
        return place

    def draft(self, fingerprint: str, *, wait: bool = True, say=print) -> Draft:
        """Opens (or goes on with) the draft of a fingerprint and leases it.

        A draft that another live run holds: waits, naming the owner through `say`; with wait=False raises ClusterError.
        """
        path = self.root / "drafts" / fingerprint
        path.mkdir(parents=True, exist_ok=True)
        lease = Lease(path / "lease.json")
        lease.acquire(wait=wait, say=say)
        return Draft(path, fingerprint, lease)

    def commit(self, draft: Draft, manifest: Manifest) -> Artifact:
        """Turns draft.out into an artifact: hashes, manifest last, one rename, then the draft is dropped.

        Raises ClusterError if another run took the lease over meanwhile, or if the manifest does not read back."""
        files = {}
        for file in sorted(p for p in draft.out.rglob("*") if p.is_file() and p != draft.out / "manifest.json"):
            name = file.relative_to(draft.out).as_posix()
            files[name] = FileEntry(bytes=file.stat().st_size, xxh3_128=self.digests.of(file))
            _sync(file)
        done = manifest.model_copy(update={"files": files, "created": datetime.now(UTC).isoformat()})
        text = _checked(done).model_dump_json(indent=1)
        # Written outside of `out`: a kill must leave nothing there that is no file of the artifact.
        write_atomically(draft.path / "manifest.json", text)
        os.replace(draft.path / "manifest.json", draft.out / "manifest.json")
        _sync(draft.out)
        place = self.root / "artifacts" / done.kind / done.fingerprint
        place.parent.mkdir(parents=True, exist_ok=True)
        if draft.lease is not None and not draft.lease.held():
            raise ClusterError(f"draft {draft.path}: this run stood still for so long that another took it over; "
                               f"let that one end, then run the same command")  # fmt: skip
        if place.exists():  # without a manifest, or find() would have given it: incomplete is absent
            shutil.rmtree(place)
        draft.out.rename(place)
        _sync(place.parent)
        artifact = self._open(place)
        if artifact is None or (place / "manifest.json").read_text(encoding="utf-8") != text:
            raise ClusterError(f"{place}/manifest.json: does not read back as it was written; check the disk or the "
                               f"network file system under the store, then run the same command")  # fmt: skip
        self.drop(draft)
        return artifact

    def drop(self, draft: Draft) -> None:
        """Forgets a draft that we hold, its lease with it. It vanishes at once, so nobody finds half of it."""
        gone = self.root / "cache" / f"dropped-{draft.fingerprint}-{time.time_ns()}"
        gone.parent.mkdir(parents=True, exist_ok=True)
        draft.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def drop_remains(self, fingerprint: str) -> None:
        """Forgets a draft that nobody works on: what a commit that was killed at its very end left behind."""
        path = self.root / "drafts" / fingerprint
        lease = Lease(path / "lease.json")
        if path.is_dir() and lease.attempt() is None:
            self.drop(Draft(path, fingerprint, lease))


def write_json(path: Path, value: Any) -> None:
    """A value for programs and people, into a draft; write_atomically is for what others may be reading."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_atomically(path: Path, text: str) -> None:
    """The whole text under this name, or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _checked(manifest: Manifest) -> Manifest:
    """The manifest, if JSON can carry its facts."""
    for name, value in manifest.facts.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{manifest.name}: {name} is {value}; a fact is a finite number or text")
    return manifest


def _unreadable(path: Path) -> Manifest:
    """Stands for a manifest that cannot be read: damage that names the file."""
    files = {"manifest.json": FileEntry(bytes=-1, xxh3_128="")}
    return Manifest(kind=path.parent.name, fingerprint=path.name, stage="", name="", stage_version=0, seed=0,
                    options={}, code="", files=files)  # fmt: skip


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(**parts: Any) -> str:
    """16 hex digits that stand for everything that decides a result."""
    return digest_value(parts)[:16]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
