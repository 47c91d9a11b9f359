"""The documentation of the libraries in the environment: real English text that every machine with Rayse has.

    distributions ──RECORD──► files worth reading ──share out limit_bytes──► one part a distribution
    part ──files in a hashed order, until its share is full──► docstrings, README, .md and .rst pages

Left out: tests, vendored copies, generated code, licences (the same in every package), and Rayse itself, whose text
changes with every edit. What is read is decided by names and sizes alone, so neither the number of workers nor the
order in which they finish changes it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import platform
import re
import site
import sysconfig
import tokenize
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from pipelines.data.sources.docstring_scan import docstrings
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.errors import UserError

PYTHON = "python"  # the group of Python's own library
SAMPLED_FILES = 16  # read to guess how much text a distribution has
LEAST_SHARE_BYTES = 20_000  # of a distribution under a small limit: a page of each would be no group to hold out
PASSED_OVER = 8  # documents too large for what is left of a share, before it counts as full
SKIPPED_FOLDERS = re.compile(
    r"(^|/)(tests?|testing|idle_test|_?vendor(ed)?|third_?party(_files)?|3rdparty|_?externals?|extern|site-packages"
    r"|node_modules|templates?|__pycache__|_bundled|[^/]*\.dist-info|\.\.)/"
)
SKIPPED_FILES = re.compile(
    r"(^|/)(test_[^/]*|[^/]*_test|conftest|[^/]*_pb2(_grpc)?|__editable__[^/]*)\.py$"
    r"|(licen[cs]e|copying|copyright|notice|authors|third.?party|requirements|_template)[^/]*\.\w+$",
    re.IGNORECASE,
)
PAGES = re.compile(
    r"\.(md|rst)$|(^|/)[^/]*(readme|guide|tutorial|changes|history|howto|overview|faq|notes)[^/]*\.txt$", re.I
)
METADATA_FIELD = re.compile(r"^(Name|Version): *(.+)$", re.MULTILINE)


class Docstrings(Source):
    """English text from the docstrings and pages of installed distributions; a distribution is a group."""

    kind: str = "docstrings"
    limit_bytes: PositiveInt | None = Field(
        default=None, description="of text; shared out so that small packages are read whole and large ones in part"
    )
    packages: list[str] | None = Field(
        default=None, description="names of distributions, `python` for its own library; default: all"
    )

    def identity(self) -> dict[str, Any]:
        """The options, Python's version, and of each distribution its version and a hash of its RECORD's lines."""
        read = {found.name: [found.version, found.record_hash] for found in self._distributions()}
        return {**super().identity(), "python": platform.python_version(), "distributions": read}

    def parts(self) -> list[Part]:
        """A part a distribution that has something to read, with its share of the limit."""
        found = self._chosen()
        wants = [text_bytes for _, text_bytes in found]
        limit = self.limit_bytes or sum(wants)
        if limit > sum(wants):  # the estimates may be low: what the limit leaves over is room for that
            wants = [text_bytes * limit // sum(wants) for text_bytes in wants]
        shares = share_out(limit, wants)
        return [
            Part(
                index=index,
                where=library.name,
                group=library.name,
                bytes=share,
                args={"name": library.name, "limit_bytes": None if self.limit_bytes is None else share},
            )
            for index, ((library, _), share) in enumerate(zip(found, shares, strict=True))
        ]

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Documents in a hashed order of files, until the part's share is full."""
        left = part.args["limit_bytes"]
        row = passed_over = 0
        for file, text in library_named(part.args["name"]).documents():
            if text is not None and left is not None:
                size = len(text.encode(errors="replace"))
                if size > left:
                    passed_over += 1
                    if passed_over == PASSED_OVER:
                        return
                    continue
                left -= size
            row += 1
            if text is None:
                yield BadRow(row=row, problem=f"{file}: its encoding cannot be told; expected UTF-8 or a declared one")
            else:
                yield Row(row=row, text=text, meta={"file": file})

    def _chosen(self) -> list[tuple[Library, int]]:
        """(library, its estimated text), by name: all, or under a small limit as many as get a share worth the name."""
        found: list[tuple[Library, int]] = []
        promised = 0
        for library in sorted(self._distributions(), key=lambda library: mixing(library.name)):
            if self.limit_bytes is not None and promised >= self.limit_bytes:
                break
            if text_bytes := library.estimated_bytes():
                found.append((library, text_bytes))
                promised += min(text_bytes, LEAST_SHARE_BYTES)
        return sorted(found, key=lambda entry: entry[0].name)

    def _distributions(self) -> list[Library]:
        every = libraries()
        if self.packages is None:
            return [every[name] for name in sorted(every)]
        wanted = {normalised(name) for name in self.packages}
        missing = sorted(wanted - every.keys())
        if missing:
            raise UserError(f"packages: no installed distribution is named {', '.join(missing)}; see `pip list`")
        return [every[name] for name in sorted(wanted)]


