"""Runs one stage that needs no Ray, on rows of a JSON Lines file."""

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
class ProgressNotes:
    """Progress that keeps its notes and counts, and checks that no update is beyond its total."""

    notes: list[str] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        assert done <= total
        self.counts.append(done)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass(frozen=True)
class Made:
    """A stage's artifact folder, its facts and the notes of its progress."""

    out: Path
    facts: Facts
    notes: list[str]

    @property
    def rejected(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]

    @property
    def digests(self) -> dict[str, str]:
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(self.out.iterdir())}


def make(kind: str, folder: Path, **inputs_and_options: Any) -> Made:
    """Runs the stage `kind` on the Work that `work_of` makes of the same arguments."""
    work = work_of(kind, folder, **inputs_and_options)
    assert isinstance(work.progress, ProgressNotes)
    return Made(work.draft.out, STAGES[kind].run(work), work.progress.notes)


def work_of(
    kind: str,
    folder: Path,
    *,
    seed: int = 7,
    talks: Made | None = None,
    model: Path | None = None,
    inputs: dict[str, Path] | None = None,
    draft: Path | None = None,
    evaluator: Evaluator | None = None,
    files: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    **options: Any,
) -> Work:
    """The Work of the stage `kind` in a new draft below `folder`.

    files: options of each source of JSON Lines, by name; talks: a conversations artifact as input; model: folder of a
    model as input, which the evaluator generates with; inputs: folders of others, by kind. draft: one that an earlier
    attempt has left, in place of a new one."""
    stage: Stage = STAGES[kind]
    sources = {
        name: SOURCES["jsonl"].model_validate({"kind": "jsonl", "rows": stage.rows, **source}).at(folder)
        for name, source in (files or {}).items()
    }
    store = Store(folder / "store").create()
    folders = {"conversations": talks.out if talks else None, "model": model, **(inputs or {})}
    artifacts: dict[str, Artifact] = {}
    for input_kind, path in folders.items():
        if path is not None:
            manifest = Manifest(
                kind=input_kind, fingerprint="f", stage=input_kind, name=input_kind, stage_version=1, seed=seed,
                options={}, code="",
            )  # fmt: skip
            artifacts[input_kind] = Artifact(path, manifest, store.digests)
    number = sum(1 for _ in folder.glob("draft-*"))
    made_in = Draft(draft or folder / f"draft-{number}", "fingerprint")
    return Work(
        name=kind,
        options=stage.options.model_validate(options),
        cluster=stage.cluster.model_validate(cluster or {}),
        seed=seed,
        inputs=artifacts,
        sources=sources,
        draft=made_in,
        progress=ProgressNotes(),
        session=Session(),  # never started: none of these stages needs Ray itself
        evaluator=evaluator,
    )


def jsonl(file: Path, rows: list[Any]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def prompts(rows: list[Any]) -> set[str]:
    """Normalised prompts of conversations or pairs."""
    return {prompt_splits.prompt_key(row.prompt) for row in rows}


def talk(prompt: str, reply: str) -> dict[str, str]:
    """A record of a single-turn conversation in Alpaca's format."""
    return {"instruction": prompt, "input": "", "output": reply}
