"""Runs a stage that needs no Ray by itself, on a user's files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.session import Session
from pipelines.data.dialogues import prompt_splits
from pipelines.data.sources import SOURCES
from pipelines.evaluator import Evaluator
from pipelines.stage import Facts, Stage, Work
from pipelines.stages import STAGES
from pipelines.store.artifacts import Artifact, Draft, Manifest, Store


@dataclass
class Watch:
    notes: list[str] = field(default_factory=list)

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        assert done <= total

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass(frozen=True)
class Made:
    """What a stage left, and its facts."""

    out: Path
    facts: Facts

    @property
    def rejected(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]

    @property
    def digests(self) -> dict[str, str]:
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(self.out.iterdir())}


def make(
    kind: str,
    folder: Path,
    *,
    seed: int = 7,
    talks: Made | None = None,
    model: Path | None = None,
    evaluator: Evaluator | None = None,
    files: dict[str, Any] | None = None,
    **options: Any,
) -> Made:
    """Runs a stage. files: a source's options by name; talks: conversations made before; model: asked through the
    evaluator."""
    stage: Stage = STAGES[kind]
    sources = {
        name: SOURCES["jsonl"].model_validate({"kind": "jsonl", "rows": stage.rows, **given}).at(folder)
        for name, given in (files or {}).items()
    }
    store = Store(folder / "store").create()
    inputs = {}
    for made, place in (("conversations", talks.out if talks else None), ("model", model)):
        if place is not None:
            manifest = Manifest(kind=made, fingerprint="f", stage=made, name=made, stage_version=1, seed=seed,
                                options={}, code="")  # fmt: skip
            inputs[made] = Artifact(place, manifest, store.digests)
    number = sum(1 for _ in folder.glob("draft-*"))
    draft = Draft(folder / f"draft-{number}", "fingerprint")
    work = Work(
        name=kind,
        options=stage.options.model_validate(options),
        cluster=stage.cluster(),
        seed=seed,
        inputs=inputs,
        sources=sources,
        draft=draft,
        progress=Watch(),
        session=Session(),  # never started: none of these stages needs Ray itself
        evaluator=evaluator,
    )
    return Made(draft.out, stage.run(work))


def jsonl(file: Path, rows: list[Any]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def prompts(found: list[Any]) -> set[str]:
    return {prompt_splits.prompt_key(one.prompt) for one in found}


def talk(asked: str, replied: str) -> dict[str, str]:
    return {"instruction": asked, "input": "", "output": replied}
