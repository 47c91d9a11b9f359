"""What a recipe may say of its corpus. Imported when a recipe is read, so nothing heavy here."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipelines.data.filters import Filters
from pipelines.stage import ClusterOptions, Options


class CorpusOptions(Options):
    """Text → cleaned, deduplicated documents, split into training and held-out text."""

    filters: Filters = Filters()  # of each filter its settings; null switches one off
    near_duplicates: float | None = Field(
        default=0.8, gt=0, le=1
    )  # Jaccard similarity from which on; null: exact ones only
    permutations: int = Field(
        default=128, ge=16, le=1024
    )  # of MinHash: the similarity's standard error is 0.5 / √permutations
    held_out: float = Field(default=0.05, ge=0, le=0.5)  # of each language's bytes, in whole groups
    held_out_similarity: float = Field(
        default=0.5, gt=0, le=1
    )  # to a training text: a held-out text so similar is dropped
    # Of a held-out text, the share in lines of training text: up to it the lines go, beyond it the whole text.
    held_out_shared: float = Field(default=0.3, ge=0, le=1)
    max_bad_rows: NonNegativeInt = 100  # rows that cannot be read: set aside in rejected.parquet; beyond, the run stops
    block_bytes: PositiveInt = 2_000_000  # of text read by one task: what a kill can cost; decides where files end
    part_bytes: PositiveInt = 256_000_000  # of text in one file of the corpus


class CorpusCluster(ClusterOptions):
    """Where the corpus is read and cleaned."""

    tasks: PositiveInt | None = None  # at once; default: as many as this machine has cores, or the cluster has CPUs
    cpus_per_task: PositiveFloat = 1
