"""What a recipe would do: the fingerprint of every stage, and whether the store holds it already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import UserError
from pipelines.recipe.reader import Entry, Recipe
from pipelines.stage import Stage
from pipelines.store.artifacts import Artifact, Store, fingerprint
from pipelines.store.digests import FileDigests
from pipelines.store.provenance import code_digest


@dataclass(frozen=True)
class Step:
    """One stage as it would run."""

    entry: Entry
    fingerprint: str
    parents: Mapping[str, str]  # kind -> fingerprint
    sources: Mapping[str, object]  # name -> identity and digests of its files
    artifact: Artifact | None  # what the store holds already
    evaluates: str = ""  # for an evaluation: the name of the stage it judges

    @property
    def name(self) -> str:
        return f"{self.evaluates}/evaluate" if self.evaluates else self.entry.name

    @property
    def made_by_other_code(self) -> bool:
        return self.artifact is not None and self.artifact.manifest.code != step_code(self.entry.stage)


def step_code(stage: Stage) -> str:
    """Digest of the code a stage runs."""
    return code_digest(stage.run.__module__)


def plan(
    recipe: Recipe, store: Store, *, until: str | None = None, warn: Callable[[str], object] = print
) -> list[Step]:
    """Every step of a recipe in order, evaluations included, each with the artifact the store holds or None.

    until: the last stage wanted, its evaluation included. Raises UserError for a source that cannot be read."""
    last = recipe.entry(until).name if until else None
    prints: dict[str, str] = {}
    steps: list[Step] = []
    for entry in recipe.entries:
        step = _step(recipe, store, entry, {kind: prints[name] for kind, name in entry.inputs.items()}, warn)
        prints[entry.name] = step.fingerprint
        steps.append(step)
        if entry.stage.makes == "model" and entry.stage.judged and recipe.evaluate is not None:
            steps.append(_evaluation(recipe, store, entry, prints, warn))
        if entry.name == last:
            break
    return steps


def _evaluation(recipe: Recipe, store: Store, judged: Entry, prints: Mapping[str, str], warn) -> Step:
    """The evaluation of a model: its parents are the model, the model before it in the lineage, and held-out data."""
    assert recipe.evaluate is not None
    parents = {"model": prints[judged.name]}
    if "model" in judged.inputs:
        parents["previous"] = prints[judged.inputs["model"]]
    for entry in recipe.entries:
        if entry.name == judged.name:
            break
        if entry.stage.makes in recipe.evaluate.stage.takes:
            parents[entry.stage.makes] = prints[entry.name]  # the nearest one stays
    return _step(recipe, store, recipe.evaluate, parents, warn, evaluates=judged.name)


def _step(recipe: Recipe, store: Store, entry: Entry, parents: Mapping[str, str], warn, evaluates: str = "") -> Step:
    sources = {name: _source(source, store.digests) for name, source in entry.sources.items()}
    if entry.stage.files is not None:
        sources["files"] = {p.name: _digest(p, store.digests) for p in entry.stage.files(entry.options)}
    found = fingerprint(
        stage=entry.stage.kind,
        version=entry.stage.version,
        options=entry.options.identity(),
        seed=recipe.seed,
        parents=dict(parents),
        sources=sources,
    )
    return Step(entry, found, parents, sources, store.find(entry.stage.makes, found, warn), evaluates)


def _source(source, digests: FileDigests) -> dict[str, object]:
    return {"identity": source.identity(), "files": [_digest(path, digests) for path in source.files()]}


def _digest(path: Path, digests: FileDigests) -> str:
    try:
        return digests.of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a readable file") from None


def descendants(steps: Iterable[Step], roots: set[str]) -> set[str]:
    """Fingerprints of the steps that stand on any of the given fingerprints, those included."""
    found = set(roots)
    for step in steps:
        if found & set(step.parents.values()):
            found.add(step.fingerprint)
    return found
