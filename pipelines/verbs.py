"""The small verbs: run, plan, lineage, ls, export, recipe. Each prints facts as a table, or as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

import cluster
import pipelines
from pipelines.errors import UserError
from pipelines.lease import Lease, describe
from pipelines.plan import plan
from pipelines.progress import Story
from pipelines.recipe import SHIPPED, Recipe, find
from pipelines.recipe_schema import json_schema
from pipelines.runs import RunRecord, resolve
from pipelines.stage import Stage
from pipelines.store import Artifact, Store


def run_recipe(
    recipe: Recipe,
    *,
    until: str | None = None,
    from_: str | None = None,
    force: str | None = None,
    address: str | None = None,
    wait: bool = True,
    quiet: bool = False,
) -> RunRecord:
    """`rayse run`: makes what is missing and says where it is."""
    from cluster.session import Session
    from pipelines.run import Walk

    story = Story(quiet=quiet)
    store = Store(recipe.store).create()
    packages = [Path(package.__file__ or "").parent for package in (cluster, pipelines)]
    logs = store.root / "cache" / "logs"
    session = Session(address, logs=logs, packages=packages, shared=store.root, say=story.note)
    try:  # not `with`: a session starts when the first stage asks for it
        record = Walk(recipe, store, session, story, wait).run(until=until, force=force, from_=from_)
    finally:
        session.stop()
    story.note(f"{recipe.name}: {record.made} made, {_count(record) - record.made} found, in {store.root}")
    story.note(f"next: rayse report --store {recipe.store}")
    tried = next((name for name, stage in reversed(record.stages.items()) if stage.makes == "trial"), None)
    if tried is not None:
        story.note(f"talk to it: rayse chat {tried} --store {recipe.store}")
        story.note(f"host it: rayse serve {tried} --store {recipe.store}")
    return record


def _count(record: RunRecord) -> int:
    return len(record.stages) + sum(stage.evaluation is not None for stage in record.stages.values())


def show_plan(recipe: Recipe, *, until: str | None, as_json: bool) -> None:
    """`rayse plan`."""
    steps = plan(recipe, Store(recipe.store), until=until, warn=Story().warn)
    facts = {
        step.name: {
            "fingerprint": step.fingerprint,
            "state": "made" if step.artifact else "to make",
            "made_by_other_code": step.made_by_other_code,
            "inputs": dict(step.parents),
        }
        for step in steps
    }
    if as_json:
        return print_json(facts)
    table = _table("stage", "fingerprint", "state")
    for name, fact in facts.items():
        other = ", by other code than is here now" if fact["made_by_other_code"] else ""
        table.add_row(name, fact["fingerprint"], fact["state"] + other)
    _console().print(table)


def show_lineage(store: Store, name: str, *, as_json: bool) -> None:
    """`rayse lineage`: an artifact and its parents, down to the sources."""
    tree = lineage(store, resolve(store, name))
    if as_json:
        return print_json(tree)
    console = _console()
    _print_tree(console, tree, 0)


def lineage(store: Store, artifact: Artifact) -> dict[str, Any]:
    """An artifact's manifest facts and, by kind, those of its parents."""
    manifest = artifact.manifest
    parents = {kind: store.by_fingerprint(fingerprint) for kind, fingerprint in manifest.parents.items()}
    return {
        "kind": manifest.kind,
        "stage": manifest.stage,
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "created": manifest.created,
        "seed": manifest.seed,
        "options": manifest.options,
        "sources": manifest.sources,
        "code": manifest.code,
        "packages": manifest.packages,
        "machine": manifest.machine,
        "parents": {
            kind: lineage(store, parent) if parent else {"fingerprint": manifest.parents[kind], "missing": True}
            for kind, parent in parents.items()
        },
    }


