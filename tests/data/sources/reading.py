"""What tests of sources share: a source by its kind, the rows that it reads, and the bad ones among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.data.sources import SOURCES
from pipelines.data.sources.files import FileSource
from pipelines.data.sources.source import BadRow, Row


def make_source(folder: Path, kind: str, path: Any, **options: Any) -> FileSource:
    source = SOURCES[kind].model_validate({"kind": kind, "path": path, **options}).at(folder)
    assert isinstance(source, FileSource)
    return source


def rows(source: FileSource) -> list[Row | BadRow]:
    return [row for part in source.parts() for row in source.read(part)]


def texts(source: FileSource) -> list[str]:
    return [row.text for row in rows(source) if isinstance(row, Row)]


def bad(source: FileSource) -> list[tuple[int, str]]:
    return [(row.row, row.problem) for row in rows(source) if isinstance(row, BadRow)]
