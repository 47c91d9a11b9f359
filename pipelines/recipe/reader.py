"""A recipe: everything a user may change, in one YAML file, read strictly into frozen models.

    text ──yaml_lines──► tree + lines ──overrides──► search spaces filled ──► pydantic models of the caller's stages

Every error names the file, the line, the key, and where it helps the nearest key that exists.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Source
from pipelines.errors import UserError
from pipelines.options import Options
from pipelines.recipe import search_space, yaml_lines
from pipelines.recipe.search_space import Space, SweepOptions, Values
from pipelines.recipe.yaml_lines import dotted
from pipelines.stage import Stage

TOP_KEYS = ("name", "seed", "store", "base", "sources", "stages", "evaluate", "sweep", "cluster")
ENTRY_KEYS = ("stage", "from", "sources")  # keys of an entry that are not its stage's options
SHIPPED = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class Entry:
    """One stage of a recipe, with its options read and its inputs resolved to earlier entries."""

    name: str
    stage: Stage
    options: Options
    cluster: Options
    inputs: Mapping[str, str]  # kind -> name of the entry that makes it
    sources: Mapping[str, Source]


@dataclass(frozen=True)
class Recipe:
    """A recipe as loaded. Nothing changes it afterwards."""

    path: Path
    name: str
    seed: int
    store: Path
    entries: tuple[Entry, ...]
    evaluate: Entry | None  # the stage that follows each stage which makes a model
    sweep: SweepOptions | None
    tree: Mapping[str, Any] = field(repr=False)  # as written, overrides applied, spaces filled: what `submit` ships

    def entry(self, name: str) -> Entry:
        """The entry of this name. Raises UserError with the nearest name."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        names = [entry.name for entry in self.entries]
        raise UserError(f"{self.path}: no stage {name!r}.{_nearest(name, names)} (Stages here: {', '.join(names)})")

    def to_yaml(self) -> str:
        """The recipe with overrides applied and search spaces filled, as YAML."""
        return yaml.safe_dump(dict(self.tree), sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class Written:
    """A recipe as it is written: its search spaces are not filled yet."""

    path: Path
    tree: Mapping[str, Any] = field(repr=False)
    spaces: tuple[Space, ...]
    reader: _Reader = field(repr=False)

    def recipe(self, values: Values | None = None) -> Recipe:
        """The recipe with these values in the place of its search spaces, or with their defaults.

        Raises UserError, naming line and key, for what is wrong with it or has neither value nor default."""
        return self.reader.recipe(search_space.filled(self.tree, self.spaces, values, self.reader.error))


def load(path: str | Path, stages: Mapping[str, Stage], *, overrides: Sequence[str] = (), store: str | None = None,
         seed: int | None = None) -> Recipe:  # fmt: skip
    """Reads a recipe with the caller's table of stages; search spaces take their defaults. See `read`."""
    return read(path, stages, overrides=overrides, store=store, seed=seed).recipe()


def read(path: str | Path, stages: Mapping[str, Stage], *, overrides: Sequence[str] = (), store: str | None = None,
         seed: int | None = None) -> Written:  # fmt: skip
    """Reads a recipe's text and finds its search spaces.

    overrides: `key.path=value` as given to --set; the first part may be a stage's name.
    Raises UserError for anything wrong, naming file, line and key."""
    file = find(path)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    tree, lines = yaml_lines.load(text, str(file))
    if not isinstance(tree, dict):
        raise UserError(f"{file}:1: expected keys and values (name, sources, stages, …), found {_kind(tree)}")
    reader = _Reader(file, lines, stages)
    for text in overrides:
        reader.override(tree, text)
    if store is not None:
        tree["store"] = store
    if seed is not None:
        tree["seed"] = seed
    return Written(file, tree, search_space.find(tree, reader.error), reader)


def find(path: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that Rayse brings (`demo`, `pipelines/recipes/demo.yaml`)."""
    file = Path(path)
    if file.is_file():
        return file.absolute()
    shipped = SHIPPED / (file.name if file.suffix else f"{file.name}.yaml")
    if shipped.is_file() and file.parent.as_posix() in (".", "pipelines/recipes"):
        return shipped
    names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
    raise UserError(f"{path}: no such recipe; give a YAML file or one that comes with Rayse: {names}")


class _Reader:
    """Turns a tree into a Recipe, knowing the line of every key."""

    def __init__(self, file: Path, lines: dict[yaml_lines.Path, int], stages: Mapping[str, Stage]):
        self.file, self.lines, self.stages = file, lines, stages

    def error(self, path: yaml_lines.Path, problem: str) -> UserError:
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), 1)
        shown = dotted(path[1:] if path and path[0] == "stages" and len(path) > 2 else path)
        return UserError(f"{self.file}:{line}: {shown}: {problem}")

    def override(self, tree: dict, text: str) -> None:
        key, equals, value = text.partition("=")
        keys = key.split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {text}: expected key.path=value, such as pretrain.budget_tokens=1000000")
        if keys[0] not in TOP_KEYS:
            entries = tree.get("stages")
            if not isinstance(entries, dict) or keys[0] not in entries:
                entries = entries if isinstance(entries, dict) else {}
                raise UserError(f"--set {text}: no stage or key {keys[0]!r}.{_nearest(keys[0], [*entries, *TOP_KEYS])}")
            keys = ["stages", *keys]
        place = tree
        for part in keys[:-1]:
            inner = place.get(part)
            if inner is None:
                place[part] = inner = {}
            if not isinstance(inner, dict):
                raise UserError(f"--set {text}: {part} is {_kind(inner)}, it has no keys")
            place = inner
        place[keys[-1]] = yaml_lines.scalar(value)

    def recipe(self, tree: dict[str, Any]) -> Recipe:
        for key in tree:
            if key not in TOP_KEYS:
                raise self.error((key,), f"unknown key.{_nearest(key, TOP_KEYS)} (Keys: {', '.join(TOP_KEYS)})")
        sources = self.sources(tree.get("sources") or {})
        cluster = self.mapping(tree.get("cluster") or {}, ("cluster",))
        entries = self.entries(tree, sources, cluster)
        names = {entry.name for entry in entries} | {"evaluate"}
        for name in cluster:
            if name not in names:
                raise self.error(("cluster", name), f"no such stage.{_nearest(name, names)}")
        return Recipe(
            path=self.file,
            name=self.typed(tree, "name", str, self.file.stem),
            seed=self.seed(tree),
            store=self.store(tree),
            entries=tuple(entries),
            evaluate=self.evaluate(tree, cluster),
            sweep=self.sweep(tree, entries),
            tree=tree,
        )

    def sources(self, tree: Any) -> dict[str, Source]:
        found = {}
        for name, options in self.mapping(tree, ("sources",)).items():
            path = ("sources", name)
            options = self.mapping(options, path)
            kind = options.get("kind")
            if not isinstance(kind, str) or kind not in SOURCES:
                problem = "missing" if kind is None else f"unknown kind {kind!r}.{_nearest(str(kind), SOURCES)}"
                raise self.error((*path, "kind"), f"{problem} (Kinds: {', '.join(SOURCES)})")
            found[name] = self.model(SOURCES[kind], options, path).at(self.file.parent)
        return found

    def entries(self, tree: dict, sources: Mapping[str, Source], cluster: dict) -> list[Entry]:
        entries: list[Entry] = []
        if tree.get("base") is not None:
            base = dict(self.mapping(tree["base"], ("base",)))
            beside = self.file.parent / str(base.get("model"))
            if beside.is_dir():  # a folder beside the recipe; otherwise one in the current folder, or a hub id
                base["model"] = str(beside)
            entries.append(self.entry("base", {"stage": "base", **base}, ("base",), entries, sources, cluster))
        stages = tree.get("stages")
        if not stages:
            raise self.error(
                ("stages",), "missing: list the stages to run, such as corpus, tokenizer, tokens, pretrain"
            )
        for name, options in self.mapping(stages, ("stages",)).items():
            path = ("stages", name)
            if name in ("base", "evaluate", "run", "sweep") or "/" in name:
                raise self.error(path, "this name is taken; choose another")
            options = self.mapping({} if options is None else options, path)
            entries.append(self.entry(name, options, path, entries, sources, cluster))
        return entries

    def entry(self, name, options, path, earlier: list[Entry], sources, cluster) -> Entry:
        kind = options.get("stage", name)
        if not isinstance(kind, str) or kind not in self.stages or kind == "evaluate":
            known = [k for k in self.stages if k not in ("evaluate", "base")]
            hint = "" if "stage" in options else " (another name for a stage is written `name: {stage: KIND, …}`)"
            raise self.error(
                path, f"unknown stage {kind!r}.{_nearest(str(kind), known)} (Stages: {', '.join(known)}){hint}"
            )
        stage = self.stages[kind]
        own = self.model(stage.options, {k: v for k, v in options.items() if k not in ENTRY_KEYS}, path)
        needs = (*stage.needs, *stage.needs_for(own))
        return Entry(
            name=name,
            stage=stage,
            options=own,
            cluster=self.model(
                stage.cluster, self.mapping(cluster.get(name) or {}, ("cluster", name)), ("cluster", name)
            ),
            inputs=self.inputs(stage, needs, options.get("from"), path, earlier),
            sources=self.own_sources(stage, options.get("sources"), path, sources),
        )

    def inputs(
        self, stage: Stage, needs: tuple[str, ...], named: Any, path: yaml_lines.Path, earlier: list[Entry]
    ) -> dict[str, str]:
        names = self.names(named, (*path, "from"))
        by_name = {entry.name: entry for entry in earlier}
        for name in names:
            if name not in by_name:
                raise self.error((*path, "from"), f"no earlier stage {name!r}.{_nearest(name, by_name)}")
        chosen: dict[str, str] = {}
        pool = list(reversed(earlier))
        for kind in (*needs, *stage.takes):
            makers = [by_name[n] for n in names] + pool
            found = next((e.name for e in makers if e.stage.makes == kind), None)
            if kind == "tokenizer":  # a model's folder holds its tokenizer
                found = next((e.name for e in makers if e.stage.makes in ("tokenizer", "model")), None)
            if found is not None:
                chosen[kind] = found
            elif kind in needs:
                makes = [s.kind for s in self.stages.values() if s.makes == kind]
                raise self.error(path, f"needs a {kind}, and no earlier stage makes one; put one of these before it: "
                                       f"{', '.join(makes)}")  # fmt: skip
        unused = [n for n in names if n not in chosen.values()]
        if unused:
            wanted = ", ".join((*needs, *stage.takes)) or "nothing"
            raise self.error(
                (*path, "from"), f"{unused[0]} makes a {by_name[unused[0]].stage.makes}; {stage.kind} uses {wanted}"
            )
        return chosen

    def own_sources(self, stage: Stage, named: Any, path, sources: Mapping[str, Source]) -> dict[str, Source]:
        if stage.rows is None:
            if named is not None:
                raise self.error((*path, "sources"), f"{stage.kind} reads no sources")
            return {}
        names = self.names(named, (*path, "sources"))
        for name in names:
            if name not in sources:
                raise self.error((*path, "sources"), f"no source {name!r}.{_nearest(name, sources)}")
        chosen = {n: s for n, s in sources.items() if s.rows == stage.rows and (not names or n in names)}
        if not chosen and not names and stage.kind == "corpus":
            raise self.error(
                path, f"reads sources with rows: {stage.rows}, and the recipe has none; add one under sources:"
            )
        for name in names:
            if name not in chosen:
                raise self.error(
                    (*path, "sources"), f"{name} has rows: {sources[name].rows}, {stage.kind} reads {stage.rows}"
                )
        return chosen

    def evaluate(self, tree: dict, cluster: dict) -> Entry | None:
        if "evaluate" not in self.stages:
            return None
        stage = self.stages["evaluate"]
        options = self.model(stage.options, self.mapping(tree.get("evaluate") or {}, ("evaluate",)), ("evaluate",))
        own = self.mapping(cluster.get("evaluate") or {}, ("cluster", "evaluate"))
        return Entry("evaluate", stage, options, self.model(stage.cluster, own, ("cluster", "evaluate")), {}, {})

    def sweep(self, tree: dict, entries: Sequence[Entry]) -> SweepOptions | None:
        if tree.get("sweep") is None:
            return None
        options = self.model(SweepOptions, self.mapping(tree["sweep"], ("sweep",)), ("sweep",))
        names = [entry.name for entry in entries]
        if options.until is not None and options.until not in names:
            raise self.error(("sweep", "until"), f"no stage {options.until!r}.{_nearest(options.until, names)}")
        if key := options.undecided:
            problem = "missing: the figure's name does not tell whether less (min) or more (max) of it is better"
            raise self.error(("sweep", key), problem)
        return options

    def names(self, value: Any, path: yaml_lines.Path) -> list[str]:
        found = [value] if isinstance(value, str) else value or []
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.error(path, f"expected a name or a list of names, found {_kind(value)}")
        return found

    def mapping(self, value: Any, path: yaml_lines.Path) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(path, f"expected keys and values, found {_kind(value)}")
        return value

    def typed(self, tree: dict, key: str, kind: type, default: Any) -> Any:
        value = tree.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error((key,), f"expected {'text' if kind is str else 'a whole number'}, found {value!r}")
        return value

    def seed(self, tree: dict) -> int:
        seed = self.typed(tree, "seed", int, 0)
        if not 0 <= seed < 2**32:  # what every library that draws numbers takes
            raise self.error(("seed",), f"expected a whole number from 0 to {2**32 - 1}, found {seed}")
        return seed

    def store(self, tree: dict) -> Path:
        store = self.typed(tree, "store", str, "./store")
        if "://" in store:
            raise self.error(("store",), f"{store}: object stores are not supported yet; expected a folder that all "
                                         f"nodes share (NFS, Lustre, EFS), as --store does too")  # fmt: skip
        return Path(store)

    def model(self, model: type[Options], values: dict[str, Any], path: yaml_lines.Path) -> Any:
        try:
            return model.model_validate(values)
        except ValidationError as error:
            found = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
            raise self.explain(model, found[0], values, path) from None  # a misspelt key before the one that is missing

    def explain(self, model: type[Options], problem: Any, values: Any, path: yaml_lines.Path) -> UserError:
        at = problem["loc"] if problem["type"] == "missing" else _written(problem["loc"], values)
        where = (*path, *at)
        shown = dotted(path[1:] if path[0] == "stages" else path)
        keys = _keys(model, at[:-1])
        if problem["type"] == "extra_forbidden":
            key = str(at[-1])
            nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            inner = dotted((shown, *at[:-1]))
            hint = f" Did you mean {inner}.{nearest[0]}?" if nearest else ""
            return self.error(where, f"unknown key.{hint} (Keys of {inner}: {', '.join(keys) or 'none'})")
        if problem["type"] == "missing":
            return self.error(where, "missing; it has no default")
        found = problem.get("input")
        hint = f" (A search space is written {search_space.SPELLINGS})" if isinstance(found, dict) else ""
        return self.error(where, f"{_lower(problem['msg'])}; found {found!r}{hint}")


def _keys(model: Any, inner: tuple) -> list[str]:
    """The keys a model has at an inner path, following nested models as far as they are plain."""
    for part in inner:
        fields = getattr(model, "model_fields", {})
        kind = fields[part].annotation if part in fields else None
        model = next((m for m in get_args(kind) if hasattr(m, "model_fields")), kind)  # `Length | None` is Length
    return list(getattr(model, "model_fields", {}))


def _written(loc: tuple, values: Any) -> tuple:
    """A place as pydantic names it, without what nobody wrote: the members of a union, the names of checks."""
    found = []
    for part in loc:
        if (isinstance(values, dict) and part in values) or (isinstance(values, list) and isinstance(part, int)):
            values = values[part]
            found.append(part)
    return tuple(found)


def _nearest(word: str, known) -> str:
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {found[0]}?" if found else ""


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {"str": "text", "list": "a list", "dict": "keys and values"}.get(type(value).__name__, repr(value))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
