"""Makes knowledge: documents that a served model answers from, as an index of their passages.

    sources ──parts──► blocks ──read, normalise, cut──► draft/blocks/*: passages and their terms      one task a block
    (embeddings: true: passages ──► draft/embeddings/*                               one task EMBEDDED_AT_ONCE passages)
    blocks ──► out/passages.arrow, out/bm25, out/embeddings.npy, out/rejected.jsonl, out/knowledge.json        one task

All in the draft is complete or absent, and named and read in the order of (source, part): a run that was killed goes
on, and any number of tasks writes the same bytes. Blocks also stay in the store's cache, by the bytes of their files,
and embeddings by their texts: where a document comes later, its block is cut again, its passages are embedded, and the
index is written anew. The driver has names and counts alone. Texts are kept as they are: orders to a model in them are
made harmless when a passage goes into a prompt (serve/gateway/knowledge.py).
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipelines.stage import ClusterOptions, Facts, Options, RowLimit, Stage, Work


class KnowledgeOptions(Options):
    """Options of the stage `knowledge` that decide its result."""

    passage_words: int = Field(
        160,
        ge=20,
        le=2000,
        description="Maximum length of a passage, in words; of Chinese, 1.6 characters count as one. Several passages "
        "must fit into the model's context beside the question and the reply",
    )
    overlap_words: int = Field(
        30,
        ge=0,
        description="Maximum of the text that a passage repeats of the one before it, in words",
    )
    embeddings: bool = Field(
        False,
        description="Whether passages are also found by their meaning, in words other than theirs and in the other "
        "language. It costs about 0.4 s of a CPU core a passage, so it is for thousands of passages, not millions",
    )
    max_bad_rows: RowLimit | None = Field(
        None,
        description="Maximum number of documents that cannot be read (in rejected.jsonl) before the stage fails, or "
        "their share of each source's documents, such as 1%. Default: 100, and 5% of each source's (of few: 5, but at "
        "most half)",
    )

    def identity(self) -> dict[str, Any]:
        """The options, and the embedder where there are embeddings: those of another make another index."""
        if not self.embeddings:
            return super().identity()
        from pipelines.data.text.embeddings import embedder

        return {**super().identity(), "embedder": embedder()}

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Self:
        if self.overlap_words > self.passage_words // 2:
            raise ValueError(f"overlap_words: {self.overlap_words} is more than half of passage_words, "
                             f"{self.passage_words}; expected at most {self.passage_words // 2}")  # fmt: skip
        return self


class KnowledgeCluster(ClusterOptions):
    """Resources of the stage `knowledge`, in the recipe's `cluster:` section."""

    tasks: PositiveInt | None = Field(
        default=None, description="Number of parallel tasks; default: this machine's cores, or the cluster's CPUs"
    )
    cpus_per_task: PositiveFloat = Field(default=1, description="Logical CPUs of a task")
    block_bytes: PositiveInt = Field(
        default=8_000_000, description="Approximate size of the text of a block, the work of one task, in bytes"
    )


def run(work: Work) -> Facts:
    """Writes the index into work.draft.out. Raises UserError for sources that cannot be read, too many bad
    documents, or no text at all."""
    from pipelines.data.knowledge.index import read_summary
    from pipelines.data.sources.bad_rows import row_facts
    from pipelines.errors import UserError
    from pipelines.stages.knowledge import blocks, indexing

    if not work.sources:
        raise UserError(f"{work.name}: no documents; expected a source with rows: documents in the recipe")
    cut = blocks.cut(work)
    counts, num_passages = blocks.check(work, cut)
    if not num_passages:
        raise UserError(f"{work.name}: no passages; the {counts['documents/read']:,} documents hold no text")
    indexing.write(work, cut)
    summary = read_summary(work.draft.out)
    reasons = {name: number for name, number in sorted(counts.items()) if name.startswith(blocks.NOT_USED)}
    not_used = {name.removeprefix(blocks.NOT_USED): number for name, number in reasons.items()}
    return {
        **row_facts(counts["documents/read"], not_used),
        **{name: counts[name] for name in blocks.COUNTS},
        **reasons,
        "passages/written": num_passages,
        "passages/terms": summary["terms_known"],
        "passages/embedded": num_passages if work.options.embeddings else 0,
    }


STAGE = Stage(
    kind="knowledge",
    version=7,
    makes="knowledge",
    options=KnowledgeOptions,
    cluster=KnowledgeCluster,
    run=run,
    rows="documents",
)
