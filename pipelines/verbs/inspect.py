"""`rayse lineage` and `rayse ls`: the content of the store and its provenance."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from pipelines.console import console, print_json, table
from pipelines.store.artifacts import Store
from pipelines.store.lease import Owner, describe, is_elsewhere
from pipelines.store.lineage import lineage
from pipelines.store.runs import resolve


def show_lineage(store: Store, name: str, *, as_json: bool) -> None:
    """`rayse lineage`: prints an artifact and its ancestors, down to the sources, as a tree or as JSON."""
    tree = lineage(store, resolve(store, name))
    if as_json:
        return print_json(tree)
    _print_tree(console(), tree, 0)


def _print_tree(screen: Console, tree: dict[str, Any], depth: int) -> None:
    indent = "   " * depth
    if tree.get("missing"):
        screen.print(f"{indent}{tree['fingerprint']}  no longer in the store")
        return
    title = f"{tree['kind']} {tree['fingerprint']}"
    screen.print(f"{indent}{title}  by {tree['name']}, {tree['created'][:19]} UTC, seed {tree['seed']}")
    screen.print(f"{indent}   code {tree['code'][:12]}  torch {tree['packages'].get('torch', '-')}")
    for name, source in tree["sources"].items():
        kind = source.get("identity", {}).get("kind", "files") if isinstance(source, dict) else "files"
        screen.print(f"{indent}   source {name} ({kind})")
    for parent in tree["parents"].values():
        _print_tree(screen, parent, depth + 1)


def show_store(store: Store, *, as_json: bool) -> None:
    """`rayse ls`: prints all artifacts and drafts, as tables or as JSON."""
    artifacts = [
        {
            "kind": artifact.kind,
            "fingerprint": artifact.fingerprint,
            "name": artifact.manifest.name,
            "created": artifact.manifest.created,
            "bytes": sum(file.bytes for file in artifact.manifest.files.values()),
            "path": artifact.location,
        }
        for artifact in store.artifacts()
    ]
    drafts = [
        {"fingerprint": fingerprint, "owner": None if owner is None else _holder(owner)}
        for fingerprint, owner in store.drafts().items()
    ]
    if as_json:
        return print_json({"artifacts": artifacts, "drafts": drafts})
    rows = table("kind", "fingerprint", "name", "created (UTC)", "size")
    for row in artifacts:
        megabytes = f"{row['bytes'] / 1e6:,.1f} MB"
        rows.add_row(row["kind"], row["fingerprint"], row["name"], row["created"][:19], megabytes)
    console().print(rows)
    for draft in drafts:
        print(f"draft {draft['fingerprint']}: {draft['owner'] or 'no run works on it; run its recipe to continue'}")


def _holder(owner: Owner) -> str:
    """A draft's owner as text. Whether one on another machine lives, only a run that waits for it finds out."""
    return f"last held by {describe(owner)}" if is_elsewhere(owner) else describe(owner)
