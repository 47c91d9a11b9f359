"""Pushes the weights of one model into an engine that holds another of its family, for every family; prints the gaps.

python -m tests.inference.family_pushes FOLDER
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.inference import model_config, probe
from pipelines.inference.sampler import Sampler
from tests import families

FACTOR = 1.004  # an optimiser step: the smallest that moves bfloat16 weights, but no log-probability beyond rounding
BITS = {"float32": "int32", "bfloat16": "int16"}
PARTS = ("1.self_attn.o_proj.weight", "1.self_attn.k_proj.weight", "model.norm.weight")  # left out of a push

ONE_BIT = {  # parts of names: one bit of these is lost between the push and the engine, where the model has them
    "0.self_attn.v_proj.weight": "model.layers.0.self_attn.qkv_proj",
    "1.self_attn.q_proj.bias": "model.layers.1.self_attn.qkv_proj",
    "1.mlp.down_proj.weight": "model.layers.1.mlp.down_proj",
    "0.mlp.experts.2.up_proj.weight": "model.layers.0.mlp.experts",
    "1.block_sparse_moe.experts.3.w2.weight": "model.layers.1.block_sparse_moe.experts",
    "lm_head.weight": "lm_head",
    "embed_tokens.weight": "model.embed_tokens",
}


@contextmanager
def one_bit_lost(sampler: Sampler, name: str) -> Iterator[list[str]]:
    """Between a push and the engine, the lowest bit of one number of the tensor with this last part of a name changes.
    Yields the names of the tensors that it changed."""
    import torch

    engine: Any = sampler._llm
    call, changed = engine.collective_rpc, []

    def stream(tensors: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for full_name, tensor in tensors:
            if full_name.endswith(name):
                tensor = tensor.to(getattr(torch, sampler.dtype), copy=True)
                tensor.view(getattr(torch, BITS[sampler.dtype])).flatten()[tensor.numel() // 2] ^= 1
                changed.append(full_name)
            yield full_name, tensor

    def damaging(method: str, kwargs: dict[str, Any]) -> Any:
        return call(method, kwargs={"weights_iterator": stream(kwargs["weights_iterator"])})

    engine.collective_rpc = damaging
    try:
        yield changed
    finally:
        engine.collective_rpc = call


def push(folder: Path, family: str, dtype: str) -> dict[str, Any]:
    """Gaps in nats of the engine from transformers: before, after the push; and how far the two models are apart."""
    from vllm.distributed import cleanup_dist_env_and_memory

    from pipelines.learning import model as models
    from pipelines.learning.precision import DTYPES

    first, second = (families.write(folder / f"{n}", family, seed=n, dtype=dtype) for n in (0, 1))
    old, new = probe.by_transformers(first), probe.by_transformers(second)
    sampler = Sampler(first, max_tokens=64, kv_cache_bytes=2**24)
    before = probe.gap_nats(old, sampler.logprobs([old.tokens])[0])
    learner: Any = models.from_folder(second, DTYPES[dtype])
    tied = "embed_tokens.weight" if learner.config.tie_word_embeddings else None

    def tensors(factor: float = 1.0, without: str = "none") -> Any:
        named = ((name, p.detach() * factor) for name, p in learner.named_parameters() if not name.endswith(without))
        return models.file_weights(learner, named)

    result = sampler.push(tensors(), lambda: new, tied=tied)
    apart = float(np.abs(np.array(old.logprobs) - np.array(new.logprobs)).max())
    reasons = {part: sampler.push(tensors(FACTOR, without=part), lambda: new, tied=tied).reason for part in PARTS}
    lost: dict[str, str] = {}
    for part, layer in ONE_BIT.items():
        with one_bit_lost(sampler, part) as changed:
            reason = sampler.push(tensors(), lambda: new, tied=tied).reason
        if changed:
            lost[layer] = reason
    widened = ((name, tensor.float()) for name, tensor in tensors())  # of a learner in float32
    figures = {"before": before, "after": result.gap_nats, "reason": result.reason, "apart": apart,
               "dtype": sampler.dtype, "tied": tied is not None, "lost": lost,
               "widened": sampler.push(widened, lambda: new, tied=tied).reason,
               **reasons}  # fmt: skip
    del sampler
    gc.collect()
    cleanup_dist_env_and_memory()
    return figures


if __name__ == "__main__":
    model_config.has_bfloat16 = lambda device: True  # engines in 16 bits on every CPU, however slow
    for family in families.FAMILIES:
        for dtype in ("float32", "bfloat16"):
            figures = push(Path(sys.argv[1]) / family / dtype, family, dtype)
            print(json.dumps({"family": family, "stored": dtype, **figures}), flush=True)
