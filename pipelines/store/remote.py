"""The side of a store that is an object store: artifacts, records and drafts as objects.

    artifacts/<kind>/<fingerprint>/manifest.json       created last, and only if there is none: the artifact is complete
    artifacts/<kind>/<fingerprint>/<nonce>/<file>      its files, in a folder of the run that put them there
    aside/<kind>-<fingerprint>-<time>/manifest.json    set aside: its files stay where they are
    leases/ drafts/                                    pipelines/store/lease.py, snapshots.py
    runs/ sweeps/ sources/                             records, and what `rayse submit` uploads

A run that lost its lease can only leave files that no manifest names. On a machine, a copy of an artifact is complete
or absent: downloaded beside its place, compared with the manifest's sizes and hashes, then renamed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import RawIOBase
from pathlib import Path

from cluster.errors import ClusterError
from pipelines.objects import Damaged, Entry, Objects
from pipelines.store.digests import digest_file, digest_value
from pipelines.store.files import sync
from pipelines.store.manifest import NAME, FileEntry, Manifest, parse

PARALLEL = 4  # files at once
Put = Callable[[Objects, Mapping[Path, str]], dict[Path, str]]  # puts files, by their keys; returns their digests
SCRATCH = "RAYSE_SCRATCH"  # environment variable: the folder for drafts and copies of a store of objects


class Remote:
    """The objects of a store. url: s3://bucket/prefix or gs://bucket/prefix."""

    def __init__(self, url: str):
        self.objects = Objects(url)
        self.leases = Objects(url, retry_s=10)  # a heartbeat must not wait long for one request

    def manifest(self, kind: str, fingerprint: str) -> tuple[Manifest, bytes] | None:
        """The manifest and its text; None if the artifact is incomplete or absent."""
        stored = self.objects.get(f"artifacts/{kind}/{fingerprint}/{NAME}")
        return None if stored is None else (parse(stored[0], kind, fingerprint), stored[0])

    def manifests(self, fingerprint: str | None = None) -> Iterator[tuple[Manifest, bytes]]:
        """The manifests of all complete artifacts, or of those with this fingerprint."""
        if fingerprint is None:
            keys = [entry.key.split("/") for entry in self.objects.list("artifacts")]
            names = [(key[1], key[2]) for key in keys if len(key) == 4 and key[3] == NAME]
        else:
            names = [(kind, fingerprint) for kind in self.objects.folders("artifacts")]
        for kind, name in names:
            stored = self.manifest(kind, name)
            if stored is not None:
                yield stored

    def put(self, folder: Path, manifest: Manifest, text: bytes, put: Put) -> bool:
        """Uploads the manifest's files from a folder by `put`, then creates the manifest. Returns False, and takes the
        files back, where the artifact exists already: another run has made it.

        Raises ClusterError, and takes them back, if what was put has not the manifest's digests."""
        prefix = f"artifacts/{manifest.kind}/{manifest.fingerprint}"
        keys = {name: f"{prefix}/{manifest.folder}/{name}" for name in manifest.files}
        digests = put(self.objects, {folder / name: key for name, key in keys.items()})
        for name, entry in manifest.files.items():
            if digests[folder / name] != entry.xxh3_128:
                self.objects.delete(list(keys.values()))
                raise ClusterError(
                    f"{folder / name}: its bytes were others when it was put as an object than when it was hashed; "
                    f"expected the same on all nodes. Check the file system of {SCRATCH}, then run the same command"
                )
        if self.objects.create(f"{prefix}/{NAME}", text) is None:
            existing = self.objects.get(f"{prefix}/{NAME}")
            if existing is None or existing[0] != text:  # else the answer to our own request was lost on its way
                self.objects.delete(list(keys.values()))
                return False
        return True

    def damage(self, manifest: Manifest) -> str | None:
        """The first object that is missing or has another size, or None. Bytes are compared when they are fetched."""
        prefix = f"artifacts/{manifest.kind}/{manifest.fingerprint}/{manifest.folder}"
        sizes = {entry.key: entry.bytes for entry in self.objects.list(prefix)} if manifest.files else {}
        for name, entry in manifest.files.items():
            if entry.bytes < 0:
                return f"{self.objects.url_of(f'artifacts/{manifest.kind}/{manifest.fingerprint}/{NAME}')}: not " \
                       f"readable as a manifest"  # fmt: skip
            key = f"{prefix}/{name}"
            if key not in sizes:
                return f"{self.objects.url_of(key)}: missing"
            if sizes[key] != entry.bytes:
                return f"{self.objects.url_of(key)}: {sizes[key]:,} bytes, the manifest says {entry.bytes:,}"
        return None

    def set_aside(self, manifest: Manifest, name: str) -> str:
        """Moves the manifest to aside/<name>/; the files stay where they are, and no longer count. Returns its URL."""
        key = f"artifacts/{manifest.kind}/{manifest.fingerprint}/{NAME}"
        stored = self.objects.get(key)
        if stored is None:
            raise FileNotFoundError(key)  # another run was quicker
        aside = f"aside/{name}/{NAME}"
        self.objects.put(aside, stored[0])
        self.objects.delete([key])
        return self.objects.url_of(aside)

    def fetch(self, manifest: Manifest, text: bytes, folder: Path, names: Iterable[str] | None = None) -> None:
        """Brings an artifact's files, or those with these names, to a folder, which appears complete or not at all.

        Raises ClusterError, naming the object, if its bytes are not those of the manifest."""
        names = list(manifest.files if names is None else names)
        prefix = f"artifacts/{manifest.kind}/{manifest.fingerprint}/{manifest.folder}"
        files = {name: (f"{prefix}/{name}", manifest.files[name]) for name in names}
        download(self.objects, files, folder, {NAME: text})

    def open(self, manifest: Manifest, name: str) -> RawIOBase:
        """One of an artifact's files, to read parts of. Its hash is not compared."""
        key = f"artifacts/{manifest.kind}/{manifest.fingerprint}/{manifest.folder}/{name}"
        return self.objects.open(Entry(key, manifest.files[name].bytes, ""))


