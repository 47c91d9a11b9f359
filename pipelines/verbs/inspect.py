"""`rayse lineage` and `rayse ls`: what the store holds and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.console import console, print_json, table
from pipelines.store.artifacts import Store
from pipelines.store.lease import Lease, describe
from pipelines.store.lineage import lineage
from pipelines.store.runs import resolve


def show_lineage(store: Store, name: str, *, as_json: bool) -> None:
    """`rayse lineage`: an artifact and its parents, down to the sources."""
    tree = lineage(store, resolve(store, name))
    if as_json:
        return print_json(tree)
    _print_tree(console(), tree, 0)


def _print_tree(screen: Console, tree: dict[str, Any], depth: int) -> None:
    pad = "   " * depth
    if tree.get("missing"):
        screen.print(f"{pad}{tree['fingerprint']}  no longer in the store")
        return
    title = f"{tree['kind']} {tree['fingerprint']}"
    screen.print(f"{pad}{title}  by {tree['name']}, {tree['created'][:19]} UTC, seed {tree['seed']}")
    screen.print(f"{pad}   code {tree['code'][:12]}  torch {tree['packages'].get('torch', '-')}")
    for name, source in tree["sources"].items():
        kind = source.get("identity", {}).get("kind", "files") if isinstance(source, dict) else "files"
        screen.print(f"{pad}   source {name} ({kind})")
    for parent in tree["parents"].values():
        _print_tree(screen, parent, depth + 1)


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
    rows = table("kind", "fingerprint", "name", "created (UTC)", "size")
    for a in artifacts:
        rows.add_row(a["kind"], a["fingerprint"], a["name"], a["created"][:19], f"{a['bytes'] / 1e6:,.1f} MB")
    console().print(rows)
    for draft in drafts:
        print(f"draft {draft['fingerprint']}: {draft['owner'] or 'nobody works on it; run its recipe to go on'}")


def _draft(path: Path) -> dict[str, Any]:
    lease = Lease(path / "lease.json")
    return {"fingerprint": path.name, "owner": describe(owner) if (owner := lease.live_owner()) else None}