def _print_tree(console: Console, tree: dict[str, Any], depth: int) -> None:
    pad = "   " * depth
    if tree.get("missing"):
        console.print(f"{pad}{tree['fingerprint']}  no longer in the store")
        return
    title = f"{tree['kind']} {tree['fingerprint']}"
    console.print(f"{pad}{title}  by {tree['name']}, {tree['created'][:19]} UTC, seed {tree['seed']}")
    console.print(f"{pad}   code {tree['code'][:12]}  torch {tree['packages'].get('torch', '-')}")
    for name, source in tree["sources"].items():
        kind = source.get("identity", {}).get("kind", "files") if isinstance(source, dict) else "files"
        console.print(f"{pad}   source {name} ({kind})")
    for parent in tree["parents"].values():
        _print_tree(console, parent, depth + 1)


def show_store(store: Store, *, as_json: bool) -> None:
    """`rayse ls`."""
    artifacts = [
        {
            "kind": a.kind,
            "fingerprint": a.fingerprint,
            "name": a.manifest.name,
            "created": a.manifest.created,
            "bytes": sum(f.bytes for f in a.manifest.files.values()),
            "path": str(a.path),
        }
        for a in store.artifacts()
    ]
    drafts = [_draft(path) for path in sorted((store.root / "drafts").glob("*")) if path.is_dir()]
    if as_json:
        return print_json({"artifacts": artifacts, "drafts": drafts})
    table = _table("kind", "fingerprint", "name", "created (UTC)", "size")
    for a in artifacts:
        table.add_row(a["kind"], a["fingerprint"], a["name"], a["created"][:19], f"{a['bytes'] / 1e6:,.1f} MB")
    _console().print(table)
    for draft in drafts:
        print(f"draft {draft['fingerprint']}: {draft['owner'] or 'nobody works on it; run its recipe to go on'}")


def _draft(path: Path) -> dict[str, Any]:
    lease = Lease(path / "lease.json")
    return {"fingerprint": path.name, "owner": describe(owner) if (owner := lease.live_owner()) else None}


def export_artifact(store: Store, name: str, folder: Path, *, as_json: bool) -> None:
    """`rayse export`: the artifact's files without the manifest; whole, or not there."""
    artifact = resolve(store, name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; name a new one")
    damage = artifact.damage()
    if damage:
        raise UserError(f"{name}: damaged: {damage}; run its recipe again to remake it")
    partial = folder.absolute().parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(artifact.path, partial, ignore=shutil.ignore_patterns("manifest.json"))
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except shutil.Error as error:  # copytree gathers what went wrong with each file: (from, to, why)
        raise UserError(f"{folder}: cannot be written ({error.args[0][0][2]}); choose another folder") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    facts = {"kind": artifact.kind, "fingerprint": artifact.fingerprint, "folder": str(folder.absolute())}
    if as_json:
        return print_json(facts)
    print(f"{artifact.kind} {artifact.fingerprint} -> {folder}")


def explain_recipe(stages: Mapping[str, Stage], *, keys: str | None, schema: bool, show: str | None) -> None:
    """`rayse recipe`: teaches the keys of these stages and of sources."""
    from pipelines.data.sources import SOURCES

    if schema:
        return print_json(json_schema(stages))
    if show is not None:
        return print(find(show).read_text(encoding="utf-8"), end="")
    if keys is None:
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        print(f"stages: {', '.join(stages)}\nsources: {', '.join(SOURCES)}\nrecipes that come with Rayse: {shipped}")
        print("rayse recipe --keys NAME explains one; --show RECIPE prints one; --schema prints the JSON Schema")
        return None
    models = {name: [stage.options, stage.cluster] for name, stage in stages.items()}
    models |= {name: [source] for name, source in SOURCES.items()}
    if keys not in models:
        raise UserError(f"--keys {keys}: no such stage or kind of source (there are {', '.join(models)})")
    for model, title in zip(models[keys], (keys, f"cluster: {keys}"), strict=False):
        print(title)
        for key, default, description in keys_of(model):
            print(f"  {key:<32} {default:<20} {description}".rstrip())
    return None


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, description) of every key of a model and of the models inside it."""
    for name, field in model.model_fields.items():
        kinds: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            yield f"{prefix}{name}", default, field.description or ""


def _console() -> Console:
    """Prints what recipes and files are called as it is: [brackets] and :colons: are no markup here."""
    return Console(highlight=False, markup=False, emoji=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=1))
