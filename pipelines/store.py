"""Artifacts, drafts and the store that holds them.

    STORE/artifacts/<kind>/<fingerprint>/   files + manifest.json: complete, or absent
    STORE/drafts/<fingerprint>/             the one mutable place: leased, resumable; out/ becomes the artifact
    STORE/runs/<time>.json                  one walk of one recipe (pipelines/run.py)
    STORE/aside/                            what was damaged or replaced by --force: nothing is deleted
    STORE/cache/                            digests of files by (path, size, mtime), and other things cheap to lose

An artifact is written in its draft and renamed into place with its manifest, so a kill at any moment leaves either
all of it or none. This module knows local and shared folders; object stores are refused with a clear message.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.digests import FileDigests, digest_value
from pipelines.errors import UserError
from pipelines.lease import Lease
from pipelines.stage import Facts


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

    def damage(self) -> str | None:
        """What is wrong with the files (the first found), or None. Hashes are cached by path, size and mtime."""
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                return f"{file}: missing"
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
        """Makes the folders. Raises UserError where the store cannot be written."""
        try:
            for name in ("artifacts", "drafts", "runs", "aside", "cache"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
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
        place = self.set_aside(artifact)
        warn(f"damaged artifact: {damage}; moved to {place}, it will be made again")
        return None

    def _open(self, path: Path) -> Artifact | None:
        try:
            text = (path / "manifest.json").read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return Artifact(path, Manifest.model_validate_json(text), self.digests)
        except ValueError:
            # An unreadable manifest is damage too, but there is no file list to name what else is wrong.
            broken = Manifest(kind=path.parent.name, fingerprint=path.name, stage="", name="", stage_version=0, seed=0,
                              options={}, code="", files={"manifest.json": FileEntry(bytes=-1, xxh3_128="")})  # fmt: skip
            return Artifact(path, broken, self.digests)

    def artifacts(self) -> Iterator[Artifact]:
        """Every complete artifact, oldest first. Files are not hashed."""
        found = [self._open(path) for path in self.root.glob("artifacts/*/*")]
        yield from sorted((a for a in found if a and a.manifest.created), key=lambda a: a.manifest.created)

    def by_fingerprint(self, fingerprint: str) -> Artifact | None:
        """The artifact of this fingerprint, whatever its kind."""
        for path in self.root.glob(f"artifacts/*/{fingerprint}"):
            return self._open(path)
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
        """Turns draft.out into an artifact: hashes, manifest last, one rename, then the draft is dropped."""
        files = {}
        for file in sorted(p for p in draft.out.rglob("*") if p.is_file() and p.name != "manifest.json"):
            name = file.relative_to(draft.out).as_posix()
            files[name] = FileEntry(bytes=file.stat().st_size, xxh3_128=self.digests.of(file))
            _sync(file)
        done = manifest.model_copy(update={"files": files, "created": datetime.now(UTC).isoformat()})
        write_atomically(draft.out / "manifest.json", done.model_dump_json(indent=1))
        place = self.root / "artifacts" / done.kind / done.fingerprint
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():  # without a manifest, or find() would have given it: incomplete is absent
            shutil.rmtree(place)
        draft.out.rename(place)
        _sync(place.parent)
        artifact = self._open(place)
        assert artifact is not None and artifact.manifest == done, f"{place}: the manifest does not read back"
        if draft.lease:
            draft.lease.release()
        shutil.rmtree(draft.path, ignore_errors=True)
        return artifact

    def drop_draft(self, fingerprint: str) -> None:
        """Forgets what a draft held: `--force` starts from nothing."""
        shutil.rmtree(self.root / "drafts" / fingerprint, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """The whole text under this name, or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
