"""Digests of values and of files. File digests are cached: same path, size and mtime means the file is not re-read."""

from __future__ import annotations

import itertools
import json
import os
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from pipelines.store import line_counts
from pipelines.store.files import write_atomically
from pipelines.store.line_counts import LineCounter

CHUNK_BYTES = 1 << 22  # read at a time: some steps of `line_counts`
THREADS = 8  # that read files: neither reading nor hashing holds Python's lock
FILES_AT_ONCE = 1000  # that wait for these threads
SAVE_S = 1.0  # a kill costs the digests of so long, and the files that are being read
STATE = struct.Struct("<qq")  # size and time of the last change in ns
KEY_BYTES = 16
LINES = "lines"  # the folder beside the cache, of `line_counts`
ENTRY_BYTES = KEY_BYTES + STATE.size + 16
NEW_ENTRIES = 1000  # that wait, beside a quarter of all, before they are sorted into the others


def digest_value(value: Any) -> str:
    """xxh3-128 (hex) of a JSON-like value, independent of the order of its keys."""
    encoder = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    state = xxhash.xxh3_128()
    for piece in encoder.iterencode(value):  # the names of many files are never one text
        state.update(piece.encode())
    return state.hexdigest()


def digest_file(path: Path, lines: LineCounter | None = None) -> str:
    """xxh3-128 (hex) of a file's bytes. lines: counts its lines. Raises OSError, which names the file."""
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                state.update(chunk)
                if lines is not None:
                    lines.add(chunk)
    except OSError as error:
        error.filename = str(path)  # that of a disk which fails while it is read has none
        raise
    return state.hexdigest()


