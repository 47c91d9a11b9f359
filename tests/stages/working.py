"""Work for one stage as a run would give it, and progress that a test can look at."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.session import Session
from pipelines.stage import Stage, Work
from pipelines.store.artifacts import Draft


class Told:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.updates: list[tuple[float, float, str, dict[str, Any]]] = []
        self.notes: list[str] = []

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        self.updates.append((done, total, unit, figures))

    def note(self, text: str) -> None:
        self.notes.append(text)


def work_of(
    stage: Stage,
    folder: Path,
    session: Session,
    inputs: dict[str, Path],
    options: dict[str, Any],
    cluster: dict[str, Any],
    seed: int = 7,
) -> Work:
    """Work on a draft in this folder, new or left by an earlier attempt. inputs: artifacts' folders by kind."""
    folder.mkdir(exist_ok=True)
    return Work(
        name=stage.kind,
        options=stage.options.model_validate(options),
        cluster=stage.cluster.model_validate(cluster),
        seed=seed,
        inputs={k: SimpleNamespace(local=lambda p=p: p) for k, p in inputs.items()},  # pyright: ignore[reportArgumentType]
        sources={},
        draft=Draft(folder, "test"),
        progress=Told(),
        session=session,
    )
