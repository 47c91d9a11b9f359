"""Snapshots of a draft in an object store: what another machine continues from when this one is lost.

    draft folder ──every 30 s, where it changed──► drafts/<fingerprint>/<nonce>/<n>/<file> ──► …/<n>/snapshot.json
                                                     ──► the lease names the snapshot, if this run still holds it

A snapshot is the draft as it was at one moment, however steadily tasks publish files meanwhile:

    listing ──► moment ──► listing: the files that are as they were, and those that were published before the moment

A file's ctime says when it was published: a rename sets it. Where a file was changed or deleted between the listings,
or a folder came, it is tried again. Small files and logs of lines (which may have more lines than at that moment) are
copied; large ones are linked, uploaded, and must be unchanged after that; else the snapshot is dropped and tried again
later. So to go on from a snapshot is to go on from a kill at that moment, which every stage can. Lost with a machine is
what was done since: at most the time to the next checkpoint or block, 30 s, and the time of the upload.

Files and folders named `*.partial` or as files.UNPUBLISHED are left out: they are being written, and no stage reads
them again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.objects import Damaged, Objects
from pipelines.store.files import UNPUBLISHED
from pipelines.store.lease import Lease
from pipelines.store.manifest import FileEntry
from pipelines.store.remote import Put, download, upload

PERIOD_S = 30.0
SMALL_BYTES = 1 << 20  # copied at once; larger files are linked
LINES = ".jsonl"  # of files that grow by a line at a time for as long as a stage runs: copied however large
TRIES = 5  # at two listings that agree
TICK_S = 0.02  # longer than the step of a file system's clock
LIST = "snapshot.json"
TEMPORARY = re.compile(rf".*\.partial|{UNPUBLISHED.pattern}")
# The times of attempts are saved with the rest as they are, but are no reason for a snapshot: they change each second.
ATTEMPTS = "attempts/"

Stat = tuple[int, int, int]  # inode, size, time of the last change of the bytes in ns


@dataclass(frozen=True)
class Listing:
    """The files and folders of a draft, by name; those that are being written are left out."""

    stats: dict[str, Stat] = field(default_factory=dict)
    published_ns: dict[str, int] = field(default_factory=dict)  # when the file was published: its ctime
    folders: dict[str, int] = field(default_factory=dict)  # inodes

    def agrees(self, earlier: Listing) -> bool:
        """Whether since the earlier listing files were only added, and logs grew."""
        return self.folders == earlier.folders and all(
            name in self.stats and _is_same(name, self.stats[name], stat) for name, stat in earlier.stats.items()
        )


@dataclass(frozen=True)
class Saved:
    """A file in a snapshot."""

    key: str  # of the object
    entry: FileEntry
    stat: Stat


@dataclass
class Snapshots:
    """The snapshots of one draft. on_problem: receives a line when the first one fails; put: puts files."""

    folder: Path
    objects: Objects
    lease: Lease
    key: str  # drafts/<fingerprint>
    on_problem: Callable[[str], object] = print
    put: Put = upload
    _saved: dict[str, Saved] = field(default_factory=dict)  # the last snapshot, by name of the file
    _count: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def pull(self, snapshot: str) -> None:
        """Brings the files of a snapshot to the draft's folder, which is absent before, and complete after.

        Raises Damaged for a snapshot that lacks its list or one of its files."""
        stored = self.objects.get(snapshot)
        if stored is None:
            raise Damaged(f"{self.objects.url_of(snapshot)}: is gone; expected the list of the snapshot's files")
        files = json.loads(stored[0])
        entries = {name: (saved["key"], FileEntry(**saved["entry"])) for name, saved in files.items()}
        download(self.objects, entries, self.folder, {})
        stats = _listing(self.folder).stats
        self._saved = {name: Saved(key, entry, stats[name]) for name, (key, entry) in entries.items() if name in stats}

    def start(self) -> None:
        """Takes snapshots in a background thread until `stop`."""
        self._thread = threading.Thread(target=self._watch, name="snapshots", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, once a snapshot that is being taken is complete."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        period_s, reported = PERIOD_S, False
        while not self._stop.wait(period_s):
            start = time.monotonic()
            try:
                self.take()
            except (OSError, ClusterError, UserError) as error:  # refused, perhaps until a role's token is renewed
                if not reported:
                    self.on_problem(f"{self.objects.url_of(self.key)}: no copy of the draft ({error}); the run goes "
                                    f"on and tries again")  # fmt: skip
                reported = True
            period_s = max(PERIOD_S, 3 * (time.monotonic() - start))

    def take(self) -> bool:
        """Takes a snapshot. Returns False if nothing has changed, if the draft changes too fast, or if this process no
        longer holds the lease."""
        with self._guard:
            return self._take(self.folder.parent / f".{self.folder.name}.links")

    def _take(self, links: Path) -> bool:
        shutil.rmtree(links, ignore_errors=True)
        try:
            frozen = self._freeze(links)
            if frozen is None:
                return False
            stats, sources = frozen
            if _work(stats) == _work({name: saved.stat for name, saved in self._saved.items()}):
                return False
            return self._put(stats, sources)
        finally:
            shutil.rmtree(links, ignore_errors=True)

    def _freeze(self, links: Path) -> tuple[dict[str, Stat], dict[str, Path]] | None:
        """The state of every file at one moment, and a link or a copy of each one that has changed; None if files keep
        changing."""
        for _ in range(TRIES):
            shutil.rmtree(links, ignore_errors=True)
            before = _listing(self.folder)
            time.sleep(TICK_S)
            links.mkdir(parents=True)
            moment_ns = links.stat().st_ctime_ns  # by the clock of the files
            after = _listing(self.folder)
            if not after.agrees(before):
                continue
            stats = {
                name: stat
                for name, stat in after.stats.items()
                if after.published_ns[name] < moment_ns or name in before.stats
            }
            with suppress(FileNotFoundError):  # deleted meanwhile
                sources = self._hold(stats, links)
                if all(_is_same(name, _stat(self.folder / name), stats[name]) for name in sources):
                    return stats, sources
        return None

    def _hold(self, stats: dict[str, Stat], links: Path) -> dict[str, Path]:
        """Links or copies the files that are not in the last snapshot."""
        sources: dict[str, Path] = {}
        for number, (name, stat) in enumerate(stats.items()):
            if name in self._saved and self._saved[name].stat == stat:
                continue
            target = sources[name] = links / str(number)
            if _is_copied(name, stat):
                shutil.copyfile(self.folder / name, target)
            else:
                os.link(self.folder / name, target)
        return sources

    def _put(self, stats: dict[str, Stat], sources: dict[str, Path]) -> bool:
        self._count += 1
        folder = f"{self.key}/{self.lease.nonce}/{self._count}"
        if not self.lease.nonce:
            return False
        digests = self.put(self.objects, {file: f"{folder}/{name}" for name, file in sources.items()})
        saved = {name: old for name, old in self._saved.items() if stats.get(name) == old.stat}
        for name, file in sources.items():
            entry = FileEntry(bytes=file.stat().st_size, xxh3_128=digests[file])
            saved[name] = Saved(f"{folder}/{name}", entry, stats[name])
        linked = [name for name in sources if not _is_copied(name, stats[name])]
        if any(_stat(sources[name]) != stats[name] for name in linked):
            return False  # they are being written: this is no state that the draft was in
        listed = {name: {"key": s.key, "entry": s.entry.model_dump()} for name, s in sorted(saved.items())}
        self.objects.put(f"{folder}/{LIST}", json.dumps(listed, ensure_ascii=False).encode())
        if not self.lease.update(snapshot=f"{folder}/{LIST}"):
            return False
        self._drop_unused({s.key for s in saved.values()} | {f"{folder}/{LIST}"})
        self._saved = saved
        return True

    def _drop_unused(self, used: set[str]) -> None:
        """Deletes what this run has put or has taken over, and the new snapshot does not use. Objects of a later holder
        are never among them."""
        if self.lease.nonce:
            written = {entry.key for entry in self.objects.list(f"{self.key}/{self.lease.nonce}")}
            self.objects.delete(sorted((written | {saved.key for saved in self._saved.values()}) - used))


def _listing(folder: Path) -> Listing:
    listing = Listing()
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not TEMPORARY.fullmatch(name)]
        with suppress(FileNotFoundError):
            listing.folders[path] = os.stat(path).st_ino
        for name in names:
            if not TEMPORARY.fullmatch(name):
                file = Path(path) / name
                with suppress(FileNotFoundError):
                    stat = file.stat()
                    key = file.relative_to(folder).as_posix()
                    listing.stats[key] = stat.st_ino, stat.st_size, stat.st_mtime_ns
                    listing.published_ns[key] = stat.st_ctime_ns
    return listing


def _is_same(name: str, stat: Stat, earlier: Stat) -> bool:
    """Whether a file is what it was, or a log with more lines, or the time of an attempt."""
    grew = name.endswith(LINES) and stat[0] == earlier[0] and stat[1] >= earlier[1]
    return stat == earlier or grew or name.startswith(ATTEMPTS)


def _is_copied(name: str, stat: Stat) -> bool:
    return stat[1] < SMALL_BYTES or name.endswith(LINES)


def _work(stats: dict[str, Stat]) -> dict[str, Stat]:
    return {name: stat for name, stat in stats.items() if not name.startswith(ATTEMPTS)}


def _stat(file: Path) -> Stat:
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
