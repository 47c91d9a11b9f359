"""Files in an object store as a source's `path:`: an object, a folder or a glob is brought to the store's cache.

    s3://bucket/raw/*.jsonl ──list──► objects ──► CACHE/s3/bucket/.objects/<digest of one version of an object>
                                                  ──link──► CACHE/s3/bucket/raw/@<digest of all>/a.jsonl …

What comes out is an ordinary path, CACHE/…/@<digest>/*.jsonl, which a source reads as any other. A digest covers name,
size and version: an object is brought again only if it has changed, and a run that was killed goes on with the objects
that are missing. The digest of the bytes is computed as they come, and kept in .objects/digests.jsonl, so that a copy
is not read again for it. On a cluster pipelines/run/transfers.py has brought what is `missing` before a source is read;
`bring` brings the rest itself.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

import xxhash

from pipelines.errors import UserError
from pipelines.objects import Entry, Objects

PARALLEL = 4  # objects at once
MARK = "@"  # begins the name of the folder that stands for one state of the objects
VERSIONS = ".objects"  # the folder of the copies of objects, one file for each version of one
DIGESTS = "digests.jsonl"  # there: a line for each copy, its state and the digest of its bytes


@dataclass(frozen=True)
class Found:
    """The objects that a URL names, in the state that this run sees."""

    bucket: str  # its URL
    above: str  # what all keys begin with: the folders above what the copies are named by
    name: str  # what a source reads below that: a file's name, a pattern, or nothing for the whole folder
    entries: tuple[Entry, ...]

    def folder(self, cache: Path) -> Path:
        """The folder of the copies, which are named by the rest of their keys."""
        return _bucket_folder(self.bucket, cache) / self.above / f"{MARK}{self._digest}"

    @cached_property
    def _digest(self) -> str:
        return _digest(self.entries)

    def versions(self, cache: Path) -> Iterator[Version]:
        """The copies of these states of the objects, which the folders of several states share."""
        folder = _bucket_folder(self.bucket, cache) / VERSIONS
        return (Version(self.bucket, entry, folder / _digest([entry])) for entry in self.entries)


@dataclass(frozen=True)
class Version:
    """The copy of one state of an object. It is there complete or not at all."""

    bucket: str  # its URL
    entry: Entry
    file: Path

    def fetch(self, objects: Objects) -> tuple[Path, str]:
        """Brings the object to a file beside the copy's place, on any node that has the cache; `keep` moves it there.

        objects: those of the bucket. Returns (that file, the xxh3-128 (hex) of its bytes). Raises what
        `Objects.download` raises."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            return partial, objects.download(self.entry, partial)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def keep(self, partial: Path, digest: str) -> None:
        """Records the digest of what `fetch` has brought, then moves it to the copy's place; after an error it is
        deleted.

        By one process for all nodes: appending to a file of several is not atomic on NFS."""
        try:
            with (self.file.parent / DIGESTS).open("ab", buffering=0) as log:  # one write: lines of threads do not mix
                log.write(json.dumps([*_state(partial), digest]).encode() + b"\n")
            partial.rename(self.file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@lru_cache(maxsize=1024)  # one run sees one state of the bucket, and lists it once
def find(url: str, suffixes: tuple[str, ...] = ()) -> Found:
    """The objects that a URL names: one, those of a folder, those that match a pattern.

    suffixes: of the objects that are read from a folder, in lower case; empty: all. Raises UserError if there is none,
    and what `Objects` raises."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    objects, key = Objects(f"{scheme}://{bucket}"), "/".join(part for part in key.split("/") if part)
    above, _, name = key.rpartition("/")
    entry = objects.entry(key) if key and not rest.endswith("/") else None
    if entry is not None:
        entries = [entry]
    elif glob.has_magic(key):
        parts = key.split("/")
        fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
        above, name = "/".join(parts[:fixed]), "/".join(parts[fixed:])
        entries = [e for e in _listed(objects, above) if _matches(e.key.split("/"), parts)]
    else:
        above, name = key, ""
        entries = [e for e in _listed(objects, key) if e.key.lower().endswith(suffixes or "")]
    if not entries:
        endings = f" (of a folder: files that end in {' or '.join(suffixes)})" if suffixes else ""
        raise UserError(f"{url}: names no object; expected an object, a folder, or a pattern that some match{endings}")
    return Found(objects.url, above, name, tuple(entries))


def bring(url: str, cache: Path, suffixes: tuple[str, ...] = ()) -> str:
    """The path on this machine of the objects that `find` finds, complete: a file, a folder, or a pattern."""
    found = find(url, suffixes)
    folder = found.folder(cache)
    if not folder.is_dir():
        _bring(found, folder, cache)
    return str(folder / found.name)


def missing(url: str, cache: Path, suffixes: tuple[str, ...] = ()) -> list[Version]:
    """The copies that `bring` would make, because they are not there."""
    found = find(url, suffixes)
    if found.folder(cache).is_dir():
        return []
    with suppress(FileNotFoundError):
        there = set(os.listdir(_bucket_folder(found.bucket, cache) / VERSIONS))
        return [version for version in found.versions(cache) if version.file.name not in there]
    return list(found.versions(cache))


def url_of(file: Path, cache: Path) -> str | None:
    """The URL of the object whose copy a file is; None for another file."""
    try:
        scheme, bucket, *folders = file.relative_to(cache).parts
    except ValueError:
        return None
    return f"{scheme}://" + "/".join([bucket, *(part for part in folders if not part.startswith(MARK))])


def digest_of(file: Path, cache: Path) -> str | None:
    """The xxh3-128 (hex) of the bytes of an object's copy, as they came; None for another file, or one that was changed
    since."""
    if url_of(file, cache) is None:
        return None
    log = cache.joinpath(*file.relative_to(cache).parts[:2], VERSIONS, DIGESTS)
    return _recorded(log, log.stat().st_size).get(_state(file)) if log.exists() else None


@lru_cache(maxsize=4)
def _recorded(log: Path, size: int) -> dict[tuple[int, ...], str]:
    """The digests by the state of the copy. size: of the log; it only grows."""
    digests: dict[tuple[int, ...], str] = {}
    for line in log.read_bytes().splitlines():
        with suppress(ValueError):  # cut by a kill: only time is lost
            *state, digest = json.loads(line)
            digests[tuple(state)] = digest
    return digests


def _state(file: Path) -> tuple[int, ...]:
    """What a link to a copy shares with it, and a changed copy does not."""
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _listed(objects: Objects, folder: str) -> list[Entry]:
    """The objects in a folder, without the empty ones that the S3 console and other tools put for folders.

    Their keys end in a slash, which a listing leaves out: `raw/` is listed as `raw`."""
    entries = list(objects.list(folder))
    folders = {folder, *(str(above) for entry in entries for above in PurePosixPath(entry.key).parents)}
    return [entry for entry in entries if entry.bytes or entry.key not in folders]


def _bring(found: Found, brought: Path, cache: Path) -> None:
    """Makes the folder of the copies; it appears complete or not at all."""
    partial, objects = brought.with_name(f".{uuid.uuid4().hex}.partial"), Objects(found.bucket)

    def link(version: Version) -> None:
        file = partial / version.entry.key.removeprefix(found.above).lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if not version.file.exists():
            version.keep(*version.fetch(objects))
        try:
            os.link(version.file, file)
        except OSError:  # a file system without links
            shutil.copyfile(version.file, file)

    try:
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(link, found.versions(cache)))
        try:
            partial.rename(brought)
        except OSError:
            if not brought.is_dir():  # else another run was quicker
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _bucket_folder(url: str, cache: Path) -> Path:
    """The folder of a bucket in the cache."""
    return cache / url.replace("://", "/")


def _digest(entries: Sequence[Entry]) -> str:
    """The digest of objects' names, sizes and versions."""
    state = xxhash.xxh3_64()
    for entry in entries:
        state.update(f"{entry.key}\0{entry.bytes}\0{entry.e_tag}\n".encode())
    return state.hexdigest()


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a key matches a pattern, part by part: ** stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[number:], pattern[1:]) for number in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
