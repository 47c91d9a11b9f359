"""Stage: the type of every step of a recipe, and Work: the inputs of one attempt at running it.

    recipe ──► Stage(kind, needs, makes, options, run) ──run(Work)──► files in work.draft.out + facts ──► Artifact

A stage file's top imports only pydantic and this module; `run` imports the crafts, so that reading a recipe and
planning load no heavy library. Stages never import each other: only artifacts pass between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.options import Options, RowLimit
from pipelines.store.facts import Facts

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.session import Session
    from pipelines.data.sources.source import Source
    from pipelines.evaluator import Evaluator
    from pipelines.store.artifacts import Artifact, Draft

__all__ = ["ClusterOptions", "Facts", "Options", "Progress", "RowLimit", "Stage", "Work"]


class ClusterOptions(Options):
    """Options from the recipe's `cluster:` section: they affect only speed and never enter a fingerprint."""


class Progress(Protocol):
    """Receives a stage's progress: a bar in a terminal, plain lines in a log."""

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        """Reports `done` of `total` `unit`s; figures (loss=2.1, tokens_per_s=5200) are displayed beside the bar."""
        ...

    def note(self, text: str) -> None:
        """Logs one line."""
        ...


@dataclass(frozen=True)
class Work:
    """Inputs of one attempt at one stage. After a kill, the next attempt resumes from the files in `draft`."""

    name: str  # name of the stage in the recipe
    options: Any  # validated options of the stage, an instance of Stage.options
    cluster: Any  # validated cluster options of the stage, an instance of Stage.cluster
    seed: int
    inputs: Mapping[str, Artifact]  # by kind; `.local()` is the verified directory
    sources: Mapping[str, Source]  # by name in the recipe: those with the rows this stage reads
    draft: Draft  # draft.path: blocks and checkpoints; draft.out: the artifact's files
    progress: Progress
    session: Session  # session.start() connects to Ray at first use, so a stage without Ray does not start it
    cache: Path | None = None  # a folder of the store for data that can be reused by later runs
    evaluator: Evaluator | None = None  # the evaluator that the run shares between stages; see Stage.uses_evaluator
    references: Mapping[str, Source] = field(default_factory=dict)  # by name: sources that it compares its rows with
    base: str | None = None  # the model of the recipe's `base:`, as its user named it: for messages


@dataclass(frozen=True)
class Stage:
    """A step of a recipe.

    version: incremented when the same options would now give another result.
    makes: kind of artifact it makes.
    needs: kinds of artifact it requires; takes: kinds it uses if an earlier stage made one;
    needs_for: kinds it requires in addition, depending on its options.
    """

    kind: str
    version: int
    makes: str
    options: type[Options]
    run: Callable[[Work], Facts]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    needs_for: Callable[[Any], tuple[str, ...]] = lambda options: ()
    uses_evaluator: bool = False  # whether it generates or scores replies through the run's evaluator
    evaluated: bool = True  # for a stage that makes a model: whether an evaluation follows it
    rows: str | None = None  # reads the recipe's sources with this kind of rows
    # Its options -> the sources that they name, whatever their rows, by the option's key: see Work.references.
    references: Callable[[Any], Mapping[str, Sequence[str]]] = lambda options: {}
    files: Callable[[Any], list[Path]] | None = None  # its options -> files that enter the fingerprint beside sources
    cluster: type[ClusterOptions] = field(default=ClusterOptions)

    @property
    def satisfies(self) -> tuple[str, ...]:
        """The kinds of artifact that a later stage can take from what it makes.

        A model's folder holds its tokenizer; images are laid out as a corpus of their captions."""
        return (self.makes, *{"model": ("tokenizer",), "images": ("corpus",)}.get(self.makes, ()))