@dataclass(frozen=True)
class Library:
    """An installed distribution, or Python's own library: the files worth reading, and how to find them."""

    name: str
    version: str
    record: tuple[tuple[str, str, int], ...]  # (path, hash, bytes) of each file worth reading, by path
    folder: Path
    readme: str = ""

    @cached_property
    def record_hash(self) -> str:
        return hashlib.blake2b(repr((self.record, self.readme)).encode(), digest_size=16).hexdigest()

    @cached_property
    def mixed(self) -> list[tuple[str, str, int]]:
        """The files in an order that mixes topics and is always the same."""
        return sorted(self.record, key=lambda entry: mixing(entry[0]))

    def estimated_bytes(self) -> int:
        """About how much text there is, from the first files in the mixed order; exact if there are no more."""
        sample = self.mixed[:SAMPLED_FILES]
        readme = len(self.readme.encode())
        found = sum(len(text.encode(errors="replace")) for _, text in self.documents(sample) if text) - readme
        read, listed = (sum(size for _, _, size in files) for files in (sample, self.record))
        return readme + (found * listed // read if read else found)

    def documents(self, files: Iterable[tuple[str, str, int]] | None = None) -> Iterator[tuple[str, str | None]]:
        """(file, text) of each document; the text is None where it cannot be decoded."""
        if self.readme:
            yield "METADATA", self.readme
        for name, _, _ in self.mixed if files is None else files:
            source = decoded(self.folder / name)
            if source is None:
                yield name, None
            elif name.endswith(".py"):
                for text in docstrings(source):
                    yield name, text
            elif source.strip():
                yield name, source


@cache
def libraries() -> dict[str, Library]:
    """Every installed distribution with files worth reading, by normalised name, and Python's own library."""
    found = {PYTHON: _python()}
    for distribution in metadata.distributions(path=site_folders()):
        library = _library(distribution)
        if library is not None and library.record:
            found.setdefault(library.name, library)
    return found


def library_named(name: str) -> Library:
    """One of `libraries()`. Raises UserError if it is not installed here."""
    if name == PYTHON:
        return _python()
    for distribution in metadata.distributions(name=name, path=site_folders()):
        library = _library(distribution)
        if library is not None and library.name == name:
            return library
    raise UserError(f"{name}: not installed on this node; every node needs the same environment (cluster/locks)")


def site_folders() -> list[str]:
    """Where this environment's distributions are, and those below it that it lets through (--system-site-packages).

    Not sys.path: a Ray worker has more on it, copies among them."""
    own = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    return list(dict.fromkeys([*own, *site.getsitepackages()]))


def _library(distribution: metadata.Distribution) -> Library | None:
    """None for a distribution without a list of its files, or installed for editing: its text is not settled."""
    listed, told = distribution.read_text("RECORD"), distribution.read_text("METADATA") or ""
    headers, _, readme = told.partition("\n\n")  # read by hand: a full parse of all of them takes a second
    fields = dict(METADATA_FIELD.findall(headers))
    editable = '"editable": true' in (distribution.read_text("direct_url.json") or "")
    if listed is None or editable or not fields.keys() >= {"Name", "Version"}:
        return None
    rows = [row for row in csv.reader(listed.splitlines()) if len(row) == 3 and row[1] and worth_reading(row[0])]
    record = sorted((path, digest, int(size or 0)) for path, digest, size in rows)
    folder = Path(str(distribution.locate_file("")))
    return Library(normalised(fields["Name"]), fields["Version"], tuple(record), folder, readme.strip())


def _python() -> Library:
    folder = Path(sysconfig.get_path("stdlib"))
    record = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if worth_reading(f"{name}/x.py") and not name.startswith("config-")]
        for path in (Path(place, name) for name in files):
            name = path.relative_to(folder).as_posix()
            if worth_reading(name):
                record.append((name, "", path.stat().st_size))
    return Library(PYTHON, platform.python_version(), tuple(sorted(record)), folder)


def worth_reading(path: str) -> bool:
    """Whether a file of a distribution may hold documentation that is its own."""
    return (
        path.endswith((".py", ".md", ".rst", ".txt"))
        and (path.endswith(".py") or PAGES.search(path) is not None)
        and not SKIPPED_FOLDERS.search(path)
        and not SKIPPED_FILES.search(path)
    )


def decoded(file: Path) -> str | None:
    """A file's text in UTF-8 or the encoding it declares; None if neither fits, nothing if the file is gone."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return ""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _decoded_as_declared(data)


def _decoded_as_declared(data: bytes) -> str | None:
    try:
        return data.decode(tokenize.detect_encoding(io.BytesIO(data).readline)[0])
    except (SyntaxError, UnicodeDecodeError):
        return None


def mixing(name: str) -> tuple[int, str]:
    """Sorts names into an order that has nothing to do with them, and is always the same."""
    return zlib.crc32(name.encode()), name


def share_out(limit: int, wants: list[int]) -> list[int]:
    """Shares that sum to at most `limit`: what is wanted, capped by one height for all (water finding its level).

    >>> share_out(10, [2, 9, 6])
    [2, 4, 4]
    """
    shares = [0] * len(wants)
    left = limit
    for done, place in enumerate(sorted(range(len(wants)), key=lambda place: (wants[place], place))):
        shares[place] = min(wants[place], left // (len(wants) - done))
        left -= shares[place]
    return shares


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