def upload(objects: Objects, files: Mapping[Path, str]) -> dict[Path, str]:
    """Puts files, by their keys. Returns the xxh3-128 (hex) of each. Raises what `Objects.upload` raises."""

    def put(item: tuple[Path, str]) -> tuple[Path, str]:
        objects.upload(*item)
        return item[0], digest_file(item[0])

    with ThreadPoolExecutor(PARALLEL) as pool:
        return dict(pool.map(put, files.items()))


def download(
    objects: Objects, files: Mapping[str, tuple[str, FileEntry]], folder: Path, texts: Mapping[str, bytes]
) -> None:
    """Brings objects to a folder, which appears complete or not at all; one that exists is replaced.

    files: by their name in the folder, the key and what its bytes must be; texts: further files.
    Raises ClusterError, naming the object: Damaged for one that is missing or has other bytes."""
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"

    def fetch(name: str) -> None:
        key, expected = files[name]
        file = partial / name
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            objects.download(Entry(key, expected.bytes, ""), file)
        except ClusterError as error:
            stored = objects.entry(key)
            if stored is None or stored.bytes != expected.bytes:  # else the server fails
                raise Damaged(str(error)) from error
            raise
        if digest_file(file) != expected.xxh3_128:
            raise Damaged(
                f"{objects.url_of(key)}: its bytes are not those that were put there (their hash differs); expected "
                f"an object that nothing else writes. Set the artifact aside with --force, and it is made again"
            )

    partial.mkdir(parents=True)
    try:
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(fetch, files))
        for name, text in texts.items():
            (partial / name).write_bytes(text)
            sync(partial / name)
        if folder.exists():
            os.replace(folder, partial.with_suffix(".old"))
        partial.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(partial.with_suffix(".old"), ignore_errors=True)


def scratch_folder(url: str) -> Path:
    """The folder of this machine for a store of objects: in $RAYSE_SCRATCH, by default in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    scratch = Path(os.environ.get(SCRATCH) or f"{cache}/rayse").expanduser()
    name = "".join(c if c.isalnum() or c in "-." else "-" for c in url.partition("://")[2])
    return scratch / f"{name[:80]}-{digest_value(url)[:8]}"
