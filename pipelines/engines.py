"""Cluster options of the stages that run an engine beside those that train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipelines.stage import ClusterOptions

if TYPE_CHECKING:
    from cluster.session import Session


class EngineCluster(ClusterOptions):
    threads: int | None = Field(None, ge=1, description="Threads of the engine on a CPU; default: one for each core")
    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto", description="Fraction of a GPU for the engine, which other stages have when it rests; auto: 1 where a "
                            "node of the cluster has a GPU, otherwise 0")  # fmt: skip
    kv_cache_bytes: int | None = Field(
        None, ge=2**24, description="Memory for keys and values, in bytes; default: as much as needed, on a CPU up to "
                                    "0.5 GiB")  # fmt: skip
    start_s: float = Field(900, gt=0, description="Seconds within which the engine must be up")
    answer_s: float = Field(
        600, gt=0, description="Seconds within which a batch must be done, or give a sign of life: 64 replies (256 "
                               "on a GPU), or 33,000 tokens")  # fmt: skip

    def gpus_on(self, session: Session) -> float:
        """The fraction of a GPU. Starts Ray where it depends on the cluster's nodes."""
        if self.gpus != "auto":
            return self.gpus
        return float(any(node.gpus >= 1 for node in session.nodes()))
