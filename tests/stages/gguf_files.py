"""A tiny Qwen2 as a GGUF file, with a tokenizer of a few letters."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from torch import Tensor

HIDDEN, LAYERS, HEADS, INTERMEDIATE = 64, 1, 2, 96
NAMES = {  # of a layer, in GGUF and in transformers
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def write(file: Path) -> dict[str, Tensor]:
    """Writes the file; returns the weights as transformers names them, before they were quantised."""
    tokens = ["<s>", "</s>", "<unk>", *"abcdefgh", "Ġ", "ab"]
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(file), "qwen2")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    weights: dict[str, Tensor] = {}

    def add(name: str, theirs: str, *shape: int) -> None:
        values = generator.normal(0, 0.1, shape).astype(np.float32)
        weights[theirs] = torch.from_numpy(values)
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", "model.embed_tokens.weight", len(tokens), HIDDEN)
    add("output.weight", "lm_head.weight", len(tokens), HIDDEN)
    add("output_norm.weight", "model.norm.weight", HIDDEN)
    for name, theirs in NAMES.items():
        shape = (HIDDEN,) if "norm" in name else (HIDDEN, HIDDEN)
        shape = {"ffn_gate": (INTERMEDIATE, HIDDEN), "ffn_up": (INTERMEDIATE, HIDDEN),
                 "ffn_down": (HIDDEN, INTERMEDIATE)}.get(name, shape)  # fmt: skip
        add(f"blk.0.{name}.weight", f"model.layers.0.{theirs}.weight", *shape)
        if name in ("attn_q", "attn_k", "attn_v"):
            add(f"blk.0.{name}.bias", f"model.layers.0.{theirs}.bias", HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights
