"""Options of a server that a recipe's `cluster.serve`, the flags of `rayse serve` and a server's settings share.

    cluster.serve ──ServeCluster──► flags override it ──► Settings (serve/settings.py)

Each has its default and its description here, once. Imports nothing heavy: recipes are read with it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.stage import ClusterOptions, Options

NONE = "none"  # in place of a name: no documents, no feedback


class Limits(Options):
    """Limits of one request and of the server. A request beyond them gets an error in OpenAI's form."""

    body_bytes: int = Field(
        default=1_000_000, gt=0, description="Maximum size of a request's body, in bytes (413 beyond it)"
    )
    body_s: float = Field(
        default=20.0, gt=0, description="Maximum time for a client to send its body, in seconds (408 beyond it), so "
        "that a slow one cannot hold a connection"
    )  # fmt: skip
    request_s: float = Field(
        default=300.0,
        gt=0,
        description="Maximum time from a request to the last byte of its reply, in seconds (504 beyond it)",
    )
    reply_tokens: int = Field(
        default=4096, gt=0, description="Maximum length of one reply, in tokens; longer ones are cut"
    )
    replies_per_request: int = Field(default=8, gt=0, description="Maximum number of replies to one prompt, `n`")
    prompts_per_request: int = Field(
        default=128, gt=0, description="Maximum number of prompts of one completions request, and of replies to it"
    )
    requests_in_flight: int = Field(
        default=256, gt=0, description="Maximum number of requests in flight of one replica, each prompt of a "
        "completions request counting as one; the next gets 429 with a Retry-After header"
    )  # fmt: skip
    header_s: int = Field(
        default=10, gt=0, description="Maximum time for a client to send its headers, in seconds (408 beyond it)"
    )
    drain_s: float | None = Field(
        default=None, gt=0, description="Maximum time that requests in flight get to end, in seconds, when the server "
        "stops, another version of the model takes over or a replica is no longer needed; default: request_s"
    )  # fmt: skip

    @property
    def tokens_per_request(self) -> int:
        """Maximum tokens of all replies to one request."""
        return self.replies_per_request * self.reply_tokens

    @property
    def longest_drain_s(self) -> float:
        """drain_s, by default as long as the longest reply takes."""
        return self.request_s if self.drain_s is None else self.drain_s


class Replicas(Options):
    """Number of replicas of a model; Ray Serve scales between the two bounds by the requests in flight."""

    min: int = Field(default=1, ge=0, description="Minimum number of replicas; 0 stops the last one when none is used")
    max: int = Field(default=1, ge=1, description="Maximum number of replicas")
    target_requests: int = Field(
        default=16, gt=0, description="Requests in flight of each replica, on average, that scaling aims at"
    )
    idle_s: float = Field(
        default=600.0, gt=0, description="Time with fewer requests than that, in seconds, after which a replica stops"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"at least {self.min} and at most {self.max} replicas; expected MIN:MAX with MIN <= MAX")
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, values: Any) -> Any:
        """Reads `N` or `MIN:MAX` too.

        >>> Replicas.model_validate("0:4").max
        4
        """
        if not isinstance(values, int | str) or isinstance(values, bool):
            return values
        match = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}))?", str(values))
        fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if fewest > most or most < 1:
            raise ValueError("expected a number of replicas such as 2, or MIN:MAX such as 1:4 (0:4 stops the last one "
                             "when it is not used)")  # fmt: skip
        return {"min": fewest, "max": most}


class CanaryRules(Options):
    """When a canary is stopped: compared with the version beside it, once it has had so many requests or thumbs."""

    least_requests: int = Field(default=20, gt=0, description="Minimum number of requests before it is stopped")
    requests: int = Field(default=200, gt=0, description="Number of requests after which it has passed")
    max_error_rate: float = Field(
        default=0.02,
        ge=0,
        description="Maximum share of failed requests (status 500 and above, a stream that breaks "
        "off or ends with an error) over the other's",
    )
    max_latency_ratio: float = Field(
        default=2.0,
        gt=0,
        description="Maximum time to the first bytes, and for each token of whole replies, as a "
        "multiple of the other's",
    )
    least_thumbs: int = Field(default=10, gt=0, description="Minimum number of thumbs before they count")
    max_thumbs_down: float = Field(default=0.5, ge=0, le=1, description="Maximum share of thumbs that are down")


class GuardJudging(Options):
    """What a guard model declines, and what happens without its answer."""

    timeout_s: float = Field(default=5, gt=0, description="Seconds within which the guard model must answer")
    failure: Literal["decline", "pass"] = Field(
        default="decline",
        description="What happens to a prompt that the guard model does not answer in time: decline (status 503), or "
        "pass by the embedded guard alone",
    )
    controversial: Literal["pass", "decline"] = Field(
        default="pass", description="What happens to what Qwen3Guard labels controversial, between safe and unsafe"
    )
    replies: bool = Field(
        default=False,
        description="Whether it judges replies too, before they are sent: a whole one once, a stream after its first "
        "sentence, then every 256 bytes at the end of a sentence, and at its end",
    )
    categories: dict[str, bool] = Field(
        default={},
        description="Categories of harm, by the model's names, that are off and pass: {S8: off}; default: none",
    )


class GuardAddress(GuardJudging):
    """A guard model behind an OpenAI-compatible endpoint, which checks prompts beside the embedded guard."""

    url: str = Field(pattern="^https?://", description="Address of the API, such as http://127.0.0.1:8001/v1")
    model: str = Field(
        min_length=1, description="Name of the model there, of the family Llama Guard, Qwen3Guard or ShieldGemma"
    )


