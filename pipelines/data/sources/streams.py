"""The bytes of a user's file as readers want them: decompressed, in UTF-8, without a byte order mark, in bounded lines.

    file ──range──► bytes ──gzip, zstd, bzip2, xz──► bytes ──encoding──► UTF-8 ──► read, readline, damage

Memory does not depend on the file. Damaged data end the stream like the end of a file, and `damage` says so: what
stands before it is read, and the reader reports what is lost.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pipelines.data.sources import encodings
from pipelines.data.sources.encodings import BOM

COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
RATIO = 3  # typical compression of text
BUFFER_BYTES = 1 << 20
LINE_FEEDS = b"\n" * 4  # more than a character has bytes
READ_BYTES = 1 << 14  # decompressed at once: as much may be lost where data are damaged
SAMPLE_BYTES = 64 << 10
NUM_SAMPLES = 8  # places of a large file that are looked at for its encoding
MAX_COMPRESSED_SAMPLE = 1 << 20  # of a compressed file, which can only be read from its beginning


def with_compressed(*suffixes: str) -> tuple[str, ...]:
    """Each suffix alone, and with the suffix of each compression.

    >>> with_compressed(".txt")
    ('.txt', '.txt.gz', '.txt.zst', '.txt.bz2', '.txt.xz')
    """
    return tuple(f"{suffix}{compression}" for suffix in suffixes for compression in ("", *COMPRESSED))


def is_compressed(file: Path) -> bool:
    """Whether a file is compressed, by its name."""
    return file.suffix.lower() in COMPRESSED


class Utf8Stream(io.BufferedReader):
    """A file's text as bytes in UTF-8. Bytes that have no character in its encoding come through as invalid UTF-8."""

    def __init__(self, raw: io.RawIOBase, source: _Bytes):
        super().__init__(raw, BUFFER_BYTES)
        self.source = source

    @property
    def damage(self) -> str:
        """Why the file ended before its end, once it is read so far; empty if it is whole."""
        return self.source.damage

    @property
    def file_position(self) -> int:
        """Bytes of the file that were read, compressed as they are."""
        return self.source.plain.tell()

    def close(self) -> None:
        super().close()
        self.source.close()


def open_utf8(file: Path, encoding: str, start: int = 0, stop: int | None = None) -> Utf8Stream:
    """Opens a text file. start, stop: range of bytes of a plain file, to be read alone; it ends with a line feed, and
    more of the file follows."""
    source = _Bytes(file, start, stop)
    raw = source if encoding == "utf-8" else _Transcoded(source, encodings.codec(encoding))
    stream = Utf8Stream(raw, source)
    while start == 0 and stream.peek(len(BOM)).startswith(BOM):
        stream.read(len(BOM))
    return stream


def open_bytes(file: Path) -> Utf8Stream:
    """Opens a file of any bytes, decompressed if its name says that it is compressed."""
    source = _Bytes(file, 0, None)
    return Utf8Stream(source, source)


