"""Lineage of an artifact: its manifest and those of its ancestors, down to the sources."""

from __future__ import annotations

from typing import Any

from pipelines.store.artifacts import Artifact, Store


def lineage(store: Store, artifact: Artifact) -> dict[str, Any]:
    """The provenance of an artifact as a JSON-like tree; its parents stand under `parents`, by kind."""
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
