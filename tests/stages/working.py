"""Builds the Work of one stage as a run does, with progress that a test can inspect."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.session import Session
from pipelines.stage import Stage, Work
from pipelines.store.artifacts import Draft


class RecordedProgress:
    """Progress that records its updates and notes."""

    def __init__(self) -> None:
        self.updates: list[tuple[float, float, str, dict[str, Any]]] = []
        self.notes: list[str] = []

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        self.updates.append((done, total, unit, figures))

    def note(self, text: str) -> None:
        self.notes.append(text)


def _input(path: Path) -> Any:
    """An artifact as far as a stage reads it: its local folder."""
    manifest = SimpleNamespace(stage="pretrain", parents={})
    return SimpleNamespace(local=lambda: path, manifest=manifest, facts={}, parent=lambda kind: None)


def work_of(
    stage: Stage,
    folder: Path,
    session: Session,
    inputs: dict[str, Path],
    options: dict[str, Any],
    cluster: dict[str, Any],
    seed: int = 7,
) -> Work:
    """Work whose draft is `folder`, new or left by an earlier attempt. inputs: artifacts' folders by kind."""
    folder.mkdir(exist_ok=True)
    return Work(
        name=stage.kind,
        options=stage.options.model_validate(options),
        cluster=stage.cluster.model_validate(cluster),
        seed=seed,
        inputs={kind: _input(path) for kind, path in inputs.items()},
        sources={},
        draft=Draft(folder, "test"),
        progress=RecordedProgress(),
        session=session,
    )