class GuardEndpoint(GuardAddress):
    """A guard model with its key, which stands in no recipe and in no Serve config."""

    key: str | None = Field(default=None, repr=False, description="Key of the endpoint; default: none is sent")


class GuardHosting(GuardJudging):
    """A guard model that the server hosts itself, with an engine of its own beside those of its models."""

    model: str = Field(
        min_length=1,
        description="Model or alias of the store, or folder of a Hugging Face model, whose name has Llama-Guard, "
        "Qwen3Guard or ShieldGemma in it",
    )
    gpus: int | None = Field(
        default=None, ge=0, description="GPUs of its engine; 0 runs it on the CPU; default: 1 where the model has any"
    )
    threads: int | None = Field(
        default=None, gt=0, description="CPU threads of its engine; default: as many as a model's engine has"
    )
    kv_cache_bytes: int | None = Field(
        default=None, ge=2**24, description="Memory for its keys and values, in bytes; default: as a model's engine has"
    )
    max_tokens: int | None = Field(
        default=None, gt=0, description="Maximum tokens of a conversation with the guard model's prompt; default: "
        "twice those of the longest context that is served and 2,048, or the guard model's context where that is less"
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, values: Any) -> Any:
        """Reads a name alone too.

        >>> GuardHosting.model_validate("qwen3guard").model
        'qwen3guard'
        """
        return {"model": values} if isinstance(values, str) else values


class Hosting(Options):
    """What a server's settings have in common with `cluster.serve`."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; any other than loopback needs a key")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 finds a free one")
    guard: bool = Field(default=True, description="Whether prompts and replies are checked by a guard")
    max_passages: int = Field(default=4, gt=0, description="Maximum number of passages of documents in a prompt")
    quality_sample: float | None = Field(
        default=None, ge=0, le=1, description="Fraction of the replies whose quality is scored once they were sent; "
        "default: 0.05, and fewer where their scores would take more than 3% of a core"
    )  # fmt: skip
    quality: Literal["score", "flag", "regenerate"] = Field(
        default="score", description="What happens to those before they are sent: flag (the reply carries its scores, "
        "a stream in its last event), or regenerate (once, where a score is low and the reply is not streamed; the "
        "better one is sent); default: score alone, for the metrics"
    )  # fmt: skip
    access_log: Path | None = Field(
        default=None, description="File for a line of JSON a request, without its texts; default: none is written"
    )
    mask_feedback: bool = Field(
        default=True, description="Whether personal data in stored feedback is masked: e-mail, IP and postal "
        "addresses, telephone, card, identity and passport numbers"
    )  # fmt: skip
    threads: int | None = Field(default=None, gt=0, description="CPU threads of the engine; default: one for each core")
    gpus: int = Field(default=0, ge=0, description="GPUs of the engine (tensor parallel); 0 runs it on the CPU")
    kv_cache_bytes: int | None = Field(
        default=None, ge=2**24, description="Memory for keys and values, in bytes; default: on a CPU as much as the "
        "sampler takes, on a GPU as vLLM chooses"
    )  # fmt: skip
    limits: Limits = Field(default=Limits(), description="Limits of one request and of the server")
    replicas: Replicas = Field(default=Replicas(), description="Number of replicas of the model")
    routers: int | None = Field(
        default=None, gt=0, description="Number of routers of a server with several models; default: 1, on a cluster 2"
    )
    canary_rules: CanaryRules = Field(default=CanaryRules(), description="When a canary is stopped")
    address: str | None = Field(
        default=None,
        description="Address of a running Ray cluster to serve on; default: a separate Ray on this machine",
    )
    app: str = Field(default="rayse", description="Name of the Ray Serve application")
    route: str = Field(default="/", description="Prefix of all paths, such as /chat")


class ServeCluster(Hosting, ClusterOptions):
    """Options of `rayse serve --recipe`, whose flags override them. The stage `serve` of a recipe, a trial, takes
    threads, gpus, kv_cache_bytes and start_s of them."""

    start_s: float = Field(
        default=900, gt=0, description="Seconds within which a trial's server must be ready, or it fails"
    )
    models: tuple[str, ...] = Field(
        default=(), description="Models or trials, as `rayse serve` takes them; default: the newest of the store"
    )
    adapters: dict[str, str] = Field(
        default={}, description="LoRA adapters of the first model, NAME: ARTIFACT; requests of the model NAME get it"
    )
    canary: str | None = Field(
        default=None, description="Another version of the first model and its share of requests, NAME:0.1"
    )
    key_file: Path | None = Field(
        default=None, description="File with the API key, or with digests of several; relative to the recipe"
    )
    guard_endpoint: GuardAddress | None = Field(
        default=None, description="Guard model that checks prompts too, with the key of RAYSE_GUARD_KEY; default: the "
        "embedded guard alone"
    )  # fmt: skip
    guard_model: GuardHosting | None = Field(
        default=None, description="Guard model that the server hosts beside its models, which checks prompts too; a "
        "name, or {model: NAME, gpus: 1}; default: none"
    )  # fmt: skip
    knowledge: str | None = Field(
        default=None,
        description="Documents to answer from, what a stage knowledge made, or none; default: the model's run's",
    )
    feedback: str | None = Field(
        default=None, description="PostgreSQL database for users' feedback, postgresql://USER@HOST:PORT/DATABASE, the "
        "path of a SQLite file on a local disk, with a slash, or none; default: a SQLite file in the store"
    )  # fmt: skip
