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
    named = ((name, parameter.detach()) for name, parameter in learner.named_parameters())
    tied = "embed_tokens.weight" if learner.config.tie_word_embeddings else None
    result = sampler.push(models.file_weights(learner, named), lambda: new, tied=tied)
    apart = float(np.abs(np.array(old.logprobs) - np.array(new.logprobs)).max())
    figures = {"before": before, "after": result.gap_nats, "reason": result.reason, "apart": apart,
               "dtype": sampler.dtype}  # fmt: skip
    del sampler
    gc.collect()
    cleanup_dist_env_and_memory()
    return figures


if __name__ == "__main__":
    for family in families.FAMILIES:
        for dtype in ("float32", "bfloat16"):
            figures = push(Path(sys.argv[1]) / family / dtype, family, dtype)
            print(json.dumps({"family": family, "stored": dtype, **figures}), flush=True)
