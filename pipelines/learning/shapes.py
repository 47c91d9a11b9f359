"""A model as names and shapes of its weights: all that its memory and its operations depend on. Imports no torch.

config.json ──of_config──► ModelShape ◄──model.shape_of── a live model, or one on torch's meta device
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

Recompute = Literal["none", "attention", "full"]
Role = Literal["embedding", "head", "linear", "experts", "other"]
"""Of a weight: the input embedding alone, or a trained prefix; the output embedding, tied to the input's or not; a
linear layer between them; a stack of a mixture's experts [E, …, …]; or norms, biases, and whatever else there is."""


@dataclass(frozen=True)
class Size:
    """A Llama shape. Heads are 64 wide where the model is not tiny."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int  # width of the gated feed-forward layer
    tied: bool = True  # one matrix as input and output embedding: at 4,096 × 192 it is 37% of the 2m model


# Wide and shallow where a CPU trains: matrices of 192 columns run near the GEMM peak, narrower ones do not.
SIZES: Mapping[str, Size] = {
    "micro": Size(64, 2, 2, 2, 128),
    "2m": Size(192, 3, 3, 3, 512),
    "6m": Size(256, 6, 4, 4, 704),
    "14m": Size(384, 7, 6, 6, 1024),
    "36m": Size(512, 10, 8, 8, 1536),
    "125m": Size(768, 12, 12, 12, 2048),
    "350m": Size(1024, 24, 16, 8, 2816),
    "1b": Size(2048, 16, 32, 8, 8192, tied=False),
}


@dataclass(frozen=True)
class Weight:
    """A parameter of a model. shape: of the whole, however it is partitioned or packed."""

    name: str
    shape: tuple[int, ...]
    role: Role
    trained: bool = True

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class ModelShape:
    """config: config.json with the defaults of its family; weights: tied matrices once."""

    config: Mapping[str, Any]
    weights: tuple[Weight, ...]

    @property
    def parameters(self) -> int:
        return sum(weight.numel for weight in self.weights)

    @property
    def trained(self) -> int:
        return sum(weight.numel for weight in self.weights if weight.trained)

    @property
    def has_frozen(self) -> bool:
        return not all(weight.trained for weight in self.weights)

    @property
    def head(self) -> Weight | None:
        """The output embedding [V, H]; None of a model that gives scores."""
        return next((weight for weight in self.weights if weight.role == "head"), None)

    def of_role(self, *roles: Role) -> Iterator[Weight]:
        """Weights with one of these roles."""
        return (weight for weight in self.weights if weight.role in roles)

    def frozen(self) -> ModelShape:
        """The same with no weight trained."""
        return replace(self, weights=tuple(replace(weight, trained=False) for weight in self.weights))


@dataclass(frozen=True)
class Family:
    """How the models of a `model_type` differ from Llama. defaults: of the keys that a config.json may leave out."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    biased: tuple[str, ...] = ()
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norms_heads: bool = False  # queries and keys, head by head


GEMMA: dict[str, Any] = {
    "defaults": {"num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True},
    "norms": ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
}
FAMILIES: Mapping[str, Family] = {  # as transformers 5 has them
    "llama": Family(),
    "mistral": Family({"num_key_value_heads": 8}),
    "qwen2": Family({"num_key_value_heads": 32}, biased=("q_proj", "k_proj", "v_proj")),
    "qwen3": Family({"num_key_value_heads": 32, "head_dim": 128}, norms_heads=True),
    "gemma2": Family(**GEMMA),
    "gemma3_text": Family(**GEMMA, norms_heads=True),
    "mixtral": Family({"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen3_moe": Family(
        {"num_key_value_heads": 4, "num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
        norms_heads=True,
    ),
}
READ = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size",
        "tie_word_embeddings", "max_position_embeddings")  # by the formulas of memory and time  # fmt: skip
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings")  # fmt: skip
UNUSUAL = ("attention_bias", "mlp_bias", "mlp_only_layers")  # that change the weights where they are set


def of_config(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape of a config.json's model, as transformers would make it; None for one whose weights are not known here:
    of another family, without one of REQUIRED, or with unusual layers."""
    family = FAMILIES.get(str(config.get("model_type")))
    unusual = any(map(config.get, UNUSUAL)) or (config.get("decoder_sparse_step") or 1) != 1
    if family is None or unusual or not all(isinstance(config.get(key), int) for key in REQUIRED):
        return None
    known = {**family.defaults, **config}
    known["num_key_value_heads"] = known.get("num_key_value_heads") or known["num_attention_heads"]
    known["head_dim"] = known.get("head_dim") or known["hidden_size"] // known["num_attention_heads"]
    known["num_local_experts"] = config.get("num_experts") or known.get("num_local_experts")
    known["tie_word_embeddings"] = bool(known.get("tie_word_embeddings"))
    return ModelShape(known, tuple(_weights(known, family)))


def _weights(config: Mapping[str, Any], family: Family) -> Iterator[Weight]:
    table = (config["vocab_size"], config["hidden_size"])
    tied = config["tie_word_embeddings"]
    yield Weight("model.embed_tokens.weight", table, "head" if tied else "embedding")
    if not tied:
        yield Weight("lm_head.weight", table, "head")
    yield Weight("model.norm.weight", (config["hidden_size"],), "other")
    layer = [*_attention(config, family), *_feed_forward(config)]
    layer += [Weight(f"{name}.weight", (config["hidden_size"],), "other") for name in family.norms]
    for number in range(config["num_hidden_layers"]):
        yield from (replace(weight, name=f"model.layers.{number}.{weight.name}") for weight in layer)


def _attention(config: Mapping[str, Any], family: Family) -> Iterator[Weight]:
    hidden, columns = config["hidden_size"], config["head_dim"]
    queries, keys = columns * config["num_attention_heads"], columns * config["num_key_value_heads"]
    shapes = {"q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden),
              "o_proj": (hidden, queries)}  # fmt: skip
    for name, shape in shapes.items():
        yield Weight(f"self_attn.{name}.weight", shape, "linear")
        if name in family.biased:
            yield Weight(f"self_attn.{name}.bias", shape[:1], "other")
    if family.norms_heads:
        yield from (Weight(f"self_attn.{name}.weight", (columns,), "other") for name in ("q_norm", "k_norm"))


def _feed_forward(config: Mapping[str, Any]) -> Iterator[Weight]:
    hidden, experts = config["hidden_size"], config["num_local_experts"]
    if experts:
        width = config.get("moe_intermediate_size") or config["intermediate_size"]
        yield Weight("mlp.gate.weight", (experts, hidden), "other")
        yield Weight("mlp.experts.gate_up_proj", (experts, 2 * width, hidden), "experts")
        yield Weight("mlp.experts.down_proj", (experts, hidden, width), "experts")
        return
    width = config["intermediate_size"]
    for name, shape in {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}.items():
        yield Weight(f"mlp.{name}_proj.weight", shape, "linear")