def bounded_lines(stream: Utf8Stream, max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yields (line, its size) of each line, ends included; of a line over the maximum only a beginning is kept."""
    while line := stream.readline(max_bytes + 1):
        size = len(line)
        if size > max_bytes and not line.endswith(b"\n"):
            while rest := stream.readline(BUFFER_BYTES):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
            line = line[:1024]
        yield line, size


def sample(file: Path) -> bytes:
    """Bytes from the beginning of a file and, if it is large and plain, whole lines from places spread over it."""
    if is_compressed(file):
        with open_bytes(file) as stream:
            return stream.read(MAX_COMPRESSED_SAMPLE)
    with file.open("rb") as plain:
        first = plain.read(SAMPLE_BYTES)
        size = file.stat().st_size
        if size <= SAMPLE_BYTES or b"\0" in first:  # in UTF-16 a line's end is not a byte
            return first
        pieces = [first[: first.rfind(b"\n") + 1] or first]
        for number in range(1, NUM_SAMPLES):
            plain.seek(number * size // NUM_SAMPLES)
            plain.readline(SAMPLE_BYTES)
            piece = plain.read(SAMPLE_BYTES)
            pieces.append(piece[: piece.rfind(b"\n") + 1])
        return b"".join(pieces)


class _Bytes(io.RawIOBase):
    """A file's bytes, decompressed. Damaged data are the end of it, and `damage` says what is wrong."""

    def __init__(self, file: Path, start: int, stop: int | None):
        self.file = file
        self.damage = ""
        self.compression = COMPRESSED.get(file.suffix.lower(), "")
        self.plain: BinaryIO = file.open("rb") if self.compression else file.open("rb", buffering=0)  # type: ignore[assignment]
        self.left = None if stop is None else stop - start
        self.read_some = _decompressor(self.plain, self.compression) if self.compression else self.plain.read
        if start:
            self.plain.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = len(buffer) if self.left is None else min(len(buffer), self.left)
        data = self._decompress(min(size, READ_BYTES)) if self.compression else self.read_some(size)
        buffer[: len(data)] = data
        if self.left is not None:
            self.left -= len(data)
        return len(data)

    def _decompress(self, size: int) -> bytes:
        if self.damage:
            return b""
        try:
            return self.read_some(size)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            self.damage = f"damaged or not {self.compression} ({error}); expected a complete {self.file.suffix} file"
            return b""

    def close(self) -> None:
        self.plain.close()
        super().close()


class _Transcoded(io.RawIOBase):
    """Text of one encoding as UTF-8."""

    def __init__(self, stream: _Bytes, codec: str):
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder(codec)("mark")
        self.data = b""
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self.data and not self.ended:
            encoded = self.stream.read(SAMPLE_BYTES) or b""
            self.ended = not encoded
            # After a range another line begins, of which a character that is cut at the range's end takes nothing.
            after = LINE_FEEDS if self.ended and self.stream.left is not None else b""
            text = self.decoder.decode(encoded or after, final=self.ended)
            self.data = text[: len(text) - len(after)].encode("utf-8", "surrogatepass")
        data, self.data = self.data[: len(buffer)], self.data[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _decompressor(plain: BinaryIO, compression: str) -> Callable[[int], bytes]:
    """A function that reads decompressed data, of all members or frames of a file."""
    if compression == "zstd":
        return _frames(plain)
    # read1 decompresses at most once a call, so that an error loses nothing of what stands before it
    if compression == "gzip":
        return gzip.GzipFile(fileobj=plain, mode="rb").read1
    return _members(plain, bz2.BZ2Decompressor if compression == "bzip2" else lzma.LZMADecompressor)


def _frames(plain: BinaryIO) -> Callable[[int], bytes]:
    """A function that reads the frames of a zstd file. Arrow gives nothing of a read that meets damage: what stands
    before it is then read byte by byte."""
    import pyarrow

    def opened() -> pyarrow.CompressedInputStream:
        plain.seek(0)
        return pyarrow.CompressedInputStream(pyarrow.PythonFile(plain, "r"), "zstd")

    streams, position = [opened()], 0  # one that is no longer referred to would close the file
    damage: OSError | None = None

    def read(size: int) -> bytes:
        nonlocal position, damage
        if damage is not None:
            raise damage
        data = b""
        try:
            data = streams[0].read(size)
        except OSError as error:
            damage = error
            streams.append(opened())
            skipped = 0
            while skipped < position:
                skipped += len(streams[1].read(min(position - skipped, BUFFER_BYTES)))
            with suppress(OSError):
                while byte := streams[1].read(1):
                    data += byte
            if not data:
                raise
        position += len(data)
        return data

    return read


def _members(plain: BinaryIO, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> Callable[[int], bytes]:
    """A function that reads the members of a file one after the other. Python's own classes end where one begins with
    damage or stands after padding, as if nothing followed."""
    member = new()

    def read(size: int) -> bytes:
        nonlocal member
        while True:
            compressed = b""
            if member.eof:
                compressed = member.unused_data.lstrip(b"\0")
                while not compressed and (more := plain.read(BUFFER_BYTES)):
                    compressed = more.lstrip(b"\0")
                if not compressed:
                    return b""
                member = new()
            elif member.needs_input and not (compressed := plain.read(BUFFER_BYTES)):
                raise EOFError("the file ends within it")
            if data := member.decompress(compressed, size):
                return data

    return read
