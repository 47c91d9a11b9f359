"""Digests of values and of files. File digests are cached: same path, size and mtime means the file is not re-read."""

from __future__ import annotations

import itertools
import json
import os
import struct
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from pipelines.store.files import write_atomically

THREADS = 8  # that read files: neither reading nor hashing holds Python's lock
FILES_AT_ONCE = 1000  # that wait for these threads
SAVE_S = 1.0  # a kill costs the digests of so long, and the files that are being read
STATE = struct.Struct("<qq")  # size and time of the last change in ns
KEY_BYTES = 16
ENTRY_BYTES = KEY_BYTES + STATE.size + 16


def digest_value(value: Any) -> str:
    """xxh3-128 (hex) of a JSON-like value, independent of the order of its keys."""
    encoder = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    state = xxhash.xxh3_128()
    for piece in encoder.iterencode(value):  # the names of many files are never one text
        state.update(piece.encode())
    return state.hexdigest()


def digest_file(path: Path) -> str:
    """xxh3-128 (hex) of a file's bytes. Raises OSError, which names the file."""
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                state.update(chunk)
    except OSError as error:
        error.filename = str(path)  # that of a disk which fails while it is read has none
        raise
    return state.hexdigest()


class FileDigests:
    """Digests of files, cached in a file that can be rebuilt at any time: a line for each, added once it is hashed."""

    def __init__(self, cache: Path):
        self.cache = cache
        # Digest of the path -> size, time of the last change and digest of the file; None: not loaded yet. As bytes,
        # since a corpus may have millions of files.
        self._entries: dict[bytes, bytes] | None = None

    def of(self, path: Path) -> str:
        """The file's digest. Raises OSError if it cannot be read."""
        return self.of_all([path])[0]

    def of_all(self, paths: Iterable[Path], known: Callable[[Path], str | None] = lambda path: None) -> list[str]:
        """The files' digests, in their order; several files are read at a time. Raises OSError as `of` does.

        known: gives the digest of a file that need not be read for it."""

        def digest(path: Path) -> str:
            return known(path) or digest_file(path)

        if self._entries is None:
            self._entries = self._load()
        left = iter(paths)
        digests: list[str] = []
        with ThreadPoolExecutor(THREADS) as threads:
            while some := list(itertools.islice(left, FILES_AT_ONCE)):
                digests += self._of_some(some, self._entries, threads, digest)
        return digests

    def _of_some(
        self, paths: list[Path], entries: dict[bytes, bytes], threads: ThreadPoolExecutor, digest: Callable[[Path], str]
    ) -> list[str]:
        keys = [xxhash.xxh3_128_digest(os.fsencode(path.absolute())) for path in paths]
        states = [_state(path) for path in paths]
        changed = {
            key: (path, state)
            for key, path, state in zip(keys, paths, states, strict=True)
            if not entries.get(key, b"").startswith(state)
        }
        running = {threads.submit(digest, path): (key, state) for key, (path, state) in changed.items()}
        new: list[bytes] = []
        saved_s = time.monotonic()
        try:
            for done in as_completed(running):
                key, state = running[done]
                entries[key] = state + bytes.fromhex(done.result())
                new.append(key + entries[key])
                if time.monotonic() - saved_s >= SAVE_S:
                    self._save(new)
                    new, saved_s = [], time.monotonic()
        finally:
            for future in running:
                future.cancel()
            self._save(new)
        return [entries[key][STATE.size :].hex() for key in keys]

    def _load(self) -> dict[bytes, bytes]:
        """The entries of the cache; lines that a kill has cut short, or that are none, only cost time."""
        entries: dict[bytes, bytes] = {}
        num_lines = 0
        try:
            with self.cache.open("rb") as lines:
                for num_lines, line in enumerate(lines, start=1):  # noqa: B007 - counted
                    with suppress(ValueError):
                        entry = bytes.fromhex(line.decode("ascii"))
                        if len(entry) == ENTRY_BYTES:
                            entries[entry[:KEY_BYTES]] = entry[KEY_BYTES:]
        except OSError:
            return {}
        if num_lines > 2 * len(entries) + FILES_AT_ONCE:  # most are of files that have changed since
            text = "\n".join((key + entry).hex() for key, entry in entries.items())
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


def _state(path: Path) -> bytes:
    stat = path.stat()
    return STATE.pack(stat.st_size, stat.st_mtime_ns)
