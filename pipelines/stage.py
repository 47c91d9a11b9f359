"""Stage: what every step of a recipe is, and Work: what it is given when it runs.

    recipe ──► Stage(kind, needs, makes, options, run) ──run(Work)──► files in work.draft.out + facts ──► Artifact

A stage file's top imports only pydantic and this module; `run` imports the crafts, so that reading a recipe and
planning cost nothing. Stages never import each other: artifacts are all that passes between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.options import Options
from pipelines.store.facts import Facts

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.session import Session
    from pipelines.data.sources.source import Source
    from pipelines.evaluator import Evaluator
    from pipelines.store.artifacts import Artifact, Draft

__all__ = ["ClusterOptions", "Facts", "Options", "Progress", "Stage", "Work"]


class ClusterOptions(Options):
    """What changes only speed, from the recipe's `cluster:` section; never part of a fingerprint."""


class Progress(Protocol):
    """How a stage tells what it does: a bar in a terminal, plain lines in a log."""

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        """`done` of `total` `unit`s are made; figures (loss=2.1, tokens_per_s=5200) are shown beside the bar."""
        ...

    def note(self, text: str) -> None:
        """One line of the run's story, shown once."""
        ...


@dataclass(frozen=True)
class Work:
    """One attempt at one stage. Killed and started again, a stage finds what it left in `draft` and goes on."""

    name: str  # the stage's name in the recipe
    options: Any  # the stage's options model
    cluster: Any  # the stage's cluster options model
    seed: int
    inputs: Mapping[str, Artifact]  # by kind; `.local()` gives the verified directory
    sources: Mapping[str, Source]  # by name in the recipe: those with the rows this stage reads
    draft: Draft  # draft.path: blocks and checkpoints; draft.out: the artifact's files
    progress: Progress
    session: Session  # session.start() connects to Ray at first use, so that a stage without Ray costs none
    cache: Path | None = None  # a folder of the store for things worth keeping between runs
    evaluator: Evaluator | None = None  # the run's one evaluator, for stages that ask models


@dataclass(frozen=True)
class Stage:
    """A step of a recipe.

    needs: kinds of artifact it cannot do without; takes: kinds it uses when an earlier stage made one;
    needs_for: what else it cannot do without because of its options.
    A `model` also serves where a `tokenizer` is needed: its folder holds one.
    version: raised when the same options would now give another result.
    """

    kind: str
    version: int
    makes: str
    options: type[Options]
    run: Callable[[Work], Facts]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    needs_for: Callable[[Any], tuple[str, ...]] = lambda options: ()
    asks: bool = False  # whether it asks models through the run's evaluator
    judged: bool = True  # of a stage that makes a model: whether an evaluation follows it
    rows: str | None = None  # reads the recipe's sources with this kind of rows
    files: Callable[[Any], list[Path]] | None = None  # files beyond sources whose bytes decide the result, from options
    cluster: type[ClusterOptions] = field(default=ClusterOptions)
