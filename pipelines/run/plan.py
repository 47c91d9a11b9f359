"""The plan of a recipe: the fingerprint of every stage, and its artifact if the store has one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Source
from pipelines.errors import UserError
from pipelines.recipe.reader import Entry, Recipe
from pipelines.stage import Stage
from pipelines.store.artifacts import Artifact, Store, fingerprint
from pipelines.store.digests import FileDigests
from pipelines.store.provenance import code_digest

# What to add to a recipe so that a source's rows are read.
READERS = {
    "text": "list the stage corpus", "images": "list the stage images", "conversations": "list the stage conversations",
    "preferences": "list the stage preferences", "documents": "list the stage knowledge",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    entry: Entry
    fingerprint: str
    parents: Mapping[str, str]  # kind -> fingerprint
    sources: Mapping[str, object]  # name -> identity and digests of its files
    artifact: Artifact | None  # the store's artifact with this fingerprint
    evaluates: str = ""  # for an evaluation: the name of the stage whose model it evaluates

    @property
    def name(self) -> str:
        return f"{self.evaluates}/evaluate" if self.evaluates else self.entry.name

    @property
    def made_by_other_code(self) -> bool:
        """Whether the artifact was made by another version of the stage's code."""
        return self.artifact is not None and self.artifact.manifest.code != step_code(self.entry.stage)


def step_code(stage: Stage) -> str:
    """Digest of the code that a stage runs."""
    return code_digest(stage.run.__module__)


def plan(
    recipe: Recipe, store: Store, *, until: str | None = None, warn: Callable[[str], object] = print
) -> list[Step]:
    """Every step of a recipe in order, evaluations included.

    until: the last stage, its evaluation included; warn: called for each damaged artifact of the store.
    Raises UserError for an unknown stage and for a source that cannot be read."""
    last = recipe.entry(until).name if until else None
    fingerprints: dict[str, str] = {}  # by name of the entry
    steps: list[Step] = []
    for entry in recipe.entries:
        parents = {kind: fingerprints[name] for kind, name in entry.inputs.items()}
        step = _step(recipe, store, entry, parents, warn)
        fingerprints[entry.name] = step.fingerprint
        steps.append(step)
        if entry.stage.makes == "model" and entry.stage.evaluated and recipe.evaluate is not None:
            parents = _evaluation_parents(recipe, recipe.evaluate.stage, entry, fingerprints)
            steps.append(_step(recipe, store, recipe.evaluate, parents, warn, evaluates=entry.name))
        if entry.name == last:
            break
    return steps


def unread_sources(recipe: Recipe) -> list[str]:
    """A sentence about each source that no stage of the recipe reads."""
    read = {name for entry in recipe.entries for name in (*entry.sources, *entry.references)}
    sentences = []
    for name, options in (recipe.tree.get("sources") or {}).items():
        if name not in read:
            rows = options.get("rows", SOURCES[options["kind"]].model_fields["rows"].default)
            kind = next((entry.name for entry in recipe.entries if entry.stage.rows == rows), None)
            remedy = f"name it in the sources of {kind}" if kind else READERS.get(rows, "list a stage that reads them")
            sentences.append(f"sources.{name}: no stage reads it (rows: {rows}); {remedy}, or leave it out")
    return sentences


def _evaluation_parents(
    recipe: Recipe, evaluation: Stage, evaluated: Entry, fingerprints: Mapping[str, str]
) -> dict[str, str]:
    """Parents of a model's evaluation: the model, the model it was trained from, the base that the recipe begins with,
    and the nearest held-out data."""
    parents = {"model": fingerprints[evaluated.name]}
    if "base" in fingerprints and evaluated.name != "base":
        parents["base"] = fingerprints["base"]
    if "model" in evaluated.inputs:
        parents["previous"] = fingerprints[evaluated.inputs["model"]]
    for entry in recipe.entries:
        if entry.name == evaluated.name:
            break
        if entry.stage.makes in evaluation.takes:
            parents[entry.stage.makes] = fingerprints[entry.name]  # replaces an earlier entry's
        elif entry.stage.makes == "images" and "corpus" in evaluation.takes:
            parents.setdefault("corpus", fingerprints[entry.name])  # captions, where there is no other text
    return parents


def _step(
    recipe: Recipe,
    store: Store,
    entry: Entry,
    parents: Mapping[str, str],
    warn: Callable[[str], object],
    evaluates: str = "",
) -> Step:
    sources = {name: _source_identity(source, store.digests) for name, source in entry.sources.items()}
    for name, source in entry.references.items():
        sources[f"reference {name}"] = _source_identity(source, store.digests)
    if entry.stage.files is not None:
        files = entry.stage.files(entry.options)
        sources["files"] = dict(zip([file.name for file in files], _digests(files, store.digests), strict=True))
    digest = fingerprint(
        stage=entry.stage.kind,
        version=entry.stage.version,
        options=entry.options.identity(),
        seed=recipe.seed,
        parents=dict(parents),
        sources=sources,
    )
    return Step(entry, digest, parents, sources, store.find(entry.stage.makes, digest, warn), evaluates)


def _source_identity(source: Source, digests: FileDigests) -> dict[str, object]:
    files = _digests(source.each_file(), digests, source.digest_of, source.has_lines)
    return {"identity": source.identity(), "files": files}


def _digests(
    paths: Iterable[Path],
    digests: FileDigests,
    known: Callable[[Path], str | None] = lambda path: None,
    has_lines: Callable[[Path], bool] = lambda path: False,
) -> list[str]:
    try:
        return digests.of_all(paths, known, has_lines)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); expected a readable file") from None


def descendants(steps: Iterable[Step], roots: set[str]) -> set[str]:
    """Fingerprints of all steps that descend from any of `roots`, with the roots. steps: in the order of the plan."""
    fingerprints = set(roots)
    for step in steps:
        if fingerprints & set(step.parents.values()):
            fingerprints.add(step.fingerprint)
    return fingerprints
