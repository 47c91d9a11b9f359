"""A slot: one small record that several machines read, and replace only if nobody else has in the meantime.

    FileSlot     a file on a disk that all machines share; a lock (flock) makes compare and replace one step
    ObjectSlot   an object; the server compares (If-None-Match, If-Match)

A version stands for one write of the record, so that who reads it twice knows whether it was written in between.
"""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

from pipelines.objects import Objects
from pipelines.store.files import locked, write_atomically

Record = dict[str, Any]


class Slot(Protocol):
    """The place of one record, on a shared disk or in an object store."""

    def read(self) -> tuple[Record | None, Any]:
        """The record and its version; None and None if there is none, or a kill has truncated it."""
        ...

    def write(self, record: Record, version: Any) -> Any:
        """Writes the record if it still has this version (None: if there is none). Returns the new version, or None if
        it has another: somebody else has written it."""
        ...

    def remove(self, record: Record, version: Any) -> bool:
        """Deletes the record if it still has this version. Returns whether it had.

        record: the same with a new heartbeat, for slots that cannot compare and delete in one step."""
        ...


class FileSlot:
    """A record in a file. One lock file serves all records of a folder; it is held for milliseconds."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> tuple[Record | None, Any]:
        """See Slot."""
        try:
            with self.path.open(encoding="utf-8") as file:  # opening makes an NFS client query the server
                stat = os.fstat(file.fileno())
                return _parse(file.read()), (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except FileNotFoundError:
            return None, None

    def write(self, record: Record, version: Any) -> Any:
        """See Slot."""
        with self._locked():
            if self.read()[1] != version:
                return None
            write_atomically(self.path, json.dumps(record))
            return self.read()[1]

    def remove(self, record: Record, version: Any) -> bool:
        """See Slot. Nothing is written: the disk may be full."""
        with self._locked():
            if self.read()[1] != version:
                return False
            self.path.unlink()
            return True

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.path.parent / ".lock")


class ObjectSlot:
    """A record in an object."""

    def __init__(self, objects: Objects, key: str):
        self.objects, self.key = objects, key

    def read(self) -> tuple[Record | None, Any]:
        """See Slot."""
        stored = self.objects.get(self.key)
        return (None, None) if stored is None else (_parse(stored[0]), stored[1])

    def write(self, record: Record, version: Any) -> Any:
        """See Slot. An answer that was lost on its way is looked for: the request was tried again, and then refused."""
        data = json.dumps(record).encode()
        if version is None:
            written = self.objects.create(self.key, data)
        else:
            written = self.objects.replace(self.key, data, version)
        if written is None:
            stored = self.objects.get(self.key)
            written = stored[1] if stored is not None and stored[0] == data else None
        return written

    def remove(self, record: Record, version: Any) -> bool:
        """See Slot. No server deletes by version: the heartbeat, which compares, keeps others away meanwhile."""
        if self.write(record, version) is None:
            return False
        self.objects.delete([self.key])
        return True


def _parse(text: str | bytes) -> Record | None:
    with suppress(ValueError):
        record = json.loads(text)
        return record if isinstance(record, dict) else None
    return None
