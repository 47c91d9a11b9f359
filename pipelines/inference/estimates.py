"""What an engine takes by formula: memory of its process, and the time of its work. No weights, no torch.

config.json, number of parameters ──► weights, KV cache, logits of a row ──► bytes of the process
tokens that are read, tokens of replies ──FLOPs ÷ (rate of large products × efficiency)──► seconds
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from pipelines.inference.engine_size import CPU, ITEM_BYTES, WORKSPACE_BYTES

# On a GPU, of the rate of large products: while prompts and rows are read, and while every reply gets its next token.
GPU_READING, GPU_WRITING = 0.45, 0.2
# On a CPU products run at that rate. What else there is counts in small operations of the host while other threads wait
# for their next product (Speed.busy_operation_s): of a forward pass, for vLLM's scheduling and sampling; of each of its
# layers; of a row, and of a token that is scored or replied, for vLLM's Python objects; of a thousand numbers that a
# layer makes of a token; and of a thousand logits of a token that is drawn, for its random numbers.
PASS_OPERATIONS, LAYER_OPERATIONS, ROW_OPERATIONS, TOKEN_OPERATIONS = 50.0, 54.0, 25.0, 1.1
NUMBERS_OPERATIONS, DRAWN_OPERATIONS = 0.1, 1.8
GPU_SCORED_TOKEN_S = 20e-6  # of a scored token beside a GPU
# On a CPU: torch, transformers, vLLM, Ray and oneDNN's kernels, of which environment.py limits the number.
PROCESS_BYTES = 495 * 2**20
LOGITS_COPIES = 3  # of the logits of a row that is scored, in float32
# On a CPU, what glibc's malloc keeps of blocks that were freed, times the logits of all rows of a forward pass that are
# scored; larger blocks than 32 MiB it gives back, so that there is a limit. docs/planning.md has what it was chosen on.
KEPT_OF_LOGITS, KEPT_LOGITS_BYTES = 8.0, 96 * 2**20


@dataclass(frozen=True)
class Speed:
    """What hardware does, measured or from data sheets: FLOP/s in products of large matrices; bytes a second of copies,
    both ways; seconds of one small operation and its backward pass on the host (0: not used, on a GPU).

    Of a CPU for engines, 0 where it is not known: bytes a second of weights that are read for the product of a single
    row; seconds of a small operation while the threads that made a product wait for the next one."""

    flops_per_s: float
    bytes_per_s: float = 0.0
    operation_s: float = 0.0
    read_bytes_per_s: float = 0.0
    busy_operation_s: float = 0.0


@dataclass(frozen=True)
class Engine:
    """A model in an engine. config: with the defaults of its family; parameters: tied matrices count once; dtype: of
    the engine; max_tokens: of a row."""

    config: Mapping[str, Any]
    parameters: int
    weight_bytes: int
    dtype: str
    max_tokens: int
    kv_cache_bytes: int
    on_cpu: bool


@dataclass(frozen=True)
class EngineWork:
    """What an engine does. rows: that are scored, and prompts; steps: each adds a token to all replies at once;
    scored_tokens: of those of the rows; drawn_tokens: of those of replies, not chosen as the most likely ones."""

    rows: int = 0
    row_tokens: int = 0
    reply_tokens: int = 0
    steps: int = 0
    scored_tokens: int = 0
    drawn_tokens: int = 0

    def __add__(self, other: EngineWork) -> EngineWork:
        return EngineWork(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @classmethod
    def scoring(cls, rows: Sequence[Sequence[int]]) -> EngineWork:
        """Of rows whose log-probabilities are requested."""
        tokens = sum(map(len, rows))
        return cls(len(rows), tokens, scored_tokens=tokens)

    @classmethod
    def generating(
        cls, prompts: Sequence[Sequence[int]], reply_tokens: Sequence[int], *, temperature: float
    ) -> EngineWork:
        """Of replies to prompts, all at once. reply_tokens: of each."""
        written = sum(reply_tokens)
        return cls(
            rows=len(prompts),
            row_tokens=sum(map(len, prompts)),
            reply_tokens=written,
            steps=max(reply_tokens, default=0),
            drawn_tokens=written if temperature > 0 else 0,
        )


@dataclass(frozen=True)
class Comparison:
    """What a process took, an engine's or a rank's, and what the formulas say: 0 where they do not know its config."""

    memory_bytes: int  # that its process held at most; 0 where the system does not say
    planned_bytes: int
    planned_s: float  # of an engine's work, or of an iteration

    def errors(self, seconds: float, *, time_fact: str = "time/engine_s") -> dict[str, float]:
        """memory/rank_bytes, time_fact, and by which fraction both were planned higher, or lower, than they were.

        seconds: that the work took."""
        measured = {"memory/rank_bytes": float(self.memory_bytes), time_fact: seconds}
        facts = {name: value for name, value in measured.items() if value > 0}
        if self.memory_bytes > 0 and self.planned_bytes:
            facts["plan/memory_error"] = self.planned_bytes / self.memory_bytes - 1
        if seconds > 0 and self.planned_s:
            facts["plan/time_error"] = self.planned_s / seconds - 1
        return facts


def forward_flops(config: Mapping[str, Any], parameters: int, length: float) -> float:
    """Operations of a forward pass over one token in a row of `length` tokens, its prediction among them.

    2·N + 4·L·H·Q·T (Chowdhery et al. 2022, PaLM, appendix B). N: parameters but the input embedding, where it is no
    output embedding too, and the experts that a token does not visit. L layers, H heads of Q columns, T tokens."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    multiply = parameters
    if not config.get("tie_word_embeddings"):
        multiply -= config["vocab_size"] * hidden
    experts = config.get("num_local_experts") or config.get("num_experts")
    if experts:
        width = config.get("moe_intermediate_size") or config["intermediate_size"]
        multiply -= layers * (experts - config["num_experts_per_tok"]) * 3 * hidden * width
    heads = config["num_attention_heads"]
    columns = config.get("head_dim") or hidden // heads
    return 2 * multiply + 4 * layers * heads * columns * length


