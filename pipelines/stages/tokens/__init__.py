"""Encodes the corpus and packs it into rows of tokens, mixed by language or other groups and shuffled once.

    corpus parts ──encode, one task a part──► draft/encoded ──counts──► repeats of each group, number of shards
    draft/encoded ──mix, concatenate, cut, shuffle, one task a shard──► train/part-*.arrow, held_out/part-*.arrow

Finished parts and shards stay in the draft, so a resumed run does not make them again. No token passes through the
driver: it adds up the counts of the parts and shards. Two runs write the same bytes, whatever the number of tasks.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveInt, Tag, field_validator

from pipelines.stage import ClusterOptions, Facts, Options, Stage, Work
from pipelines.stages.tokens.mixture import Mixture, Order, spelling

# Repeated up to four times, text is worth nearly as much as new text (Muennighoff et al. 2023, figure 5).
MAX_GROUP_REPEATS = 4.0


class TokensOptions(Options):
    """Corpus and tokenizer → packed rows of tokens."""

    length: int = Field(256, ge=16, le=1_048_576, description="Tokens of a row: the length of training sequences")
    mixture: (
        Annotated[dict[str, NonNegativeFloat], Tag("languages")]
        | Annotated[Mixture, Tag("groups")]
        | Annotated[None, Tag("none")]
    ) = Field(
        None,
        discriminator=Discriminator(spelling),
        description="Mixture weights of training tokens by language, {en: 0.8, zh: 0.2}, or by groups: {by: source, "
        "language or a key of `meta`, weights: {general: 0.7, domain: 0.3}, groups: {general: [web, books]}, "
        "total_tokens: 1_000_000}; default: every document once",
    )
    min_language_fraction: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Minimum fraction of training tokens of each language, reached by repeating its documents; used "
        "without a mixture",
    )
    max_repeats: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Maximum number of times a document is used to reach the mixture or fraction. Default: 4 with a "
        "mixture by groups, otherwise 1",
    )
    order: Order = Field(
        "shuffled",
        description="Order of training text. shuffled: at random; quality: documents with low scores of the corpus' "
        "quality model first; length: short documents first; both in ten phases with as many tokens each, shuffled "
        "within; [[web], [books, maths]]: sources in phases",
    )
    shard_tokens: int = Field(
        100_000_000,
        ge=1000,
        description="Tokens of one file of rows, about: one task holds them in memory, 6 bytes each, 10 with a "
        "vocabulary over 65,536, and 60 MB while it cuts rows; documents are dealt to files at random",
    )

    @field_validator("mixture")
    @classmethod
    def _has_positive_weight(cls, mixture: dict[str, float] | Mixture | None) -> dict[str, float] | Mixture | None:
        if isinstance(mixture, dict) and not any(mixture.values()):
            raise ValueError("expected at least one language with a weight above 0, such as {en: 0.8, zh: 0.2}")
        return mixture

    @property
    def repeats_limit(self) -> float:
        """Maximum number of times a document is used."""
        return self.max_repeats or (MAX_GROUP_REPEATS if isinstance(self.mixture, Mixture) else 1.0)

    def identity(self) -> dict[str, Any]:
        identity = super().identity() | {"max_repeats": self.repeats_limit}
        if self.order == "shuffled":  # what a recipe could say before there was a choice
            del identity["order"]
        return identity


class TokensCluster(ClusterOptions):
    """Resources to encode the corpus and to pack rows."""

    tasks: PositiveInt | None = Field(
        default=None, description="Number of parallel tasks; default: this machine's cores, or the cluster's CPUs"
    )
    cpus_per_task: float = Field(
        default=1, ge=0, description="Logical CPUs of a task that encodes a part or packs a file of rows"
    )


def run(work: Work) -> Facts:
    """Writes packed rows and the tokenizer into work.draft.out. Raises UserError for a mixture that is impossible."""
    from pipelines.data.tokens.tokenizing import Encoder
    from pipelines.stages.tokens import encoding, ordering, shards
    from pipelines.store.artifacts import write_json
    from pipelines.training import copy_tokenizer

    tokenizer = work.inputs["tokenizer"].local()
    encoder = Encoder.open(tokenizer)
    corpus = work.inputs["corpus"].local()
    ordering.check_scores(work, corpus)
    totals = encoding.encode(work, corpus, tokenizer)
    facts = shards.write(work, totals, encoder)
    (work.draft.out / "tokenizer").mkdir(exist_ok=True)
    copy_tokenizer(tokenizer, work.draft.out / "tokenizer")
    meta = {
        "length": work.options.length,
        "vocabulary": encoder.vocabulary,
        "num_rows": facts["rows/train"],
        "num_tokens": facts["tokens/train"],
        "bos_id": encoder.bos_id,
        "eos_id": encoder.eos_id,
        "pad_id": encoder.pad_id,
    }
    if "tokens/phases" in facts:
        meta["num_phases"] = facts["tokens/phases"]
    write_json(work.draft.out / "meta.json", meta)
    return facts


STAGE = Stage(
    kind="tokens",
    version=2,
    makes="tokens",
    needs=("corpus", "tokenizer"),
    options=TokensOptions,
    cluster=TokensCluster,
    run=run,
)
