"""Attention over packed documents against one softmax over a dense mask, outputs and gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.learning.attention import Documents, document_attention, padded_length
from tests.gpu.attention import dense, dense_mask
from tests.gpu.machine import packed_rows

EDGES = {  # lengths of the documents of each row
    "many short ones": [[5, 40, 1, 18], [64], [17, 17, 30], [1, 63]],
    "one a row": [[64], [64], [64], [64]],
    "padding at the end": [[20, 30], [64], [3], [40]],
    "several blocks of queries": [[65, 1, 131, 15], [212], [100, 90], [64, 128]],
}


def positions(lengths: list[list[int]], width: int) -> Tensor:
    rows = [torch.cat([torch.arange(length) for length in row]) for row in lengths]
    return torch.stack([torch.cat((row, torch.zeros(width - len(row), dtype=torch.int64))) for row in rows])


def results(attend: Any, parts: list[Tensor], real_BT: Tensor) -> list[Tensor]:
    """The output of the tokens that are not padding, and gradients by queries, keys and values."""
    leaves = [part.clone().requires_grad_() for part in parts]
    out_BTAC = attend(*leaves)[real_BT]
    out_BTAC.backward(torch.randn(out_BTAC.shape, generator=torch.Generator().manual_seed(3)).to(out_BTAC))
    return [out_BTAC.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("lengths", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("window", [None, 12])
def test_documents_attend_to_themselves_alone(lengths: list[list[int]], window: int | None) -> None:
    width = max(map(sum, lengths))
    positions_BT = positions(lengths, width)
    real_BT = torch.stack([torch.arange(width) < sum(row) for row in lengths])
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(4, heads, width, 16, generator=generator, dtype=torch.float64) for heads in (4, 2, 2)]
    documents = Documents.of(positions_BT)

    def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return document_attention(None, query, key, value, None, documents=documents, sliding_window=window)[0]

    expected = results(partial(dense, dense_mask(positions_BT, window)), parts, real_BT)
    for one, other in zip(results(ours, parts, real_BT), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [None, 12])
def test_short_documents_in_16_bits_are_computed_in_float32(window: int | None) -> None:
    """Outputs and gradients are those of float32 in all 16 bits: nothing between is rounded."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, heads, 160, 16, generator=generator).bfloat16() for heads in (4, 2, 2)]

    def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return document_attention(None, query, key, value, None, sliding_window=window)[0]

    everywhere_BT = torch.ones(2, 160, dtype=torch.bool)
    exact = results(ours, [part.float() for part in parts], everywhere_BT)
    gradient = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    leaves = [part.float().requires_grad_() for part in parts]
    ours(*leaves)[everywhere_BT].backward(gradient.float())  # of the gradient that 16 bits hold
    for one, other in zip(
        results(ours, parts, everywhere_BT), [exact[0], *(leaf.grad for leaf in leaves)], strict=True
    ):
        assert one.dtype == torch.bfloat16 and other is not None
        torch.testing.assert_close(one, other.bfloat16(), rtol=0, atol=0)


def test_documents_of_about_one_length_are_computed_at_once() -> None:
    documents = Documents.of(packed_rows(8, 256, vocabulary=99, mean_document=20).positions_BT)
    groups = documents.groups_on(torch.device("cpu"))
    assert len(groups.shapes) <= 8 < sum(count for count, _ in groups.shapes)
    assert torch.equal(groups.source_M[groups.place_N], torch.arange(8 * 256))
    assert sum(count * width for count, width in groups.shapes) == len(groups.source_M) == 8 * 256 + len(groups.padding)


def test_padding_is_bounded() -> None:
    for length in range(1, 2000):
        padded = padded_length(length)
        assert length <= padded < length + max(16, length)
        assert length <= 512 or padded == length
    assert len({padded_length(length) for length in range(1, 513)}) == 10