class Entries:
    """Digest of the path -> size, time of the last change and digest of a file. Sorted in one run of bytes, where an
    entry takes 48 of them: in a dictionary it takes 210, and a corpus may have millions of files."""

    def __init__(self) -> None:
        self._sorted = b""
        self._new: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes:
        """The value; empty if there is none."""
        if key in self._new:
            return self._new[key]
        start = ENTRY_BYTES * bisect_left(range(len(self._sorted) // ENTRY_BYTES), key, key=self._key)
        entry = self._sorted[start : start + ENTRY_BYTES]
        return entry[KEY_BYTES:] if entry.startswith(key) else b""

    def set(self, key: bytes, value: bytes) -> None:
        self._new[key] = value
        if len(self._new) > NEW_ENTRIES + len(self._sorted) // ENTRY_BYTES // 4:
            self._sorted, self._new = b"".join(sorted(self)), {}

    def __iter__(self) -> Iterator[bytes]:
        """Each key with its value, in no order."""
        for start in range(0, len(self._sorted), ENTRY_BYTES):
            if self._sorted[start : start + KEY_BYTES] not in self._new:
                yield self._sorted[start : start + ENTRY_BYTES]
        for key, value in self._new.items():
            yield key + value

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _key(self, place: int) -> bytes:
        return self._sorted[ENTRY_BYTES * place : ENTRY_BYTES * place + KEY_BYTES]


class Hashed(NamedTuple):
    """What is known of a file once it was read: its path, state and digest, and the lines that end before each step of
    it; None where nobody counts them."""

    path: str
    state: bytes
    digest: str
    lines_before: list[int] | None


def hashed_in_state(path: str, state: bytes, has_lines: bool) -> Hashed | None:
    """Reads a file if this machine has it in that state, of the same size and time; None for another file."""
    lines = LineCounter() if has_lines else None
    try:
        digest = digest_file(Path(path), lines)
        return Hashed(path, state, digest, lines and lines.before) if _state(Path(path)) == state else None
    except OSError:
        return None


class FileDigests:
    """Digests of files, cached in a file that can be rebuilt at any time: a line for each, added once it is hashed."""

    def __init__(self, cache: Path):
        self.cache = cache
        self._entries: Entries | None = None  # not loaded yet

    @classmethod
    def of_cache(cls, folder: Path) -> FileDigests:
        """The digests that a store keeps. folder: its `cache`."""
        return cls(folder / "digests.txt")

    def of(self, path: Path) -> str:
        """The file's digest. Raises OSError if it cannot be read."""
        return self.of_all([path])[0]

    def of_all(
        self,
        paths: Iterable[Path],
        known: Callable[[Path], str | None] = lambda path: None,
        has_lines: Callable[[Path], bool] = lambda path: False,
    ) -> list[str]:
        """The files' digests, in their order; several files are read at a time. Raises OSError as `of` does.

        known: gives the digest of a file that need not be read for it. has_lines: whether the lines of one that is
        read are counted, for `lines_before`."""

        def digest(path: Path) -> str:
            if digest := known(path):
                return digest
            if not has_lines(path):
                return digest_file(path)
            counter = LineCounter()
            digest = digest_file(path, counter)
            line_counts.save(self.cache.parent / LINES, digest, counter.before)
            return digest

        left = iter(paths)
        digests: list[str] = []
        with ThreadPoolExecutor(THREADS) as threads:
            while some := list(itertools.islice(left, FILES_AT_ONCE)):
                digests += self._of_some(some, self._loaded(), threads, digest)
        return digests

    def lines_before(self, path: Path) -> list[int] | None:
        """Lines that end before each step of a file, as `line_counts` has them; None where nobody has counted them
        since the file changed."""
        entry = self._loaded().get(_key(path))
        if not entry.startswith(_state(path)) or not entry:
            return None
        return line_counts.load(self.cache.parent / LINES, entry[STATE.size :].hex())

    def _loaded(self) -> Entries:
        if self._entries is None:
            self._entries = self._load()
        return self._entries

    def unknown(self, paths: Iterable[Path]) -> list[tuple[str, bytes, int]]:
        """(path, state, size) of the files whose digest is not in the cache, but for those that are gone."""
        entries, unknown = self._loaded(), list[tuple[str, bytes, int]]()
        for path in paths:
            with suppress(OSError):
                if not entries.get(_key(path)).startswith(state := _state(path)):
                    unknown.append((str(path), state, STATE.unpack(state)[0]))
        return unknown

    def add(self, hashed: Iterable[Hashed]) -> None:
        """Adds what tasks found out about files of `unknown`."""
        new = list[bytes]()
        for path, state, digest, lines_before in hashed:
            key, value = _key(Path(path)), state + bytes.fromhex(digest)
            self._loaded().set(key, value)
            new.append(key + value)
            if lines_before is not None:
                line_counts.save(self.cache.parent / LINES, digest, lines_before)
        self._save(new)

    def moved(self, old: Path, new: Path) -> None:
        """Knows the files of a folder that was renamed by what is known of them under its old path; reads none."""
        entries, known = self._loaded(), list[bytes]()
        for file in new.rglob("*"):
            with suppress(OSError):
                value = entries.get(_key(old / file.relative_to(new)))
                if value.startswith(_state(file)):
                    entries.set(key := _key(file), value)
                    known.append(key + value)
        self._save(known)

    def _of_some(
        self, paths: list[Path], entries: Entries, threads: ThreadPoolExecutor, digest: Callable[[Path], str]
    ) -> list[str]:
        keys = [_key(path) for path in paths]
        states = [_state(path) for path in paths]
        changed = {
            key: (path, state)
            for key, path, state in zip(keys, paths, states, strict=True)
            if not entries.get(key).startswith(state)
        }
        running = {threads.submit(digest, path): (key, state) for key, (path, state) in changed.items()}
        new: list[bytes] = []
        saved_s = time.monotonic()
        try:
            for done in as_completed(running):
                key, state = running[done]
                value = state + bytes.fromhex(done.result())
                entries.set(key, value)
                new.append(key + value)
                if time.monotonic() - saved_s >= SAVE_S:
                    self._save(new)
                    new, saved_s = [], time.monotonic()
        finally:
            for future in running:
                future.cancel()
            self._save(new)
        return [entries.get(key)[STATE.size :].hex() for key in keys]

    def _load(self) -> Entries:
        """The entries of the cache; lines that a kill has cut short, or that are none, only cost time."""
        entries = Entries()
        num_lines = 0
        try:
            with self.cache.open("rb") as lines:
                for num_lines, line in enumerate(lines, start=1):  # noqa: B007 - counted
                    with suppress(ValueError):
                        entry = bytes.fromhex(line.decode("ascii"))
                        if len(entry) == ENTRY_BYTES:
                            entries.set(entry[:KEY_BYTES], entry[KEY_BYTES:])
        except OSError:
            return Entries()
        if num_lines > 2 * len(entries) + FILES_AT_ONCE:  # most are of files that have changed since
            text = "\n".join(entry.hex() for entry in entries)
            with suppress(OSError):
                write_atomically(self.cache, text)
        return entries

    def _save(self, entries: list[bytes]) -> None:
        """Adds lines to the cache. Each begins with the end of the line before, which a kill may have cut short."""
        if not entries or not self.cache.parent.is_dir():
            return
        # A full or read-only disk: only time is lost, and the next necessary write reports it.
        with suppress(OSError), self.cache.open("ab", buffering=0) as file:
            file.write(b"".join(b"\n" + entry.hex().encode() for entry in entries))


def _key(path: Path) -> bytes:
    return xxhash.xxh3_128_digest(os.fsencode(path.absolute()))


def _state(path: Path) -> bytes:
    stat = path.stat()
    return STATE.pack(stat.st_size, stat.st_mtime_ns)
