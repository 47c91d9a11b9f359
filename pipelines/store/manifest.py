"""The manifest of an artifact: its identity, its provenance, and the size and hash of each of its files."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.store.facts import Facts

NAME = "manifest.json"


class FileEntry(BaseModel):
    """A file of an artifact: its size and the xxh3-128 of its bytes."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    xxh3_128: str


class Manifest(BaseModel):
    """Identity and provenance of an artifact. Holds no secret and no machine path."""

    model_config = ConfigDict(frozen=True)

    kind: str
    fingerprint: str
    stage: str  # kind of the stage
    name: str  # name of the stage in the recipe that made it first
    stage_version: int
    seed: int
    options: dict[str, Any]
    sources: dict[str, Any] = {}
    parents: dict[str, str] = {}  # kind -> fingerprint
    code: str  # digest of the modules the stage imports
    packages: dict[str, str] = {}
    machine: dict[str, Any] = {}
    facts: Facts = {}
    files: dict[str, FileEntry] = {}
    folder: str = ""  # in an object store: the folder, beside the manifest, of the files that go with it
    created: str = ""

    def check_facts(self) -> None:
        """Raises ValueError for a fact that JSON has no spelling for."""
        for name, value in self.facts.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{self.name}: {name} is {value}; expected a finite number or text")


def parse(text: bytes, kind: str, fingerprint: str) -> Manifest:
    """The manifest, or a placeholder for one that cannot be parsed, without a date; `Artifact.damage` reports it."""
    try:
        return Manifest.model_validate_json(text)
    except ValueError:
        files = {NAME: FileEntry(bytes=-1, xxh3_128="")}
        return Manifest(kind=kind, fingerprint=fingerprint, stage="", name="", stage_version=0, seed=0, options={},
                        code="", files=files)  # fmt: skip