def engine_bytes(engine: Engine, *, scored: bool = True) -> dict[str, int]:
    """Bytes of an engine's process by part, at most: on a CPU what it holds by itself, on a GPU what it takes there.

    scored: whether rows are scored, which takes the logits of all their tokens."""
    vocabulary = engine.config["vocab_size"]
    parts = {"weights": engine.weight_bytes, "KV cache": engine.kv_cache_bytes}
    if not engine.on_cpu:
        return parts | {"workspace": WORKSPACE_BYTES}
    if engine.config.get("tie_word_embeddings"):
        parts["packed head"] = ITEM_BYTES[engine.dtype] * vocabulary * engine.config["hidden_size"]
    tokens = engine.max_tokens if scored else CPU.num_rows
    of_batch = min(4 * max(CPU.batch_tokens, tokens) * vocabulary, KEPT_LOGITS_BYTES) if scored else 0
    parts["logits"] = LOGITS_COPIES * 4 * tokens * vocabulary
    return parts | {"freed, but kept": round(KEPT_OF_LOGITS * of_batch), "process": PROCESS_BYTES}


def engine_seconds(engine: Engine, work: EngineWork, speed: Speed) -> float:
    """Seconds of work, without the engine's start. speed: of its threads, in its type.

    Logits are made of the tokens that are scored, and of the one before each token of a reply. On a CPU a token of
    every reply takes its products, and the time in which all weights are read from memory."""
    config = engine.config
    length = (work.row_tokens + work.reply_tokens) / max(work.rows, 1)
    head = 2 * config["vocab_size"] * config["hidden_size"]
    layers = forward_flops(config, engine.parameters, length) - head
    read, written = layers * work.row_tokens + head * work.scored_tokens, (layers + head) * work.reply_tokens
    if not engine.on_cpu:
        products_s = (read / GPU_READING + written / GPU_WRITING) / speed.flops_per_s
        return products_s + GPU_SCORED_TOKEN_S * work.scored_tokens
    weights_s = work.steps * engine.weight_bytes / (speed.read_bytes_per_s or speed.bytes_per_s)
    host_s = _host_operations(engine, work) * (speed.busy_operation_s or speed.operation_s)
    return (read + written) / speed.flops_per_s + weights_s + host_s


def _host_operations(engine: Engine, work: EngineWork) -> float:
    """Small operations that take as long as all that a CPU does beside products and reading weights."""
    layers, tokens = engine.config["num_hidden_layers"], work.row_tokens + work.reply_tokens
    passes = work.steps + work.row_tokens / max(CPU.batch_tokens, engine.max_tokens)
    return (
        passes * (PASS_OPERATIONS + LAYER_OPERATIONS * layers)
        + ROW_OPERATIONS * work.rows
        + TOKEN_OPERATIONS * (work.scored_tokens + work.reply_tokens)
        + NUMBERS_OPERATIONS * tokens * layers * _layer_numbers(engine.config) / 1000
        + DRAWN_OPERATIONS * work.drawn_tokens * engine.config["vocab_size"] / 1000
    )


def _layer_numbers(config: Mapping[str, Any]) -> float:
    """Numbers that a layer makes of a token: two norms and two sums, queries, keys, values and what they give, and of
    the feed-forward part the gate, the other branch and their product."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    columns = config.get("head_dim") or hidden // heads
    width = config.get("intermediate_size") or 4 * hidden
    if config.get("num_local_experts") or config.get("num_experts"):
        width = (config.get("moe_intermediate_size") or width) * config["num_experts_per_tok"]
    return 4 * hidden + 2 * columns * (heads + (config.get("num_key_value_heads") or heads)) + 3 * width
