"""Artifacts, drafts and the store that holds them.

    STORE/artifacts/<kind>/<fingerprint>/   files + manifest.json: complete, or absent
    STORE/drafts/<fingerprint>/             the one mutable place: leased, resumable; out/ becomes the artifact
    STORE/runs/<time>.json                  the record of one run (pipelines/store/runs.py)
    STORE/aside/                            damaged artifacts and those replaced by --force: never deleted
    STORE/cache/                            digests of files by (path, size, mtime), and whatever else can be rebuilt

An artifact is written in its draft and renamed to its path with its manifest, so a kill at any moment leaves either
all of it or none. Supports local and shared folders; object stores are refused with an error that says so.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
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
            "finished stages are kept")  # fmt: skip


class FileEntry(BaseModel):
    """A file of an artifact: its size and the xxh3-128 of its bytes."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    xxh3_128: str


class Manifest(BaseModel):
    """Identity and provenance of an artifact. Holds no secret and no machine path."""

    model_config = ConfigDict(frozen=True)

    kind: str
    fingerprint: str
    stage: str  # kind of the stage
    name: str  # name of the stage in the recipe that made it first
    stage_version: int
    seed: int
    options: dict[str, Any]
    sources: dict[str, Any] = {}
    parents: dict[str, str] = {}  # kind -> fingerprint
    code: str  # digest of the modules the stage imports
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
        """The directory on this node. Its files were verified by `Store.find`."""
        return self.path

    def parent(self, kind: str) -> Artifact | None:
        """The parent artifact under this key of the manifest's `parents`; None if absent from the store or damaged."""
        fingerprint = self.manifest.parents.get(kind)
        if fingerprint is None:
            return None
        return Store(self.path.parents[2]).find(kind, fingerprint)  # STORE/artifacts/<kind>/<fingerprint>

    def damage(self) -> str | None:
        """The first problem with the files, or None. Hashes are cached by path, size and mtime."""
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
    """Working directory of an artifact in progress, leased by one run at a time. Survives a kill; gone once
    committed."""

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
        """A folder of the draft for blocks or checkpoints, created if missing."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def beat(self) -> None:
        """Renews the lease (heartbeat)."""
        if self.lease is not None:
            self.lease.beat()

    def release(self) -> None:
        """Releases the lease, so that another run can continue the draft."""
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
        """Creates the folders. Raises UserError if the store is not writable, ClusterError if the disk is full."""
        try:
            for name in ("artifacts", "drafts", "runs", "aside", "cache"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            for dropped in (self.root / "cache").glob("dropped-*"):  # a kill between drop's rename and its removal
                shutil.rmtree(dropped, ignore_errors=True)
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

    def find(self, kind: str, fingerprint: str, warn: Callable[[str], object] = print) -> Artifact | None:
        """The complete, undamaged artifact, or None. A damaged one is reported through `warn` and set aside."""
        artifact = self._open(self.root / "artifacts" / kind / fingerprint)
        if artifact is None:
            return None
        damage = artifact.damage()
        if damage is None:
            return artifact
        try:
            new_path = self.set_aside(artifact)
        except FileNotFoundError:
            return None  # another run set it aside at the same moment, and reported it
        warn(f"damaged artifact: {damage}; moved to {new_path}, it will be made again")
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
        opened = [self._open(path) for path in self.root.glob("artifacts/*/*")]
        complete = [artifact for artifact in opened if artifact is not None and artifact.manifest.created]
        yield from sorted(complete, key=lambda artifact: artifact.manifest.created)

    def by_fingerprint(self, fingerprint: str) -> Artifact | None:
        """The artifact with this fingerprint, of any kind. Its files are not hashed."""
        for path in self.root.glob(f"artifacts/*/{fingerprint}"):
            artifact = self._open(path)
            if artifact is not None and artifact.manifest.created:
                return artifact
        return None

    def set_aside(self, artifact: Artifact) -> Path:
        """Moves an artifact to STORE/aside/ instead of deleting it. Returns its new path."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        new_path = self.root / "aside" / f"{artifact.kind}-{artifact.fingerprint}-{stamp}"
        new_path.parent.mkdir(parents=True, exist_ok=True)
        artifact.path.rename(new_path)
        return new_path

    def draft(self, fingerprint: str, *, wait: bool = True, on_message: Callable[[str], object] = print) -> Draft:
        """Opens (or resumes) the draft of a fingerprint and leases it.

        If another live run holds it: waits and reports the owner, or raises ClusterError if not `wait`.
        """
        path = self.root / "drafts" / fingerprint
        path.mkdir(parents=True, exist_ok=True)
        lease = Lease(path / "lease.json")
        lease.acquire(wait=wait, on_message=on_message)
        return Draft(path, fingerprint, lease)

    def commit(self, draft: Draft, manifest: Manifest) -> Artifact:
        """Turns draft.out into an artifact: hashes the files, writes the manifest last, renames, drops the draft.

        Raises ClusterError if another run has taken over the lease, or if the manifest does not read back."""
        paths = sorted(p for p in draft.out.rglob("*") if p.is_file() and p != draft.out / "manifest.json")
        files = {}
        for file, digest in zip(paths, self.digests.of_all(paths), strict=True):
            name = file.relative_to(draft.out).as_posix()
            files[name] = FileEntry(bytes=file.stat().st_size, xxh3_128=digest)
            _sync(file)
        complete = manifest.model_copy(update={"files": files, "created": datetime.now(UTC).isoformat()})
        _check_facts(complete)
        text = complete.model_dump_json(indent=1)
        # Written outside `out`: a kill must not leave a file there that does not belong to the artifact.
        write_atomically(draft.path / "manifest.json", text)
        _share(draft.out, (draft.path / "manifest.json").stat().st_mode)
        os.replace(draft.path / "manifest.json", draft.out / "manifest.json")
        _sync(draft.out)
        path = self.root / "artifacts" / complete.kind / complete.fingerprint
        path.parent.mkdir(parents=True, exist_ok=True)
        if draft.lease is not None and not draft.lease.held():
            raise ClusterError(f"draft {draft.path}: this run was stalled for so long that another took it over; "
                               f"let that one end, then run the same command")  # fmt: skip
        if path.exists():  # without a manifest, or find() would have returned it: incomplete counts as absent
            shutil.rmtree(path)
        draft.out.rename(path)
        _sync(path.parent)
        artifact = self._open(path)
        if artifact is None or (path / "manifest.json").read_text(encoding="utf-8") != text:
            raise ClusterError(f"{path}/manifest.json: does not read back as it was written; check the disk or the "
                               f"network file system under the store, then run the same command")  # fmt: skip
        self.drop(draft)
        return artifact

    def drop(self, draft: Draft) -> None:
        """Deletes a draft that this process leases, and the lease. Renames it first, so it is never seen half gone."""
        dropped = self.root / "cache" / f"dropped-{draft.fingerprint}-{time.time_ns()}"
        dropped.parent.mkdir(parents=True, exist_ok=True)
        draft.path.rename(dropped)
        shutil.rmtree(dropped, ignore_errors=True)

    def drop_leftover(self, fingerprint: str) -> None:
        """Deletes what a kill at the end of `commit` left of a draft, unless another run holds it."""
        path = self.root / "drafts" / fingerprint
        lease = Lease(path / "lease.json")
        if path.is_dir() and lease.attempt() is None:
            self.drop(Draft(path, fingerprint, lease))


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON into a draft; use write_atomically for a file that others may be reading."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file in one rename: a reader sees the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")  # tempfile's would have mode 0600 for ever
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _share(folder: Path, mode: int) -> None:
    """Gives the files of a folder at least the mode of a new one: safetensors writes weights with mode 0600."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        if mode & ~file.stat().st_mode:
            file.chmod(mode & 0o777)


def _check_facts(manifest: Manifest) -> None:
    """Raises ValueError for a fact that JSON has no spelling for."""
    for name, value in manifest.facts.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{manifest.name}: {name} is {value}; expected a finite number or text")


def _unreadable(path: Path) -> Manifest:
    """A placeholder for a manifest that cannot be parsed; `Artifact.damage` reports it."""
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
    """16 hex digits: a digest of everything that determines an artifact's content."""
    return digest_value(parts)[:16]


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
