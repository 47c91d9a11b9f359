"""Digests of values and of files, the latter cached: a file unchanged in path, size and mtime is not read again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import xxhash


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


class FileDigests:
    """Digests of files, remembered in a JSON file that is cheap to lose."""

    def __init__(self, cache: Path):
        self.cache = cache
        self.known: dict[str, list] | None = None

    def of(self, path: Path) -> str:
        """The file's digest. Raises OSError if it cannot be read."""
        if self.known is None:
            self.known = self._load()
        stat = path.stat()
        key, state = str(path.absolute()), [stat.st_size, stat.st_mtime_ns]
        found = self.known.get(key)
        if found and found[:2] == state:
            return found[2]
        digest = digest_file(path)
        self.known[key] = [*state, digest]
        self._save()
        return digest

    def _load(self) -> dict[str, list]:
        try:
            known = json.loads(self.cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # absent, or cut short by a kill: only time is lost
            return {}
        return known if isinstance(known, dict) else {}

    def _save(self) -> None:
        if not self.cache.parent.is_dir():
            return
        temporary = self.cache.with_name(f".{self.cache.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(self.known), encoding="utf-8")
            os.replace(temporary, self.cache)
        except OSError:  # a full or read-only disk: only time is lost, and what must be written will say so
            temporary.unlink(missing_ok=True)
