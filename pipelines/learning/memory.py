"""Memory of a rank in training, from a model's config alone: no weights, no run.

    config ──► shapes of the weights ──► parameters ──ZeRO stage──► weights, masters, gradients, moments
    tokens of a micro-batch ──recompute, compile──► activations      vocabulary ──► logits of a chunk

Written down from what transformers' decoders save for the backward pass, and from how DeepSpeed 0.19 is set up in
engine.py. Within 10% of peaks measured on one GPU in bfloat16, full and LoRA (tests/learning/test_memory_plan.py); not
compared yet: several GPUs. On CPUs estimates.py adds what malloc keeps; docs/planning.md has the errors.

Widths of a token in a layer: H hidden, Q all query heads, K all key heads, F feed-forward (of all experts it visits).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.inference.engine_size import ITEM_BYTES
from pipelines.learning.shapes import ModelShape, Recompute

# Gradients summed over ranks at once: 128 MiB in float32, near the best rate of any interconnect. Larger ones, of which
# ZeRO 3 holds several, take 5 bytes a parameter more from a model of 400M in a step.
REDUCE_BUCKET = 2**25
# 4,096 logits × 512 tokens × 4 bytes = 8 MB: a chunk stays near the cache instead of 4,096 × 2,048 × 4 = 34 MB for a
# micro-batch of 8 rows. A GPU wants larger products: 2^27 × 4 bytes = 0.5 GB, not the 5 GB of a vocabulary of 150,000.
CHUNK_LOGITS = {"cpu": 2**21, "cuda": 2**27}
MIN_CHUNK_TOKENS = 128  # narrower products leave the GEMM kernels idle
FOUR_BIT_BYTES = 0.516  # a weight in NF4: half a byte, and its share of a block's scale in 8 bits
LIVE_PARAMETERS = 10**9  # that ZeRO 3 keeps gathered, by DeepSpeed's default (stage3_max_live_parameters)


@dataclass(frozen=True)
class Setting:
    """How a model is trained. tokens: of a micro-batch; device: "cpu" or "cuda"; dtype: such as bfloat16."""

    tokens: int
    device: str = "cuda"
    dtype: str = "bfloat16"
    world: int = 1
    zero_stage: int = 1
    recompute: Recompute = "none"
    compiled: bool = False
    offload: bool = False
    four_bit: bool = False  # the frozen linear layers: QLoRA
    muon: bool = False  # for hidden matrices: one moment instead of AdamW's two
    logits_again: bool = False  # computed again by the backward pass: DPO's loss is no sum over tokens

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]


def rank_bytes(model: ModelShape, setting: Setting) -> dict[str, int]:
    """Bytes of a rank at the peak of a step, by part. model: its frozen weights take no gradient. The
    host's part of an offloaded optimizer is left out."""
    kept, again = _activation_bytes(model, setting)
    chunk, gradient = _logits_bytes(model, setting)
    return state_bytes(model, setting) | {
        "activations": kept,
        "working": max(again, chunk),  # what is computed again is needed when the logits are gone
        "embedding gradient": gradient,
    }


def state_bytes(model: ModelShape, setting: Setting) -> dict[str, int]:
    """Bytes of the weights, and of what the optimizer holds of those that are trained."""
    trained, world = model.trained, setting.world
    mixed = setting.dtype != "float32"
    stage = max(2, setting.zero_stage) if mixed else setting.zero_stage  # as engine.py has it
    by_rank = trained // world if stage >= 1 else trained
    host = setting.offload
    # DeepSpeed keeps float32 sums of bfloat16 gradients on the GPU, whatever else is on the host.
    on_host = host and (stage == 3 or (stage == 2 and not mixed))
    return {
        "weights": _weight_bytes(model, setting) // (world if stage == 3 else 1),
        "gathered": setting.item_bytes * min(model.parameters, LIVE_PARAMETERS) if stage == 3 else 0,
        "masters": 0 if host or stage == 0 else 4 * by_rank,
        "gradients": 0 if on_host else 4 * (by_rank if stage >= 2 else trained),
        "moments": 0 if host else _moment_bytes(model, setting) // (world if stage >= 1 else 1),
        "buckets": 4 * min(trained, REDUCE_BUCKET) if world > 1 else 0,
    }


def _moment_bytes(model: ModelShape, setting: Setting) -> int:
    matrices = sum(weight.numel for weight in model.of_role("linear") if weight.trained)
    return 8 * model.trained - (4 * matrices if setting.muon else 0)


def _weight_bytes(model: ModelShape, setting: Setting) -> int:
    total, size = model.parameters, setting.item_bytes
    if not setting.four_bit:
        return size * total
    packed = sum(weight.numel for weight in model.of_role("linear") if not weight.trained)
    return size * (total - packed) + round(FOUR_BIT_BYTES * packed)


def _activation_bytes(model: ModelShape, setting: Setting) -> tuple[int, int]:
    """What is kept of all layers for the backward pass, and of the last normalised output and its gradient; and what is
    computed again of one layer at a time."""
    config = model.config
    layer, size = layer_bytes(model, setting), setting.item_bytes
    if setting.recompute == "none":
        kept, again = layer, 0
    elif setting.recompute == "attention":
        again = size * _attention_width(config)
        kept = layer - again
    else:
        kept, again = size * config["hidden_size"], layer
    last = (4 + 3 * size) * config["hidden_size"]
    return setting.tokens * (config["num_hidden_layers"] * kept + last), setting.tokens * again


def layer_bytes(model: ModelShape, setting: Setting) -> int:
    """Bytes that a decoder layer keeps of a token.

    Of each of two norms: its input in float32, the normalised input, and the product with the norm's weight, which is
    the next layers' input. Of attention: queries, keys, values and output. Of the feed-forward: gate, its activation,
    the other branch and their product. Compiled layers keep the norms' inputs and outputs in the weights' type, and
    compute the gate's activation again."""
    config = model.config
    hidden, size = config["hidden_size"], setting.item_bytes
    feed_forward = size * _feed_forward_width(config)
    attention = size * _attention_width(config)
    if setting.compiled:
        return size * 4 * hidden + attention + 3 * feed_forward
    norms_are_trained = any(weight.trained for weight in model.weights if "layernorm" in weight.name)
    return hidden * 2 * (4 + size + size * norms_are_trained) + attention + 4 * feed_forward


def _attention_width(config: Mapping[str, Any]) -> int:
    """2 Q + 2 K."""
    columns = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    key_heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    return 2 * columns * (config["num_attention_heads"] + key_heads)


def _feed_forward_width(config: Mapping[str, Any]) -> int:
    """F, of every expert that a token visits."""
    visited = config.get("num_experts_per_tok") or 1
    width = config.get("moe_intermediate_size") if visited > 1 else None
    return visited * (width or config["intermediate_size"])


def _logits_bytes(model: ModelShape, setting: Setting) -> tuple[int, int]:
    """Logits of a chunk in float32 and twice in the weights' type; and the sum of the output embedding's gradient."""
    head, size = model.head, setting.item_bytes
    if head is None:  # a reward model's head has one row
        return 0, 0
    vocabulary = head.shape[0]
    chunk = min(setting.tokens, max(MIN_CHUNK_TOKENS, CHUNK_LOGITS[setting.device] // vocabulary))
    gradient = 4 * head.numel if head.trained else 0
    return chunk * vocabulary * (4 + 2 * size), gradient
