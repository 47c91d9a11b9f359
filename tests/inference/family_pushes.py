"""Pushes the weights of one model into an engine that holds another of its family, for every family; prints the gaps.

python -m tests.inference.family_pushes FOLDER
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.inference import probe
from pipelines.inference.sampler import Sampler
from tests import families

FACTOR = 1.004  # an optimiser step: the smallest that moves bfloat16 weights, but no log-probability beyond rounding
PARTS = ("1.self_attn.o_proj.weight", "1.self_attn.k_proj.weight", "model.norm.weight")  # left out of a push


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
    figures = {"before": before, "after": result.gap_nats, "reason": result.reason, "apart": apart,
               "dtype": sampler.dtype, **reasons}  # fmt: skip
    del sampler
    gc.collect()
    cleanup_dist_env_and_memory()
    return figures


if __name__ == "__main__":
    for family in families.FAMILIES:
        for dtype in ("float32", "bfloat16"):
            figures = push(Path(sys.argv[1]) / family / dtype, family, dtype)
            print(json.dumps({"family": family, "stored": dtype, **figures}), flush=True)
