"""The bare loop that training is measured against: plain PyTorch, nothing around it.

Two processes of one thread each, the same Llama written out by hand (parameters named as transformers names them, so
that weights can be loaded and losses compared), attention by SDPA, cross-entropy in chunks, torch's own Muon and fused
AdamW, and one all-reduce of the flat gradient at the end of a step. No DeepSpeed, no Ray, no transformers, no
checkpoints, no clipping.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        hidden, self.heads = shape.hidden, shape.heads
        self.self_attn = nn.ModuleDict(
            {f"{name}_proj": nn.Linear(hidden, hidden, bias=False) for name in ("q", "k", "v", "o")}
        )
        self.mlp = nn.ModuleDict(
            {f"{n}_proj": nn.Linear(hidden, shape.intermediate, bias=False) for n in ("gate", "up")}
        )
        self.mlp["down_proj"] = nn.Linear(shape.intermediate, hidden, bias=False)
        self.input_layernorm = nn.RMSNorm(hidden, 1e-6)
        self.post_attention_layernorm = nn.RMSNorm(hidden, 1e-6)

    def forward(self, x_BTH: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, hidden = x_BTH.shape
        normed = self.input_layernorm(x_BTH)
        q, k, v = (
            self.self_attn[f"{name}_proj"](normed).view(batch, length, self.heads, -1).transpose(1, 2) for name in "qkv"
        )
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, attn_mask=mask)
        x_BTH = x_BTH + self.self_attn["o_proj"](mixed.transpose(1, 2).reshape(batch, length, hidden))
        normed = self.post_attention_layernorm(x_BTH)
        return x_BTH + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class BareLlama(nn.Module):
    """Tied embeddings, full heads, rotary base 10,000."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, 1e-6)
        width = shape.hidden // shape.heads
        self.frequencies = 10_000.0 ** -(torch.arange(0, width, 2) / width)

    def loss(self, tokens_BT: Tensor, positions_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """Cross-entropy summed over labels that are not -100."""
        documents_BT = (positions_BT == 0).cumsum(1)
        same = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
        mask = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
        angles = (positions_BT[:, None, :, None] * self.frequencies).repeat(1, 1, 1, 2)
        cos, sin = angles.cos(), angles.sin()
        x_BTH = self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x_BTH = layer(x_BTH, mask, cos, sin)
        # In chunks of 256 tokens: 34 MB of logits at once are mapped and cleared by the kernel anew in every step.
        chunks = zip(self.norm(x_BTH).flatten(0, 1).split(256), labels_BT.flatten().split(256), strict=True)
        head = self.embed_tokens.weight
        return sum((F.cross_entropy(F.linear(x, head), y, reduction="sum") for x, y in chunks), torch.zeros(()))


def run(
    rank: int, world: int, port: int, shape: Shape, weights: dict[str, Tensor], steps: list[list[Any]], results: Any
) -> None:
    """One process: trains on its share of each step's rows; puts (its share of the losses, seconds) in `results`.

    steps: per step (tokens, positions, labels) of all ranks' rows."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = BareLlama(shape)
    model.load_state_dict(weights)
    matrices = [p for layer in model.layers for p in layer.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimisers = [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    losses, ends = [], []
    dist.barrier()
    ends.append(time.perf_counter())
    for columns in steps:
        rows = len(columns[0]) // world
        mine = [torch.as_tensor(column)[rank * rows : (rank + 1) * rows].long() for column in columns]
        count = int((torch.as_tensor(columns[2]) != -100).sum())
        loss = model.loss(*mine)
        (loss / count).backward()
        gradients = [cast(Tensor, p.grad) for p in model.parameters()]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        losses.append(loss.item() / count)  # this rank's share of the step's loss
        ends.append(time.perf_counter())
    results.put((losses, [end - start for start, end in pairwise(ends)]))
    dist.destroy_process_group()
