"""Tiny random models of the families that people bring, as Hugging Face folders without a tokenizer.

Weights are drawn with a wide spread, so that soft caps, windows and experts change what a model computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCABULARY, CONTEXT = 310, 160  # no multiple of 64, to which vLLM pads embeddings
WINDOW = 16  # shorter than the documents of the tests


@dataclass(frozen=True)
class Family:
    """A family of models. config, model: classes of transformers, by name; differences: its config, where it differs
    from SHAPE; known_as: models of this family that people bring."""

    config: str
    model: str
    known_as: str
    differences: dict[str, Any] = field(default_factory=dict)

    @property
    def has_experts(self) -> bool:
        return any("experts" in name for name in self.differences)


SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the smallest that vLLM supports on CPUs
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES = {
    "Llama, tied": Family(
        "LlamaConfig", "LlamaForCausalLM", "Llama 3.2 1B and 3B, SmolLM2", {"tie_word_embeddings": True}
    ),
    "Llama, untied": Family("LlamaConfig", "LlamaForCausalLM", "Llama 2 and 3.1, Yi, DeepSeek-LLM"),
    "Qwen2": Family("Qwen2Config", "Qwen2ForCausalLM", "Qwen 1.5, 2, 2.5 (biases of q, k and v)"),
    "Qwen3": Family("Qwen3Config", "Qwen3ForCausalLM", "Qwen3 0.6B to 32B", {"tie_word_embeddings": True}),
    "Mistral": Family(
        "MistralConfig", "MistralForCausalLM", "Mistral 7B, Nemo (sliding window)", {"sliding_window": WINDOW}
    ),
    "Gemma 2": Family(
        "Gemma2Config", "Gemma2ForCausalLM", "Gemma 2 (soft caps of logits and scores, sliding window)",
        {"tie_word_embeddings": True, "sliding_window": WINDOW, "query_pre_attn_scalar": 32,
         "final_logit_softcapping": 4.0, "attn_logit_softcapping": 5.0},
    ),
    "Gemma 3": Family(
        "Gemma3TextConfig", "Gemma3ForCausalLM", "Gemma 3 1B, text",
        {"tie_word_embeddings": True, "sliding_window": WINDOW, "query_pre_attn_scalar": 32,
         "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "Qwen3-MoE": Family(
        "Qwen3MoeConfig", "Qwen3MoeForCausalLM", "Qwen3 30B-A3B",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True},
    ),
    "Mixtral": Family(
        "MixtralConfig", "MixtralForCausalLM", "Mixtral 8x7B",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
}  # fmt: skip


def write(folder: Path, family: str, *, seed: int = 0, dtype: str = "float32") -> Path:
    """Writes a model of this family, random by the seed, into the folder; returns the folder."""
    import torch
    import transformers

    spec = FAMILIES[family]
    torch.manual_seed(seed)
    model: Any = getattr(transformers, spec.model)(getattr(transformers, spec.config)(**(SHAPE | spec.differences)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # transformers begins with zeros or ones, which would hide a vector that is lost
                parameter.add_(torch.randn_like(parameter), alpha=0.3 if name.endswith("bias") else 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder
