"""The documentation of the installed libraries: real English text that every machine with Rayse has.

    distributions ──RECORD──► documentation files ──divide limit_bytes──► one part for each distribution
    part ──files in a hashed order, up to its quota──► docstrings, README, .md and .rst pages

Left out: tests, vendored copies, generated code, licences (the same in every package), and Rayse itself, whose text
changes with every edit. The selection depends on names and sizes alone, not on the number of workers or the order in
which they finish.
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
from pipelines.data.sources.encodings import encodable
from pipelines.data.sources.files import RAW_CHARACTERS
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.errors import UserError

PYTHON = "python"  # name and group of Python's standard library
SAMPLED_FILES = 16  # read to estimate how much text a distribution has
MIN_QUOTA_BYTES = 20_000  # of a distribution under a small limit: one page is too little for a held-out group
MAX_OVERSIZED_DOCUMENTS = 8  # skipped because they exceed the rest of the quota, before it counts as full
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

    kind: str = Field(default="docstrings", description="Kind of the source: documentation of the installed packages")
    limit_bytes: PositiveInt | None = Field(
        default=None,
        description="Maximum bytes of text, divided so that small packages are read whole and large ones in part",
    )
    packages: list[str] | None = Field(
        default=None, description="Names of distributions to read, `python` for the standard library; default: all"
    )

    def identity(self) -> dict[str, Any]:
        """Returns the options, Python's version, and of each distribution its version and a hash of its RECORD."""
        versions = {library.name: [library.version, library.record_hash] for library in self._distributions()}
        return {**super().identity(), "python": platform.python_version(), "distributions": versions}

    def each_part(self) -> Iterator[Part]:
        """Divides the source into one part for each distribution with text, each with its quota of the limit."""
        selected = self._selected()
        sizes = [text_bytes for _, text_bytes in selected]
        limit = self.limit_bytes or sum(sizes)
        if limit > sum(sizes):  # the estimates may be low: divide what the limit leaves over as well
            sizes = [text_bytes * limit // sum(sizes) for text_bytes in sizes]
        quotas = divide_bytes(limit, sizes)
        return (
            Part(
                index=index,
                where=library.name,
                group=library.name,
                bytes=quota,
                args={"name": library.name, "limit_bytes": None if self.limit_bytes is None else quota},
            )
            for index, ((library, _), quota) in enumerate(zip(selected, quotas, strict=True))
        )

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Yields one row for each document, files in a hashed order, until the part's quota is full."""
        left_bytes = part.args["limit_bytes"]
        row = num_oversized = 0
        for file, text in library_named(part.args["name"]).documents():
            if text is not None and left_bytes is not None:
                size = len(text.encode(errors="replace"))
                if size > left_bytes:
                    num_oversized += 1
                    if num_oversized == MAX_OVERSIZED_DOCUMENTS:
                        return
                    continue
                left_bytes -= size
            row += 1
            if text is None:
                yield BadRow(row=row, problem=f"{file}: its encoding cannot be told; expected UTF-8 or a declared one")
            elif not encodable(text):  # a literal may spell it
                problem = f"{file}: half of a surrogate pair in a docstring; expected text that UTF-8 can write"
                yield BadRow(row=row, problem=problem, raw=text[:RAW_CHARACTERS])
            else:
                yield Row(row=row, text=text, meta={"file": file})

    def _selected(self) -> list[tuple[Library, int]]:
        """(library, estimated bytes of text), by name: all, or under a small limit as many as reach MIN_QUOTA_BYTES."""
        selected: list[tuple[Library, int]] = []
        min_bytes = 0  # that the selected libraries use at their minimum quotas
        for library in sorted(self._distributions(), key=lambda library: shuffle_key(library.name)):
            if self.limit_bytes is not None and min_bytes >= self.limit_bytes:
                break
            text_bytes = library.estimated_bytes()
            if text_bytes:
                selected.append((library, text_bytes))
                min_bytes += min(text_bytes, MIN_QUOTA_BYTES)
        return sorted(selected, key=lambda entry: entry[0].name)

    def _distributions(self) -> list[Library]:
        installed = libraries()
        if self.packages is None:
            return [installed[name] for name in sorted(installed)]
        requested = {normalised_name(name) for name in self.packages}
        missing = sorted(requested - installed.keys())
        if missing:
            raise UserError(f"packages: no installed distribution is named {', '.join(missing)}; see `pip list`")
        return [installed[name] for name in sorted(requested)]


@dataclass(frozen=True)
class Library:
    """An installed distribution, or Python's standard library, with its documentation files."""

    name: str
    version: str
    record: tuple[tuple[str, str, int], ...]  # (path, hash, bytes) of each documentation file, by path
    folder: Path
    readme: str = ""

    @cached_property
    def record_hash(self) -> str:
        return hashlib.blake2b(repr((self.record, self.readme)).encode(), digest_size=16).hexdigest()

    @cached_property
    def shuffled_files(self) -> list[tuple[str, str, int]]:
        """The files in a pseudo-random order that is always the same."""
        return sorted(self.record, key=lambda entry: shuffle_key(entry[0]))

    def estimated_bytes(self) -> int:
        """Estimates the bytes of text from the first shuffled files; exact if there are no more."""
        sample = self.shuffled_files[:SAMPLED_FILES]
        readme_bytes = len(self.readme.encode())
        text_bytes = (
            sum(len(text.encode(errors="replace")) for _, text in self.documents(sample) if text) - readme_bytes
        )
        sample_bytes = sum(size for _, _, size in sample)
        total_bytes = sum(size for _, _, size in self.record)
        return readme_bytes + (text_bytes * total_bytes // sample_bytes if sample_bytes else text_bytes)

    def documents(self, files: Iterable[tuple[str, str, int]] | None = None) -> Iterator[tuple[str, str | None]]:
        """Yields (file, text) of each document; the text is None if it cannot be decoded."""
        if self.readme:
            yield "METADATA", self.readme
        for name, _, _ in self.shuffled_files if files is None else files:
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
    """Returns every installed distribution with documentation, by normalised name, and Python's standard library."""
    installed = {PYTHON: _python()}
    for distribution in metadata.distributions(path=site_folders()):
        library = _library(distribution)
        if library is not None and library.record:
            installed.setdefault(library.name, library)
    return installed


def library_named(name: str) -> Library:
    """Returns one of `libraries()`. Raises UserError if it is not installed here."""
    if name == PYTHON:
        return _python()
    for distribution in metadata.distributions(name=name, path=site_folders()):
        library = _library(distribution)
        if library is not None and library.name == name:
            return library
    raise UserError(f"{name}: not installed on this node; every node needs the same environment (cluster/locks)")


def site_folders() -> list[str]:
    """Lists the folders of this environment's distributions, and of those visible through --system-site-packages.

    Not sys.path: a Ray worker has more entries on it, copies of packages among them."""
    environment = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    return list(dict.fromkeys([*environment, *site.getsitepackages()]))


def _library(distribution: metadata.Distribution) -> Library | None:
    """Returns None for a distribution without a list of its files, or an editable install, whose text may change."""
    record_csv = distribution.read_text("RECORD")
    headers, _, readme = (distribution.read_text("METADATA") or "").partition("\n\n")
    fields = dict(METADATA_FIELD.findall(headers))  # a full parse of all distributions takes a second
    editable = '"editable": true' in (distribution.read_text("direct_url.json") or "")
    if record_csv is None or editable or not fields.keys() >= {"Name", "Version"}:
        return None
    rows = [row for row in csv.reader(record_csv.splitlines()) if len(row) == 3 and row[1] and is_documentation(row[0])]
    record = sorted((path, digest, int(size or 0)) for path, digest, size in rows)
    folder = Path(str(distribution.locate_file("")))
    return Library(normalised_name(fields["Name"]), fields["Version"], tuple(record), folder, readme.strip())


def _python() -> Library:
    folder = Path(sysconfig.get_path("stdlib"))
    record = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if is_documentation(f"{name}/x.py") and not name.startswith("config-")]
        for path in (Path(parent, name) for name in files):
            name = path.relative_to(folder).as_posix()
            if is_documentation(name):
                record.append((name, "", path.stat().st_size))
    return Library(PYTHON, platform.python_version(), tuple(sorted(record)), folder)


def is_documentation(path: str) -> bool:
    """Whether a file of a distribution may hold documentation written for it, by its path."""
    return (
        path.endswith((".py", ".md", ".rst", ".txt"))
        and (path.endswith(".py") or PAGES.search(path) is not None)
        and not SKIPPED_FOLDERS.search(path)
        and not SKIPPED_FILES.search(path)
    )


def decoded(file: Path) -> str | None:
    """Reads a file's text in UTF-8 or the encoding it declares. Returns None if neither fits, "" if it is missing."""
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


def shuffle_key(name: str) -> tuple[int, str]:
    """Sort key that orders names pseudo-randomly, always the same way."""
    return zlib.crc32(name.encode()), name


def divide_bytes(limit: int, sizes: list[int]) -> list[int]:
    """Divides a limit into quotas, one for each size: the size itself, or one common cap (max-min fairness).

    >>> divide_bytes(10, [2, 9, 6])
    [2, 4, 4]
    """
    quotas = [0] * len(sizes)
    left = limit
    smallest_first = sorted(range(len(sizes)), key=lambda index: (sizes[index], index))
    for num_done, index in enumerate(smallest_first):
        quotas[index] = min(sizes[index], left // (len(sizes) - num_done))
        left -= quotas[index]
    return quotas


def normalised_name(name: str) -> str:
    """Normalises a distribution's name as package indexes do (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
