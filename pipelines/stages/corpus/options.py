"""What a recipe may say of its corpus. Imported when a recipe is read, so nothing heavy here."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipelines.data.corpus.filters import Filters
from pipelines.stage import ClusterOptions, Options


class CorpusOptions(Options):
    """Text → cleaned, deduplicated documents, split into training and held-out text."""

    filters: Filters = Field(default=Filters(), description="of each filter its settings; null switches one off")
    near_duplicates: float | None = Field(
        default=0.8, gt=0, le=1, description="Jaccard similarity from which on; null: exact ones only"
    )
    permutations: int = Field(
        default=128, ge=16, le=1024, description="of MinHash: the similarity's standard error is 0.5 / √permutations"
    )
    held_out: float = Field(default=0.05, ge=0, le=0.5, description="of each language's bytes, in whole groups")
    held_out_similarity: float = Field(
        default=0.5, gt=0, le=1, description="to a training text: a held-out text so similar is dropped"
    )
    held_out_shared: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="share of a held-out text that may be lines of training text: they go; beyond, the whole text",
    )
    max_bad_rows: NonNegativeInt = Field(
        default=100, description="rows that cannot be read: set aside in rejected.parquet; beyond, the run stops"
    )
    block_bytes: PositiveInt = Field(
        default=2_000_000, description="of text read by one task: what a kill can cost; decides where files end"
    )
    part_bytes: PositiveInt = Field(default=256_000_000, description="of text in one file of the corpus")


class CorpusCluster(ClusterOptions):
    """Where the corpus is read and cleaned."""

    tasks: PositiveInt | None = Field(
        default=None, description="at once; default: as many as this machine has cores, or the cluster has CPUs"
    )
    cpus_per_task: PositiveFloat = Field(default=1, description="logical CPUs of a task")
