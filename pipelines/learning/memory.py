"""Memory of a rank in training, from a model's config alone: no weights, no run.

    config ──► a model on torch's meta device ──► parameters ──ZeRO stage──► weights, masters, gradients, moments
    tokens of a micro-batch ──recompute, compile──► activations      vocabulary ──► logits of a chunk

Written down from what transformers' decoders save for the backward pass, and from how DeepSpeed 0.19 is set up in
engine.py. Within 10% of peaks measured on one GPU in bfloat16, full and LoRA (tests/learning/test_memory_plan.py); not
compared yet: several GPUs. On CPUs estimates.py adds what malloc keeps; docs/planning.md has the errors.

Widths of a token in a layer: H hidden, Q all query heads, K all key heads, F feed-forward (of all experts it visits).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipelines.learning.engine import REDUCE_BUCKET
from pipelines.learning.model import Recompute, linear_layers, num_parameters, output_embedding, whole_shape
from pipelines.learning.token_scores import CHUNK_LOGITS, MIN_CHUNK_TOKENS

FOUR_BIT_BYTES = 0.516  # a weight in NF4: half a byte, and its share of a block's scale in 8 bits
LIVE_PARAMETERS = 10**9  # that ZeRO 3 keeps gathered, by DeepSpeed's default (stage3_max_live_parameters)


@dataclass(frozen=True)
class Setting:
    """How a model is trained. tokens: of a micro-batch; device: "cpu" or "cuda"."""

    tokens: int
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    world: int = 1
    zero_stage: int = 1
    recompute: Recompute = "none"
    compiled: bool = False
    offload: bool = False
    four_bit: bool = False  # the frozen linear layers: QLoRA


def on_meta(config: Mapping[str, Any]) -> PreTrainedModel:
    """The model of a config.json, without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def rank_bytes(model: PreTrainedModel, setting: Setting) -> dict[str, int]:
    """Bytes of a rank at the peak of a step under AdamW, by part. model: its frozen parameters take no gradient; it may
    be on the meta device. The host's part of an offloaded optimizer is left out."""
    kept, again = _activation_bytes(model, setting)
    chunk, gradient = _logits_bytes(model, setting)
    return state_bytes(model, setting) | {
        "activations": kept,
        "working": max(again, chunk),  # what is computed again is needed when the logits are gone
        "embedding gradient": gradient,
    }


def state_bytes(model: PreTrainedModel, setting: Setting) -> dict[str, int]:
    """Bytes of the weights, and of what the optimizer holds of those that are trained."""
    trained, world = num_parameters(_Trained(model)), setting.world
    mixed = setting.dtype != torch.float32
    stage = max(2, setting.zero_stage) if mixed else setting.zero_stage  # as engine.py has it
    by_rank = trained // world if stage >= 1 else trained
    host = setting.offload
    return {
        "weights": _weight_bytes(model, setting) // (world if stage == 3 else 1),
        "gathered": setting.dtype.itemsize * min(num_parameters(model), LIVE_PARAMETERS) if stage == 3 else 0,
        "masters": 0 if host or stage == 0 else 4 * by_rank,
        "gradients": 0 if host and stage >= 2 else 4 * (by_rank if stage >= 2 else trained),
        "moments": 0 if host else 8 * by_rank,
        "buckets": 4 * min(trained, REDUCE_BUCKET) if world > 1 else 0,
    }


def _weight_bytes(model: PreTrainedModel, setting: Setting) -> int:
    total, size = num_parameters(model), setting.dtype.itemsize
    if not setting.four_bit:
        return size * total
    frozen = (layer.weight for _, layer in linear_layers(model) if not layer.weight.requires_grad)
    packed = sum(whole_shape(parameter).numel() for parameter in frozen)
    return size * (total - packed) + round(FOUR_BIT_BYTES * packed)


class _Trained(nn.Module):
    """The parameters of a model that get a gradient."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.trained = nn.ParameterList(p for p in model.parameters() if p.requires_grad)


def _activation_bytes(model: PreTrainedModel, setting: Setting) -> tuple[int, int]:
    """What is kept of all layers for the backward pass, and of the last normalised output and its gradient; and what is
    computed again of one layer at a time."""
    config: Any = model.config
    layer, size = layer_bytes(model, setting), setting.dtype.itemsize
    if setting.recompute == "none":
        kept, again = layer, 0
    elif setting.recompute == "attention":
        again = size * _attention_width(config)
        kept = layer - again
    else:
        kept, again = size * config.hidden_size, layer
    last = (4 + 3 * size) * config.hidden_size
    return setting.tokens * (config.num_hidden_layers * kept + last), setting.tokens * again


def layer_bytes(model: PreTrainedModel, setting: Setting) -> int:
    """Bytes that a decoder layer keeps of a token.

    Of each of two norms: its input in float32, the normalised input, and the product with the norm's weight, which is
    the next layers' input. Of attention: queries, keys, values and output. Of the feed-forward: gate, its activation,
    the other branch and their product. Compiled layers keep the norms' inputs and outputs in the weights' type, and
    compute the gate's activation again."""
    config: Any = model.config
    hidden, size = config.hidden_size, setting.dtype.itemsize
    feed_forward = size * _feed_forward_width(config)
    attention = size * _attention_width(config)
    if setting.compiled:
        return size * 4 * hidden + attention + 3 * feed_forward
    norms_are_trained = any(p.requires_grad for n, p in model.named_parameters() if "layernorm" in n)
    return hidden * 2 * (4 + size + size * norms_are_trained) + attention + 4 * feed_forward


def _attention_width(config: Any) -> int:
    """2 Q + 2 K."""
    columns = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * columns * (config.num_attention_heads + key_heads)


def _feed_forward_width(config: Any) -> int:
    """F, of every expert that a token visits."""
    visited = getattr(config, "num_experts_per_tok", None) or 1
    width = getattr(config, "moe_intermediate_size", None) if visited > 1 else None
    return visited * (width or config.intermediate_size)


def _logits_bytes(model: PreTrainedModel, setting: Setting) -> tuple[int, int]:
    """Logits of a chunk in float32 and twice in the weights' type; and the sum of the output embedding's gradient."""
    if model.get_output_embeddings() is None:  # a reward model's head has one row
        return 0, 0
    weight_VH = output_embedding(model)
    vocabulary, size = whole_shape(weight_VH)[0], setting.dtype.itemsize
    chunk = min(setting.tokens, max(MIN_CHUNK_TOKENS, CHUNK_LOGITS[setting.device] // vocabulary))
    gradient = 4 * whole_shape(weight_VH).numel() if cast(Any, weight_VH).requires_grad else 0
    return chunk * vocabulary * (4 + 2 * size), gradient
