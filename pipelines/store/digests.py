"""Digests of values and of files. File digests are cached: same path, size and mtime means the file is not re-read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from pipelines.store.files import write_atomically

THREADS = 8  # that read files: neither reading nor hashing holds Python's lock


def digest_value(value: Any) -> str:
    """xxh3-128 (hex) of a JSON-like value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return xxhash.xxh3_128_hexdigest(text.encode())


def digest_file(path: Path) -> str:
    """xxh3-128 (hex) of a file's bytes."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            state.update(chunk)
    return state.hexdigest()


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


class FileDigests:
    """Digests of files, cached in a JSON file that can be rebuilt at any time."""

    def __init__(self, cache: Path):
        self.cache = cache
        self._entries: dict[str, list[Any]] | None = None  # path -> [size, mtime in ns, digest]; None: not loaded yet

    def of(self, path: Path) -> str:
        """The file's digest. Raises OSError if it cannot be read."""
        return self.of_all([path])[0]

    def of_all(self, paths: Sequence[Path], known: Callable[[Path], str | None] = lambda path: None) -> list[str]:
        """The files' digests, in their order; several files are read at a time. Raises OSError as `of` does.

        known: gives the digest of a file that need not be read for it."""
        if self._entries is None:
            self._entries = self._load()
        entries = self._entries
        states = {str(path.absolute()): _state(path) for path in paths}
        changed = [key for key, state in states.items() if entries.get(key, [])[:2] != state]
        if changed:
            with ThreadPoolExecutor(THREADS) as threads:
                found = threads.map(lambda path: known(path) or digest_file(path), map(Path, changed))
                for key, digest in zip(changed, found, strict=True):
                    entries[key] = [*states[key], digest]
            self._save()
        return [entries[str(path.absolute())][2] for path in paths]

    def _load(self) -> dict[str, list[Any]]:
        try:
            entries = json.loads(self.cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # absent, or truncated by a kill: only time is lost
            return {}
        return entries if isinstance(entries, dict) else {}

    def _save(self) -> None:
        if not self.cache.parent.is_dir():
            return
        with suppress(OSError):  # a full or read-only disk: only time is lost, and the next necessary write reports it
            write_atomically(self.cache, json.dumps(self._entries))
