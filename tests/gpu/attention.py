"""Attention over packed documents on the GPU: its outputs and gradients, and its time, against other ways."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.learning.attention import Documents, document_attention
from tests.gpu.machine import Machine, packed_rows

ROWS, LENGTH, MEAN_DOCUMENT = 8, 2048, 256


def measurements(machine: Machine) -> Iterator[tuple[str, Any]]:
    """Equality for several shapes of heads, then the time."""
    for query_heads, heads, columns in ((8, 8, 64), (16, 4, 128), (9, 3, 64), (4, 1, 256)):
        for window in (None, 30):
            name = f"attention of {query_heads}/{heads} heads of {columns}, window {window}"
            yield name, partial(equality, machine, query_heads, heads, columns, window)
    yield "attention, time", partial(times, machine)


def inputs(machine: Machine, rows: int, length: int, query_heads: int, heads: int, columns: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(rows, count, length, columns, generator=generator).to(machine.device, machine.dtype)
        for count in (query_heads, heads, heads)
    ]


def equality(machine: Machine, query_heads: int, heads: int, columns: int, window: int | None) -> dict[str, Any]:
    """Relative distance ‖a − b‖ / ‖b‖ of the output, and of the gradients of queries, keys and values, from one
    softmax over a dense mask in float64."""
    rows, length = (3, 512) if machine.on_gpu else (2, 64)
    parts = inputs(machine, rows, length, query_heads, heads, columns)
    positions_BT = packed_rows(rows, length, vocabulary=512, mean_document=length // 5).positions_BT
    documents = Documents.of(positions_BT)
    towards = torch.randn(rows, length, query_heads, columns, generator=torch.Generator().manual_seed(1))

    def results(dtype: torch.dtype, attend: Any) -> list[Tensor]:
        leaves = [part.detach().to(dtype).requires_grad_() for part in parts]
        out = attend(*leaves)
        out.backward(towards.to(out))
        return [out.detach().double(), *(leaf.grad.double() for leaf in leaves if leaf.grad is not None)]

    def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return document_attention(None, query, key, value, None, documents=documents, sliding_window=window)[0]

    expected = results(torch.float64, partial(dense, dense_mask(positions_BT, window).to(machine.device)))
    distances = [float((a - b).norm() / b.norm()) for a, b in zip(results(machine.dtype, ours), expected, strict=True)]
    if not max(distances) < (1e-2 if machine.dtype == torch.bfloat16 else 1e-5):
        raise AssertionError(f"relative distances {distances}")
    return {"relative_distance": max(distances)}


def dense_mask(positions_BT: Tensor, window: int | None) -> Tensor:
    """Which tokens see which [B, 1, T, T]: those of their document, not later, and fewer than `window` before."""
    segments_BT = (positions_BT == 0).cumsum(1)
    index = torch.arange(positions_BT.shape[1])
    distance_TT = index[:, None] - index
    near_TT = (distance_TT >= 0) & (distance_TT < (window or len(index)))
    return ((segments_BT[:, :, None] == segments_BT[:, None]) & near_TT)[:, None]


def dense(mask_B1TT: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).masked_fill(~mask_B1TT, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def times(machine: Machine) -> dict[str, Any]:
    """Forward and backward of 8 rows of 2,048 tokens, 32 heads of 64 columns, documents of 256 tokens on average:
    ours; one scaled_dot_product_attention with a dense mask; one over whole rows, where documents see one another."""
    rows, length, mean = (ROWS, LENGTH, MEAN_DOCUMENT) if machine.on_gpu else (2, 64, 16)
    query, key, value = (part.requires_grad_() for part in inputs(machine, rows, length, 32, 32, 64))
    positions_BT = packed_rows(rows, length, vocabulary=512, mean_document=mean).positions_BT
    documents, mask = Documents.of(positions_BT), dense_mask(positions_BT, None).to(machine.device)

    def ours() -> None:
        document_attention(None, query, key, value, None, documents=documents)[0].sum().backward()

    def masked() -> None:
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask).sum().backward()

    def whole() -> None:
        F.scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward()

    sides = {"documents_ms": ours, "dense_mask_ms": masked, "whole_rows_ms": whole}
    return {name: round(1e3 * machine.seconds(side, rounds=9), 3) for name, side in sides.items()}
