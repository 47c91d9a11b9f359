"""Images in archives as WebDataset writes them: members that share a name up to its first dot are one row.

    shard.tar: 0001.jpg 0001.txt 0001.json 0002.jpg … ──in order──► rows

Members are read in memory and never written, so no name can lead out of a folder. Links and devices are not followed.
An archive that breaks off gives what stands before the damage, and one bad row for the damage.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipelines.data.sources.captions import RECORD_SUFFIX, TEXT_SUFFIXES, CaptionColumns, caption_of_files
from pipelines.data.sources.encodings import readable_name
from pipelines.data.sources.files import FileProblem
from pipelines.data.sources.image_folders import IMAGE_SUFFIXES, image_row, too_large
from pipelines.data.sources.source import BadRow, Row

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_META_BYTES = 1000  # of a member of another kind, such as .cls, that is kept beside the caption


class _Damaged(Exception):
    """The archive cannot be read any further."""


# tarfile's own errors about a member's header, by name: only the class above them is public.
DAMAGED_HEADERS = ("InvalidHeaderError", "TruncatedHeaderError", "SubsequentHeaderError")
END_MARK, END_OF_FILE = "EOFHeaderError", "EmptyHeaderError"
HeaderError = tarfile.HeaderError


class _StrictMember(tarfile.TarInfo):
    """A member whose damaged or missing header is an error: tarfile takes it for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _StrictMember:
        assert isinstance(tarfile, _Archive)
        try:
            member = super().fromtarfile(tarfile)
        except HeaderError as error:
            kind = type(error).__name__
            if kind in DAMAGED_HEADERS:
                raise _Damaged(str(error)) from None
            if kind == END_OF_FILE and tarfile.offset and not tarfile.ended:
                raise _Damaged("it breaks off without an end mark") from None
            tarfile.ended = tarfile.ended or kind == END_MARK
            raise
        tarfile.ended = False
        return member


class _Archive(tarfile.TarFile):
    """An archive read as a stream, over its end mark: archives are also joined by `cat`."""

    tarinfo = _StrictMember
    ended = False  # whether the last thing that was read is an end mark


@dataclass
class _Group:
    """The members of one key, as far as they are read."""

    key: str
    files: dict[str, bytes] = field(default_factory=dict)  # by suffix: captions and records
    image: tuple[str, bytes] | None = None  # name and content of the first image
    meta: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, suffix: str, name: str, data: bytes) -> None:
        if suffix.endswith(IMAGE_SUFFIXES):
            if self.image is None:
                self.image = (name, data)
            else:
                self.meta[suffix.removeprefix(".")] = f"{len(data):,} bytes, not read: a second image"
        elif suffix in (*TEXT_SUFFIXES, RECORD_SUFFIX):
            self.files[suffix] = data
        elif len(data) <= MAX_META_BYTES and _is_text(data):
            self.meta[suffix.removeprefix(".")] = data.decode().strip()
        else:
            self.meta[suffix.removeprefix(".")] = f"{len(data):,} bytes, not read"

    def row(self, number: int, columns: CaptionColumns) -> Row | BadRow:
        if self.image is None:
            members = ", ".join([*self.files, *(f".{name}" for name in self.meta)])
            return BadRow(row=number, problem=f"{self.key}: no image; it has {members or 'nothing that is read'}")
        caption = caption_of_files(self.files, columns)
        if isinstance(caption, str):
            return BadRow(row=number, problem=f"{self.key}: {caption}")
        row = image_row(number, *self.image, caption)
        return row.model_copy(update={"meta": {**row.meta, **self.meta}, "group": caption.group or self.key})


def read_archive(file: Path, columns: CaptionColumns, max_bytes: int) -> Iterator[Row | BadRow]:
    """Yields a row for each key of an archive, of members of at most so many bytes.

    Raises FileProblem if it is no archive at all."""
    number, num_members, group = 0, 0, _Group("")

    def finished(group: _Group) -> Iterator[Row | BadRow]:
        nonlocal number
        if group.key:
            number += 1
            yield group.row(number, columns)
        for problem in group.problems:
            number += 1
            yield BadRow(row=number, problem=problem)

    try:
        for member, data in _members(file, max_bytes):
            num_members += 1
            name = readable_name(member.name)
            key, suffix = split_name(name)
            if key != group.key:
                yield from finished(group)
                group = _Group(key)
            if isinstance(data, bytes):
                group.add(suffix, name, data)
            else:
                group.problems.append(f"{name}: {data}")
        yield from finished(group)
    except (_Damaged, tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if not num_members:
            raise FileProblem(f"damaged or no tar archive ({error}); expected a .tar file of images") from None
        if group.image is not None and group.files:  # complete, unless its caption is what is missing
            yield from finished(group)
        where = f"after {num_members:,} members"
        problem = f"the archive is damaged {where} ({error}); what stands before is read, what follows is lost"
        yield BadRow(row=number + 1, problem=problem)


def split_name(name: str) -> tuple[str, str]:
    """Splits a member's name into key and suffix, at the first dot of its last part.

    >>> split_name("./train/0001.seg.PNG")
    ('train/0001', '.seg.png')
    """
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = last.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def _members(file: Path, max_bytes: int) -> Iterator[tuple[tarfile.TarInfo, bytes | str]]:
    """Yields every member that is no folder and not hidden, with its content or why it is not read."""
    # 512 bytes at a time: what a damaged gzip file still gives is lost up to the end of the read that fails.
    with _open(file) as stream, _Archive.open(fileobj=stream, mode="r|", ignore_zeros=True, bufsize=512) as archive:
        for member in archive:
            parts = member.name.removeprefix("./").split("/")
            if member.isdir() or parts[-1].startswith(".") or "__MACOSX" in parts:
                continue
            if not member.isreg():
                yield member, "a link or a device; only files are read, and links are not followed"
            elif member.size > max_bytes:
                yield member, too_large(member.size, max_bytes)
            else:
                content = archive.extractfile(member)
                data = content.read() if content else b""
                if len(data) < member.size:
                    raise _Damaged(f"{member.name} breaks off after {len(data):,} of {member.size:,} bytes")
                yield member, data


def _open(file: Path) -> BinaryIO | gzip.GzipFile:
    return file.open("rb") if file.suffix.lower() == ".tar" else gzip.open(file)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
