"""How large an engine is: rows at once, tokens of a forward pass, its KV cache, and what it takes of a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.inference.model_config import read_config, stored_dtype

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK_TOKENS = 128  # of a CPU's KV cache, the largest that vLLM takes
WORKSPACE_BYTES = 2 * 2**30  # of a GPU beside weights and KV cache: activations, CUDA graphs
MAX_EVALUATOR_KV_BYTES = 2**29  # of an evaluator's default KV cache on a CPU, unless a single row needs more
GPU_KV_FRACTION = 0.4  # of what is free beside the weights: a learner's optimizer takes more once it has made a step


@dataclass(frozen=True)
class EngineSize:
    """num_rows: sequences in a batch; batch_tokens: of one forward pass; max_kv_bytes: of the default KV cache."""

    num_rows: int
    batch_tokens: int
    max_kv_bytes: int


# On a CPU more than 64 sequences are not faster, and 512 to 8,192 tokens equally fast; more take more memory.
CPU = EngineSize(64, 2048, 4 * 2**30)
GPU = EngineSize(256, 8192, 2**62)  # the memory sets the limit: see gpu_kv_bytes


def size_of(*, on_cpu: bool) -> EngineSize:
    return CPU if on_cpu else GPU


def batching(max_tokens: int, *, on_cpu: bool) -> dict[str, Any]:
    """vLLM's options of batching. max_tokens: of the longest sequence.

    On a CPU no prompt is prefilled in chunks: for a request with a seed vLLM would rewind the request's generator after
    a chunk, which torch's CPU generators cannot do, and the engine would die."""
    size = size_of(on_cpu=on_cpu)
    return {
        "max_num_seqs": size.num_rows,
        "max_num_batched_tokens": max(size.batch_tokens, max_tokens) if on_cpu else size.batch_tokens,
        "enable_chunked_prefill": not on_cpu,
    }


def kv_bytes(
    config: Mapping[str, Any], max_tokens: int, dtype: str, *, size: EngineSize = CPU, max_bytes: int = 2**62
) -> int:
    """Bytes of a KV cache for all rows of max_tokens; for fewer where that is over the limits, but for one at least.

    dtype: of the engine; max_bytes: a limit besides the size's own."""
    one_row_bytes = row_bytes(config, max_tokens, dtype)
    return max(one_row_bytes, min(size.num_rows * one_row_bytes, size.max_kv_bytes, max_bytes))


def row_bytes(config: Mapping[str, Any], max_tokens: int, dtype: str) -> int:
    """Bytes of the keys and values of one row."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token_bytes = config["num_hidden_layers"] * 2 * heads * size * ITEM_BYTES[dtype]
    return (max_tokens // BLOCK_TOKENS + 2) * BLOCK_TOKENS * token_bytes  # whole blocks, and one that vLLM keeps


def weight_bytes(folder: Path, dtype: str) -> int:
    """Bytes of a folder's weights in an engine of this type."""
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    item_bytes = ITEM_BYTES.get(stored_dtype(folder), ITEM_BYTES[dtype])
    return stored if "quantization_config" in read_config(folder) else stored * ITEM_BYTES[dtype] // item_bytes


def gpu_kv_bytes(
    folder: Path, max_tokens: int, dtype: str, *, free_bytes: int, total_bytes: int, engines: int = 1
) -> int:
    """Bytes of the default KV cache on a GPU with so much free memory, which others share in turn.

    engines: of the GPU at once. They may all read the same free memory before any takes its part, so that each counts
    with an equal part of the whole."""
    beside = min(free_bytes, total_bytes // engines) - weight_bytes(folder, dtype) - WORKSPACE_BYTES
    return kv_bytes(read_config(folder), max_tokens, dtype, size=GPU, max_bytes=int(GPU_KV_FRACTION * beside))


def gpu_fraction(folder: Path, dtype: str, kv_cache_bytes: int, *, free_bytes: int, total_bytes: int) -> float:
    """The part of a GPU's memory that vLLM checks to be free before it starts (gpu_memory_utilization): weights and KV
    cache, whose size is given, rounded down.

    By its own default, 0.92 of the whole, it would refuse to start beside a learner. Raises ValueError where weights
    and KV cache are more than what is free."""
    weights = weight_bytes(folder, dtype)
    if weights + kv_cache_bytes > free_bytes:
        raise ValueError(
            f"{folder}: {_gib(weights)} of weights in {dtype} and {_gib(kv_cache_bytes)} of KV cache do not fit into "
            f"{_gib(free_bytes)} that are free of the GPU's {_gib(total_bytes)}; lower kv_cache_bytes, train with "
            f"more workers at zero_stage 3, or with lora"
        )
    return 0.999 * (weights + kv_cache_bytes) / total_bytes


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
