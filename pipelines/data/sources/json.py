"""JSON files: one array of objects, {"data": [objects]}, objects one after the other, or one object on each line."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipelines.data.sources import streams
from pipelines.data.sources.jsonl import Jsonl


class Json(Jsonl):
    """Rows from .json files; JSON lines are read there too."""

    kind: str = Field(default="json", description="Kind of the source: JSON files, each an array of objects")
    suffixes: ClassVar = streams.with_compressed(".json")
