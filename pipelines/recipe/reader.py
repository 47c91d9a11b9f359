"""A recipe: everything a user may change, in one YAML file, read strictly into frozen models.

    text ──yaml_lines──► tree + lines ──overrides──► search spaces filled ──► pydantic models of the caller's stages

Every error names the file, the line and the key, and the nearest valid key where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipelines.data.corpus.filters import Filters
from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Source
from pipelines.errors import UserError
from pipelines.objects import is_url
from pipelines.options import Options
from pipelines.recipe import search_space, yaml_lines
from pipelines.recipe.messages import suggestion, type_name, unusable, validation_problem
from pipelines.recipe.references import references
from pipelines.recipe.search_space import Space, SweepOptions, Values
from pipelines.recipe.shipped import find
from pipelines.recipe.yaml_lines import dotted
from pipelines.stage import Stage
from pipelines.store.artifacts import Store

TOP_KEYS = ("name", "seed", "store", "base", "sources", "stages", "evaluate", "sweep", "cluster")
ENTRY_KEYS = ("stage", "from", "sources")  # keys of an entry that are not options of its stage
RESERVED_NAMES = ("base", "evaluate", "run", "sweep")  # names that no entry may have


@dataclass(frozen=True)
class Entry:
    """One stage of a recipe, with validated options and with its inputs resolved to earlier entries."""

    name: str
    stage: Stage
    options: Options
    cluster: Options
    inputs: Mapping[str, str]  # kind of artifact -> name of the entry that makes it
    sources: Mapping[str, Source]
    references: Mapping[str, Source] = field(default_factory=dict)  # sources that its options name


@dataclass(frozen=True)
class Recipe:
    """A recipe as loaded. Immutable."""

    path: Path
    name: str
    seed: int
    store: str  # a folder, or a URL of objects
    entries: tuple[Entry, ...]
    evaluate: Entry | None  # the evaluation that follows each stage which makes a model
    sweep: SweepOptions | None
    serve: Any  # the options of `rayse serve`, of its type; None if the table of stages has no trial
    tree: Mapping[str, Any] = field(repr=False)  # the YAML with overrides applied and spaces filled: `submit` ships it

    def entry(self, name: str) -> Entry:
        """The entry with this name. Raises UserError with the nearest name."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        names = [entry.name for entry in self.entries]
        raise UserError(f"{self.path}: no stage {name!r}.{suggestion(name, names)} (Stages here: {', '.join(names)})")

    def to_yaml(self) -> str:
        """The recipe with overrides applied and search spaces filled, as YAML."""
        return yaml.safe_dump(dict(self.tree), sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class RecipeTemplate:
    """A recipe whose search spaces are not filled yet."""

    path: Path
    tree: Mapping[str, Any] = field(repr=False)
    spaces: tuple[Space, ...]
    _reader: _Reader = field(repr=False)

    def fill(self, values: Values | None = None) -> Recipe:
        """The recipe with these values for its search spaces, or with their defaults.

        Raises UserError, naming line and key, for an invalid recipe and for a space without value and default."""
        return self._reader.recipe(search_space.fill(self.tree, self.spaces, values, self._reader.error))

    def error(self, path: yaml_lines.Path, problem: str) -> UserError:
        """A UserError that names the file, the line and the key at this path."""
        return self._reader.error(path, problem)


def load(path: str | Path, stages: Mapping[str, Stage], *, overrides: Sequence[str] = (), store: str | None = None,
         seed: int | None = None) -> Recipe:  # fmt: skip
    """Reads a recipe with the caller's table of stages; search spaces take their defaults. See `read`."""
    return read(path, stages, overrides=overrides, store=store, seed=seed).fill()


def read(path: str | Path, stages: Mapping[str, Stage], *, overrides: Sequence[str] = (), store: str | None = None,
         seed: int | None = None) -> RecipeTemplate:  # fmt: skip
    """Parses a recipe's text and its search spaces; options are validated once the spaces are filled.

    overrides: `key.path=value`, the arguments of --set; the first key may be the name of a stage.
    Raises UserError for an invalid recipe, naming file, line and key."""
    file = find(path)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    tree, lines = yaml_lines.load(text, str(file))
    if not isinstance(tree, dict):
        raise UserError(f"{file}:1: expected keys and values (name, sources, stages, …), got {type_name(tree)}")
    reader = _Reader(file, lines, stages)
    for override in overrides:
        reader.override(tree, override)
    if store is not None:
        tree["store"] = store
    if seed is not None:
        tree["seed"] = seed
    return RecipeTemplate(file, tree, search_space.find_spaces(tree, reader.error), reader)


class _Reader:
    """Turns a YAML tree into a Recipe; its errors name the line of the key."""

    def __init__(self, file: Path, lines: dict[yaml_lines.Path, int], stages: Mapping[str, Stage]):
        self.file, self.lines, self.stages = file, lines, stages

    def error(self, path: yaml_lines.Path, problem: str) -> UserError:
        """A UserError at this path; its line is that of the nearest enclosing key the file has."""
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), 1)
        is_option = path[:1] == ("stages",) and len(path) > 2
        return UserError(f"{self.file}:{line}: {dotted(path[1:] if is_option else path)}: {problem}")

    def override(self, tree: dict[str, Any], text: str) -> None:
        """Applies one `key.path=value` to the tree, in place."""
        key, equals, value = text.partition("=")
        keys = key.split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {text}: expected key.path=value, such as pretrain.budget_tokens=1000000")
        if keys[0] not in TOP_KEYS:
            stages = tree.get("stages")
            names = list(stages) if isinstance(stages, dict) else []
            if keys[0] not in names:
                hint = suggestion(keys[0], [*names, *TOP_KEYS])
                raise UserError(f"--set {text}: no stage or key {keys[0]!r}.{hint}")
            keys = ["stages", *keys]
        mapping = tree
        for part in keys[:-1]:
            if mapping.get(part) is None:
                mapping[part] = {}
            if not isinstance(mapping[part], dict):
                raise UserError(f"--set {text}: {part} is {type_name(mapping[part])}, it has no keys")
            mapping = mapping[part]
        mapping[keys[-1]] = yaml_lines.scalar(value)

    def recipe(self, tree: dict[str, Any]) -> Recipe:
        """The validated recipe of a tree without search spaces."""
        for key in tree:
            if key not in TOP_KEYS:
                raise self.error((key,), f"unknown key.{suggestion(key, TOP_KEYS)} (Keys: {', '.join(TOP_KEYS)})")
        store = self.store(tree)
        sources = self.sources(tree.get("sources") or {}, Store(store).root / "cache" / "sources")
        cluster = self.mapping(tree.get("cluster") or {}, ("cluster",))
        entries = self.entries(tree, sources, cluster)
        names = {entry.name for entry in entries} | {"evaluate"}
        if "serve" in self.stages and not any(entry.stage.kind == "serve" for entry in entries):
            names.add("serve")  # of `rayse serve`; a trial has its own name
        for name in cluster:
            if name not in names:
                raise self.error(("cluster", name), f"no such stage.{suggestion(name, names)}")
        return Recipe(
            path=self.file,
            name=self.typed(tree, "name", str, self.file.stem),
            seed=self.seed(tree),
            store=store,
            entries=tuple(entries),
            evaluate=self.evaluate(tree, cluster),
            sweep=self.sweep(tree, entries),
            serve=self.serve(entries, cluster),
            tree=tree,
        )

    def sources(self, tree: Any, cache: Path) -> dict[str, Source]:
        """The recipe's sources by name. cache: folder for copies of objects."""
        sources = {}
        for name, options in self.mapping(tree, ("sources",)).items():
            path = ("sources", name)
            options = self.mapping(options, path)
            kind = options.get("kind")
            if not isinstance(kind, str) or kind not in SOURCES:
                problem = "missing" if kind is None else f"unknown kind {kind!r}.{suggestion(str(kind), SOURCES)}"
                raise self.error((*path, "kind"), f"{problem} (Kinds: {', '.join(SOURCES)})")
            source = self.validate(SOURCES[kind], self.located(options), path).at(self.file.parent, cache)
            if source.filters is not None:
                self.validate(Filters, source.filters, (*path, "filters"))
            sources[name] = source
        return sources

    def located(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options with the paths of the user's functions; relative ones start at the recipe's folder."""
        function, filters = options.get("function"), options.get("filters")
        if isinstance(function, str):
            options = {**options, "function": str(self.file.parent / Path(function).expanduser())}
        custom = filters.get("custom") if isinstance(filters, dict) else None
        if not isinstance(filters, dict) or not isinstance(custom, list) or not all(isinstance(w, str) for w in custom):
            return options
        paths = [str(self.file.parent / Path(where).expanduser()) for where in custom]
        return {**options, "filters": {**filters, "custom": paths}}

    def entries(self, tree: dict[str, Any], sources: Mapping[str, Source], cluster: dict[str, Any]) -> list[Entry]:
        """The recipe's stages in order; `base:` comes first, as the stage that made a model and its tokenizer."""
        entries: list[Entry] = []
        if tree.get("base") is not None:
            base = dict(self.mapping(tree["base"], ("base",)))
            local = self.file.parent / str(base.get("model"))
            if local.exists():  # relative to the recipe; otherwise of the working directory, or a hub id
                base["model"] = str(local)
            entries.append(self.entry("base", {"stage": "base", **base}, ("base",), entries, sources, cluster))
        stages = tree.get("stages")
        if not stages:
            problem = "missing: list the stages to run, such as corpus, tokenizer, tokens, pretrain"
            raise self.error(("stages",), problem)
        for name, options in self.mapping(stages, ("stages",)).items():
            path = ("stages", name)
            if name in RESERVED_NAMES or "/" in name:
                raise self.error(path, "this name is reserved; choose another")
            options = self.mapping({} if options is None else options, path)
            entries.append(self.entry(name, options, path, entries, sources, cluster))
        return entries

    def entry(
        self,
        name: str,
        values: dict[str, Any],
        path: yaml_lines.Path,
        earlier: list[Entry],
        sources: Mapping[str, Source],
        cluster: dict[str, Any],
    ) -> Entry:
        """One stage of the recipe. values: its keys as written; earlier: the entries before it."""
        stage = self.stage(values.get("stage", name), path, is_named="stage" in values)
        keys = {key: value for key, value in values.items() if key not in ENTRY_KEYS}
        options = self.validate(stage.options, self.located(keys), path)
        needs = (*stage.needs, *stage.needs_for(options))
        return Entry(
            name=name,
            stage=stage,
            options=options,
            cluster=self.cluster_options(stage, name, cluster),
            inputs=self.inputs(stage, needs, values.get("from"), path, earlier),
            sources=self.stage_sources(stage, values.get("sources"), path, sources),
            references=references(stage, options, sources, path, self.error),
        )

    def stage(self, kind: Any, path: yaml_lines.Path, *, is_named: bool) -> Stage:
        """The stage of this kind. is_named: whether the recipe gives it by `stage:`, not by the entry's name."""
        if isinstance(kind, str) and kind in self.stages and kind != "evaluate":
            return self.stages[kind]
        kinds = [k for k in self.stages if k not in ("evaluate", "base")]
        hint = "" if is_named else " (another name for a stage is written `name: {stage: KIND, …}`)"
        problem = f"unknown stage {kind!r}.{suggestion(str(kind), kinds)} (Stages: {', '.join(kinds)}){hint}"
        raise self.error(path, problem)

    def cluster_options(self, stage: Stage, name: str, cluster: dict[str, Any]) -> Any:
        """The options of `cluster.<name>`."""
        path = ("cluster", name)
        return self.validate(stage.cluster, self.mapping(cluster.get(name) or {}, path), path)

    def inputs(
        self, stage: Stage, needs: tuple[str, ...], named: Any, path: yaml_lines.Path, earlier: list[Entry]
    ) -> dict[str, str]:
        """For each kind of artifact the stage uses, the entry named by `from:` or else the nearest that makes it."""
        names = self.names(named, (*path, "from"))
        by_name = {entry.name: entry for entry in earlier}
        for name in names:
            if name not in by_name:
                raise self.error((*path, "from"), f"no earlier stage {name!r}.{suggestion(name, by_name)}")
        inputs: dict[str, str] = {}
        nearest = earlier[::-1]
        nearest.sort(key=lambda entry: entry.stage.makes == "images")  # captions only where there is no corpus
        candidates = [*(by_name[name] for name in names), *nearest]
        for kind in (*needs, *stage.takes):
            maker = next((entry for entry in candidates if kind in entry.stage.satisfies), None)
            if maker is not None:
                inputs[kind] = maker.name
                passed = earlier[earlier.index(maker) :] if kind == "model" and maker.name not in names else ()
                for adapter in (entry.name for entry in passed if entry.stage.makes == "adapter"):
                    raise self.error(path, unusable(adapter, "adapter", stage.kind, needs, maker.name))
            elif kind in needs:
                kinds = ", ".join(s.kind for s in self.stages.values() if s.makes == kind)
                problem = f"needs a {kind}, and no earlier stage makes one; put one of these before it: {kinds}"
                raise self.error(path, problem)
        for name in (name for name in names if name not in inputs.values()):
            problem = unusable(name, by_name[name].stage.makes, stage.kind, (*needs, *stage.takes), inputs.get("model"))
            raise self.error((*path, "from"), problem)
        return inputs

    def stage_sources(
        self, stage: Stage, named: Any, path: yaml_lines.Path, sources: Mapping[str, Source]
    ) -> dict[str, Source]:
        """The sources a stage reads: those it names, or all with its kind of rows."""
        if stage.rows is None:
            if named is not None:
                raise self.error((*path, "sources"), f"{stage.kind} reads no sources")
            return {}
        names = self.names(named, (*path, "sources"))
        for name in names:
            if name not in sources:
                raise self.error((*path, "sources"), f"no source {name!r}.{suggestion(name, sources)}")
        for name in names:
            if sources[name].rows != stage.rows:
                problem = f"{name} has rows: {sources[name].rows}, {stage.kind} reads {stage.rows}"
                raise self.error((*path, "sources"), problem)
        selected = {n: s for n, s in sources.items() if s.rows == stage.rows and (not names or n in names)}
        if not selected and stage.kind in ("corpus", "images"):
            problem = f"reads sources with rows: {stage.rows}, and the recipe has none; add one under sources:"
            raise self.error(path, problem)
        return selected

    def evaluate(self, tree: dict[str, Any], cluster: dict[str, Any]) -> Entry | None:
        """The evaluation that follows each model; None if the table of stages has none."""
        if "evaluate" not in self.stages:
            return None
        stage = self.stages["evaluate"]
        path = ("evaluate",)
        options = self.validate(stage.options, self.mapping(tree.get("evaluate") or {}, path), path)
        return Entry("evaluate", stage, options, self.cluster_options(stage, "evaluate", cluster), {}, {})

    def serve(self, entries: Sequence[Entry], cluster: dict[str, Any]) -> Any:
        """The options by which `rayse serve` hosts: those of the last trial in `cluster:`, else of `cluster.serve`."""
        trials = [entry.cluster for entry in entries if entry.stage.kind == "serve"]
        if trials or "serve" not in self.stages or any(entry.name == "serve" for entry in entries):
            return trials[-1] if trials else None
        return self.cluster_options(self.stages["serve"], "serve", cluster)

    def sweep(self, tree: dict[str, Any], entries: Sequence[Entry]) -> SweepOptions | None:
        """The options of `sweep:`, if the recipe has them."""
        if tree.get("sweep") is None:
            return None
        options = self.validate(SweepOptions, self.mapping(tree["sweep"], ("sweep",)), ("sweep",))
        names = [entry.name for entry in entries]
        if options.until is not None and options.until not in names:
            raise self.error(("sweep", "until"), f"no stage {options.until!r}.{suggestion(options.until, names)}")
        key = options.missing_mode
        if key is not None:
            problem = "missing: the figure's name does not tell whether less (min) or more (max) of it is better"
            raise self.error(("sweep", key), problem)
        return options

    def names(self, value: Any, path: yaml_lines.Path) -> list[str]:
        """A name or a list of names, as a list."""
        names = [value] if isinstance(value, str) else value or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.error(path, f"expected a name or a list of names, got {type_name(value)}")
        return names

    def mapping(self, value: Any, path: yaml_lines.Path) -> dict[str, Any]:
        """The value, if it is a mapping."""
        if not isinstance(value, dict):
            raise self.error(path, f"expected keys and values, got {type_name(value)}")
        return value

    def typed(self, tree: dict[str, Any], key: str, kind: type, default: Any) -> Any:
        """The value of a top key, if it has this type (text or a whole number)."""
        value = tree.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error((key,), f"expected {'text' if kind is str else 'a whole number'}, got {value!r}")
        return value

    def seed(self, tree: dict[str, Any]) -> int:
        """The seed: 32 bits, the range that every random generator accepts."""
        seed = self.typed(tree, "seed", int, 0)
        if not 0 <= seed < 2**32:
            raise self.error(("seed",), f"expected a whole number from 0 to {2**32 - 1}, got {seed}")
        return seed

    def store(self, tree: dict[str, Any]) -> str:
        """The folder or the URL of the store."""
        store = self.typed(tree, "store", str, "./store")
        if "://" in store and not is_url(store):
            raise self.error(("store",), f"{store}: expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
        return store

    def validate(self, model: type[Options], values: dict[str, Any], path: yaml_lines.Path) -> Any:
        """The options model with these values."""
        try:
            return model.model_validate(values)
        except ValidationError as error:
            raise self.error(*validation_problem(model, error, values, path)) from None
