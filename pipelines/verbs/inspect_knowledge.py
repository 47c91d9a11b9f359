"""`rayse inspect NAME --query QUESTION`: the passages of documents that a question finds, by each ranking."""

from __future__ import annotations

from pipelines.console import print_json
from pipelines.data.knowledge.index import Index
from pipelines.errors import UserError, printable
from pipelines.store.artifacts import Store
from pipelines.store.runs import resolve

DISPLAYED_CHARACTERS = 300  # of a passage; --json has all


def show_hits(store: Store, name: str, query: str, *, limit: int, as_json: bool) -> None:
    """Prints at most `limit` passages for a question, the best first, each with its ranks by keywords and by meaning.

    Raises UserError for an artifact of another kind, and as `Index` does."""
    artifact = resolve(store, name)
    if artifact.kind != "knowledge":
        raise UserError(f"{name}: --query looks up in documents, and this is of kind {artifact.kind}; expected what "
                        f"the stage knowledge made")  # fmt: skip
    index = Index(artifact.local())
    hits = index.search(query, limit)
    rankings = ["keywords"] + (["embeddings"] if index.summary["embedder"] else [])
    ranks = {
        by: {hit.number: rank for rank, hit in enumerate(index.search(query, len(index), by=(by,)), 1)}
        for by in rankings
    }
    rows = [
        {**hit.passage, "score": round(hit.score, 4), "ranks": {by: ranks[by].get(hit.number) for by in rankings}}
        for hit in hits
    ]
    if as_json:
        return print_json({"artifact": artifact.fingerprint, "query": query, "passages": rows})
    for row in rows:
        text = " ".join(row["text"].split())
        text = text[:DISPLAYED_CHARACTERS] + ("…" if len(text) > DISPLAYED_CHARACTERS else "")
        places = ", ".join(f"{by} {rank or '-'}" for by, rank in row["ranks"].items())
        print(printable(f"{row['score']:.4f} ({places})  {row['id']}  {row['heading']}\n    {text}"))
    print(f"{len(rows):,} of {len(index):,} passages")
    return None
