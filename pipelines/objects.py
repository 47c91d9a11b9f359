"""Object stores, s3://bucket/prefix and gs://bucket/prefix, through obstore: whole objects, conditional puts, files.

    Objects("s3://bucket/prefix").put("key", b"…")     get · put · create · replace · delete · list
                                 .upload(file, "key")  download(entry, file): in pieces, tried again, complete or absent
                                 .open(entry)          to read parts of

Credentials and the endpoint come from the environment alone (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
GOOGLE_APPLICATION_CREDENTIALS, …) or from the machine's role. Every request is tried again for a bounded time; then an
error names the object and the remedy. obstore is imported at the first request.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import xxhash

from cluster.errors import ClusterError
from pipelines.errors import UserError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3://", "gs://")
RETRY_S = 60.0
PIECE_BYTES = 16 << 20  # of a file, in one request
MAX_PARTS = 9_000  # S3 takes 10,000
ATTEMPTS = 4  # at an answer that ends before its end
METADATA = ("169.254.169.254", "latest/api/token", "latest/meta-data", "metadata.google")  # in URLs, for roles
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION, or AWS_ENDPOINT_URL for another server)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, the path of a service account's key",
}

T = TypeVar("T")


class Damaged(ClusterError):
    """An object that is gone, or whose bytes are not those that were put there: to ask again does not help."""


Version = dict[str, str]  # what identifies one version of an object: its e_tag; on GCS its generation too


def is_url(path: object) -> bool:
    """Whether a path of a recipe or of the command line names an object store."""
    return str(path).startswith(SCHEMES)


@dataclass(frozen=True)
class Entry:
    """An object as a listing has it."""

    key: str  # below the prefix
    bytes: int
    e_tag: str


class Objects:
    """The objects below a URL.

    url: s3://bucket/prefix or gs://bucket/prefix; retry_s: how long a request is tried again, in seconds.
    Every method raises UserError for a bucket or credentials that are wrong, ClusterError for a server that fails."""

    def __init__(self, url: str, *, retry_s: float = RETRY_S):
        self.scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        self.prefix = "/".join(part for part in prefix.split("/") if part)
        self.url = f"{self.scheme}://{bucket}" + (f"/{self.prefix}" if self.prefix else "")
        self._root, self._retry_s = f"{self.scheme}://{bucket}", retry_s
        if f"{self.scheme}://" not in SCHEMES or not bucket:
            raise UserError(f"{url}: expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")

    def url_of(self, key: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{key}"

    @cached_property
    def _store(self) -> ObjectStore:
        try:
            from obstore.store import from_url
        except ImportError:
            raise UserError(
                f"{self.url}: needs the package obstore, which is not installed; expected it beside Rayse: "
                f"pip install obstore"
            ) from None
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "") if self.scheme == "s3" else ""
        with self._explained("opened", ""):
            return from_url(
                self.url,
                client_options={"allow_http": endpoint.startswith("http://"), "timeout": "120s"},
                retry_config={"max_retries": 20, "retry_timeout": timedelta(seconds=self._retry_s)},
            )

    def check(self) -> None:
        """Raises UserError if the bucket does not exist or cannot be listed."""
        import obstore

        self._read("listed", "", lambda: next(iter(obstore.list(self._store, chunk_size=1)), None))

    def get(self, key: str) -> tuple[bytes, Version] | None:
        """An object's bytes and version; None if there is none."""
        import obstore

        def ask() -> tuple[bytes, Version] | None:
            try:
                result = obstore.get(self._store, key)
                return bytes(result.bytes()), _version(result.meta)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

        return self._read("read", key, ask)

    def put(self, key: str, data: bytes) -> None:
        """Writes an object; one that exists is replaced."""
        import obstore

        with self._explained("written", key):
            obstore.put(self._store, key, data)

    def create(self, key: str, data: bytes) -> Version | None:
        """Writes an object if there is none (If-None-Match: *). Returns its version; None if there is one."""
        return self._conditional_put(key, data, "create")

    def replace(self, key: str, data: bytes, version: Version) -> Version | None:
        """Writes an object if it still has this version (If-Match). Returns the new one; None if it has not."""
        return self._conditional_put(key, data, version)

    def _conditional_put(self, key: str, data: bytes, mode: Any) -> Version | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._explained("written", key):
            try:
                return _version(obstore.put(self._store, key, data, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError as error:  # it was deleted, so it has not this version
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def delete(self, keys: Sequence[str]) -> None:
        """Deletes objects; those that do not exist count as deleted."""
        import obstore

        if keys:
            with self._explained("deleted", keys[0]):
                obstore.delete(self._store, list(keys))

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key begins with a folder, sorted by key. prefix: the folder, without its last slash."""
        import obstore

        def ask() -> list[Entry]:
            pages = obstore.list(self._store, prefix=prefix or None)
            return [Entry(o["path"], o["size"], o["e_tag"] or "") for page in pages for o in page]

        entries = self._read("listed", prefix, ask)
        yield from sorted(entries, key=lambda entry: entry.key)

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders in a folder, sorted; the objects below them are not listed."""
        import obstore

        listing = self._read("listed", prefix, lambda: obstore.list_with_delimiter(self._store, prefix))
        return sorted(folder.rstrip("/").rpartition("/")[2] for folder in listing["common_prefixes"])

    def entry(self, key: str) -> Entry | None:
        """An object's size and version; None if there is none."""
        import obstore

        with self._explained("read", key):
            try:
                meta = obstore.head(self._store, key)
            except FileNotFoundError:
                return None
        return Entry(key, meta["size"], meta["e_tag"] or "")

    def upload(self, file: Path, key: str) -> None:
        """Writes a file as an object, in parts if it is large; the object appears when all parts are there."""
        import obstore

        size = max(PIECE_BYTES, file.stat().st_size // MAX_PARTS + 1)
        with self._explained("written", key):
            obstore.put(self._store, key, file, chunk_size=size, max_concurrency=4)

    def download(self, entry: Entry, file: Path) -> str:
        """Writes an object's bytes to a file that does not exist yet, piece by piece, and syncs it.

        Returns their xxh3-128 (hex), computed as they come. Raises ClusterError if the object changes meanwhile. What
        stands in `file` after an error is not complete."""
        digest = xxhash.xxh3_128()
        with file.open("xb") as target:
            for start in range(0, entry.bytes, PIECE_BYTES):
                piece = self._piece(entry, start, min(start + PIECE_BYTES, entry.bytes))
                digest.update(piece)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
        return digest.hexdigest()

    def open(self, entry: Entry) -> io.RawIOBase:
        """An object as a file to read parts of: each read is one request for its bytes alone."""
        return _Reader(self, entry)

    def _piece(self, entry: Entry, start: int, end: int) -> bytes:
        """The bytes from start to end of an object."""
        import obstore

        options: Any = {"range": (start, end)} | ({"if_match": entry.e_tag} if entry.e_tag else {})

        def ask() -> bytes:
            data = bytes(obstore.get(self._store, entry.key, options=options).bytes())
            if len(data) != end - start:
                raise ClusterError(self._failure("read", entry.key, f"{len(data):,} bytes of {end - start:,} came"))
            return data

        return self._read("read", entry.key, ask)

    def _read(self, verb: str, key: str, ask: Callable[[], T]) -> T:
        """The answer to a request that changes nothing, made again where the connection is closed before its end.

        (obstore itself makes requests again whose answer has not begun, or says that the server is busy.)"""
        from obstore.exceptions import GenericError

        with self._explained(verb, key):
            for attempt in range(1, ATTEMPTS):
                try:
                    return ask()
                except GenericError as error:
                    if "body" not in str(error):
                        raise
                time.sleep(0.2 * 2**attempt)
            return ask()

    @contextmanager
    def _explained(self, verb: str, key: str) -> Iterator[None]:
        """Replaces obstore's errors by a UserError or a ClusterError that names the object and the remedy."""
        try:
            from obstore import exceptions
        except ImportError:
            exceptions = None
        try:
            yield
        except (UserError, ClusterError):
            raise
        except Exception as error:
            if exceptions is None or not isinstance(error, exceptions.BaseError | FileNotFoundError | ValueError):
                raise
            raise self._error(verb, key, error) from error

    def _error(self, verb: str, key: str, error: Exception) -> Exception:
        text = " ".join(str(error).split())
        where = self.url_of(key) if key else self.url
        if "NoSuchBucket" in text:
            return UserError(f"{where}: there is no bucket {self._root}; expected one that exists. Create it, or check "
                             f"its name and AWS_ENDPOINT_URL")  # fmt: skip
        kind = type(error).__name__
        missing = any(part in text for part in METADATA)  # it asked the machine for those of a role
        if missing or kind in ("PermissionDeniedError", "UnauthenticatedError") or "403 Forbidden" in text:
            what = "there are no credentials" if missing else "the server refused the credentials"
            return UserError(
                f"{where}: cannot be {verb}: {what}; expected some that may read and write there. Set "
                f"{CREDENTIALS[self.scheme]} in the environment of every node ({text[:200]})"
            )
        if isinstance(error, FileNotFoundError):
            return Damaged(f"{where}: is gone; expected it to stay while it is {verb}. Run the same command")
        if kind == "PreconditionError":
            return ClusterError(f"{where}: changed while it was {verb}; expected a complete object. Run again once it "
                                f"is complete")  # fmt: skip
        return ClusterError(self._failure(verb, key, text))

    def _failure(self, verb: str, key: str, problem: str) -> str:
        where = self.url_of(key) if key else self.url
        return (
            f"{where}: cannot be {verb}, tried again for up to {self._retry_s:.0f} s ({problem[:300]}); expected the "
            f"server to answer. Check the network and the server, then run the same command: what is complete is kept"
        )


class _Reader(io.RawIOBase):
    """See `Objects.open`."""

    def __init__(self, objects: Objects, entry: Entry):
        self._objects, self._entry, self._position = objects, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._entry.bytes}
        self._position = starts[whence] + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Reads as many bytes, or all that are left."""
        start = self._position
        end = self._entry.bytes if size is None or size < 0 else min(start + size, self._entry.bytes)
        if end <= start:
            return b""
        self._position = end
        return self._objects._piece(self._entry, start, end)


def _version(answer: Any) -> Version:
    return {name: answer[name] for name in ("e_tag", "version") if answer.get(name)}
