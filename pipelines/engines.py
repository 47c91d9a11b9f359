"""Options of the stages that run an engine beside those that train, or send requests to an endpoint instead.

Light imports only: recipes are read with this module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from pipelines.stage import ClusterOptions, Options

if TYPE_CHECKING:
    from cluster.session import Session


FREE_GPUS_S = 5.0  # as long as Ray may take to learn that an engine or a stage before has given its GPUs back


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


class EndpointCluster(ClusterOptions):
    """Of a stage that sends requests to an endpoint."""

    concurrency: int = Field(default=8, ge=1, le=512, description="Number of requests that an endpoint gets at a time")
    request_s: float = Field(default=120, gt=0, description="Seconds within which an endpoint must answer a request")
    retries: int = Field(
        default=6,
        ge=0,
        le=100,
        description="Number of times that a request is sent again after 429, 5xx, a timeout or a lost connection, each "
        "time after a longer pause, or the one that the endpoint names",
    )


class WriterCluster(EngineCluster, EndpointCluster):
    """Of a stage whose replies are written by a model of the store or by an endpoint."""

    engines: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto", description="Number of engines that write at a time, each with `threads` or `gpus` of its own; auto: "
                            "one for each GPU that is free, where it takes a whole one, and no more than there are "
                            "batches; otherwise 1")  # fmt: skip

    def engines_on(self, session: Session, *, batches: int, running: int = 0, held_gpus: int = 0) -> int:
        """Number of engines for so many batches. Starts Ray where it depends on the cluster's GPUs.

        running: engines of this kind that are up, which stay; held_gpus: GPUs of the evaluator, which it gives back or
        goes on with."""
        if self.engines != "auto":
            return self.engines
        if self.gpus_on(session) < 1:
            return 1
        if batches <= running:
            return running
        most = min(batches, sum(int(node.gpus) for node in session.nodes()))
        free = session.free_gpus(most - held_gpus, wait_s=0.0 if running else FREE_GPUS_S)
        return max(1, running, min(most, held_gpus + free))


class Endpoint(Options):
    """A server with OpenAI's API, whose model writes in place of one of the store."""

    url: str = Field(
        description="Address of the API, such as https://api.openai.com/v1 or http://127.0.0.1:8000/v1 of `rayse serve`"
    )
    model: str = Field(min_length=1, description="Name of the model there")
    key_env: str | None = Field(
        None, min_length=1, description="Name of the environment variable with the API key; default: no key is sent"
    )
    key_file: str | None = Field(None, min_length=1, description="Path of a file with the API key, instead of key_env")
    parameters: dict[str, Any] = Field(
        {},
        description="Further fields of each request, such as {top_k: 20}; null leaves out one that is sent otherwise: "
        "{max_tokens: null, max_completion_tokens: 500}",
    )
    prompt_price: float = Field(0, ge=0, description="Price of a million prompt tokens, in any currency")
    reply_price: float = Field(0, ge=0, description="Price of a million reply tokens, in the same currency")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://HOST:PORT/v1 or https://HOST/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("expected an address without a key, which is written to no artifact: use key_env")
        return url.rstrip("/")

    @field_validator("parameters")
    @classmethod
    def _no_fields_of_the_stage(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for key in ("model", "messages", "stream", "n"):
            if key in parameters:
                raise ValueError(f"{key} is no further field: the stage sets it, or needs it as it is; remove it")
        return parameters

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key_env is not None and self.key_file is not None:
            raise ValueError("key_file: the key is in the environment variable key_env already; expected one of them")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the answers: neither where the key is, nor what they cost."""
        return self.model_dump(mode="json", include={"url", "model", "parameters"})

    @property
    def name(self) -> str:
        """As provenance has it: MODEL at URL."""
        return f"{self.model} at {self.url}"
