"""The digest of weights: every bit and every row counts, however rows are joined."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines.inference import weights

DTYPES = [torch.float32, torch.bfloat16]
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def digest(*tensors: Tensor) -> int:
    rows = [weights.row_sums(tensor, tensor.dtype) for tensor in tensors]
    return int(weights.scrambled(torch.cat(rows)).sum(dtype=torch.int64)) % 2**32


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [4, 5])
def test_rows_may_be_joined_and_stacked(dtype: torch.dtype, width: int) -> None:
    q, k, v = (random(rows, width, dtype=dtype, seed=rows) for rows in (6, 3, 2))
    assert digest(torch.cat([v, q, k])) == digest(q, k, v)
    assert digest(torch.cat([q, torch.zeros(1, width, dtype=dtype)])) != digest(q)
    assert digest(torch.stack([q, q + 1])) == digest(q, q + 1)  # experts
    assert digest(torch.cat([q[0], k[0]])) == digest(q[0], k[0])  # biases
    assert digest(q[0, 0], k[0]) == digest(torch.cat([q[0, :1], k[0]]))  # a scalar, such as a scale
    flat = torch.cat([torch.ones(1, dtype=dtype), q.flatten()])
    assert digest(flat[1:].view(6, width)) == digest(q)  # at any place in memory
    assert digest(q.T.contiguous().T) == digest(q)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (3, 5), (7,), (2, 2, 4)])
def test_each_single_bit_counts(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = random(*shape, dtype=dtype)
    before = digest(tensor)
    bits = tensor.view(INTEGERS[dtype]).flatten()
    for element in range(len(bits)):
        for bit in range(8 * tensor.itemsize):
            mask = torch.tensor(-(2**bit) if bit == 8 * tensor.itemsize - 1 else 2**bit).to(bits.dtype)
            bits[element] ^= mask
            assert digest(tensor) != before
            bits[element] ^= mask
    assert digest(tensor) == before


def test_small_steps_in_opposite_directions_do_not_cancel() -> None:
    """As many bfloat16 weights one place up as down: the sum of the bits stays the same, the digest never does."""
    generator = torch.Generator().manual_seed(1)
    tensor = random(64, 32, dtype=torch.bfloat16).abs()
    before, bits = digest(tensor), tensor.view(torch.int16)
    plain = int(bits.sum(dtype=torch.int32))
    for _ in range(500):
        rows = torch.randperm(64, generator=generator)[:8]
        columns = torch.randint(32, (8,), generator=generator)
        steps = torch.tensor([1, -1] * 4, dtype=torch.int16)
        bits[rows, columns] += steps
        assert int(bits.sum(dtype=torch.int32)) == plain and digest(tensor) != before
        bits[rows, columns] -= steps


def test_weights_packed_into_words_are_counted_one_by_one(tmp_path: Path) -> None:
    save_file(
        {"a.weight_packed": torch.zeros(4, 8, dtype=torch.int32), "norm.weight": torch.zeros(10)},
        tmp_path / "model.safetensors",
    )
    for bits, packed in ((4, 4 * 64), (8, 4 * 32)):
        groups = {"group_0": {"weights": {"num_bits": bits}}}
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"config_groups": groups}}))
        assert weights.num_parameters(tmp_path) == packed + 10
