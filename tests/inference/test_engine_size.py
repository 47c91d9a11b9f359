"""Sizes of engines: KV caches, and what an engine may take of a GPU that a learner holds in part."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipelines.inference.engine_size import batching, gpu_fraction, gpu_kv_bytes, kv_bytes, weight_bytes
from pipelines.inference.model_config import read_config
from tests.tiny_models import CONTEXT, Tiny

GIB = 2**30


@pytest.fixture
def llama_8b(tmp_path: Path) -> Path:
    """Llama 3.1 8B's shape, with a file of the size of its weights: 8.03 billion parameters in bfloat16."""
    config = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
              "max_position_embeddings": 131072, "dtype": "bfloat16"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2 * 8_030_261_248)  # sparse: it takes no room
    return tmp_path


def test_memory_for_keys_and_values_follows_the_model(tiny: Tiny) -> None:
    token_bytes = 2 * 2 * 1 * 32 * 4  # layers × (keys, values) × heads of keys × size of a head × float32
    config = read_config(tiny.first)
    assert kv_bytes(config, CONTEXT, "float32") == 64 * 3 * 128 * token_bytes
    assert kv_bytes(config, CONTEXT, "bfloat16") == 64 * 3 * 128 * token_bytes // 2
    assert kv_bytes(config, CONTEXT, "float32", max_bytes=1) == 3 * 128 * token_bytes, "one row fits always"


def test_a_cpu_holds_4_gib_of_keys_and_values_and_a_gpu_a_part_of_what_is_free(llama_8b: Path) -> None:
    """A token of Llama 3.1 8B takes 128 KiB."""
    assert kv_bytes(read_config(llama_8b), 2048, "bfloat16") == 4 * GIB
    weights = weight_bytes(llama_8b, "bfloat16")
    assert weights == pytest.approx(15 * GIB, rel=0.01) and weight_bytes(llama_8b, "float32") == 2 * weights
    free = 60 * GIB
    whole = gpu_kv_bytes(llama_8b, 2048, "bfloat16", free_bytes=free, total_bytes=80 * GIB)
    assert whole == pytest.approx(0.4 * (free - weights - 2 * GIB))
    row = (256 // 128 + 2) * 128 * 128 * 1024
    few = gpu_kv_bytes(llama_8b, 256, "bfloat16", free_bytes=free, total_bytes=80 * GIB)
    assert few == 256 * row, "no more than 256 rows need"


def test_engines_that_start_at_once_on_a_gpu_share_it(llama_8b: Path) -> None:
    """Each reads the same free memory: both take no more than there is, whether they start at once or in turn."""
    weights, total = weight_bytes(llama_8b, "bfloat16"), 80 * GIB
    at_once = gpu_kv_bytes(llama_8b, 2048, "bfloat16", free_bytes=total, total_bytes=total, engines=2)
    assert at_once == pytest.approx(0.4 * (40 * GIB - weights - 2 * GIB))
    left = total - weights - at_once - 2 * GIB
    assert gpu_kv_bytes(llama_8b, 2048, "bfloat16", free_bytes=left, total_bytes=total, engines=2) == at_once
    three = gpu_kv_bytes(llama_8b, 2048, "bfloat16", free_bytes=total, total_bytes=total, engines=3)
    assert 3 * (weights + three + 2 * GIB) < total


def test_an_engine_takes_what_it_needs_of_a_gpu_that_a_learner_holds_in_part(llama_8b: Path) -> None:
    """vLLM refuses to start where the fraction is more than what is free: by default 0.92 of 80 GiB."""
    fraction = gpu_fraction(llama_8b, "bfloat16", 10 * GIB, free_bytes=40 * GIB, total_bytes=80 * GIB)
    assert fraction * 80 == pytest.approx(15 + 10, abs=0.1)
    weights = weight_bytes(llama_8b, "bfloat16")
    tight = gpu_fraction(llama_8b, "bfloat16", 10 * GIB, free_bytes=weights + 10 * GIB, total_bytes=80 * GIB)
    assert math.ceil(tight * 80 * GIB) < weights + 10 * GIB, "vLLM refuses a byte more than is free"
    with pytest.raises(
        ValueError, match=r"15.0 GiB of weights in bfloat16 and 10.0 GiB of KV cache do not fit into 20"
    ):
        gpu_fraction(llama_8b, "bfloat16", 10 * GIB, free_bytes=20 * GIB, total_bytes=80 * GIB)


def test_batches_are_larger_on_a_gpu_and_prompts_whole_on_a_cpu() -> None:
    assert batching(4000, on_cpu=True) == {
        "max_num_seqs": 64, "max_num_batched_tokens": 4000, "enable_chunked_prefill": False
    }  # fmt: skip
    assert batching(4000, on_cpu=False) == {
        "max_num_seqs": 256, "max_num_batched_tokens": 8192, "enable_chunked_prefill": True
    }  # fmt: skip
