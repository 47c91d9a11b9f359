"""The reference that training is measured against: a data-parallel training loop in plain PyTorch.

Two processes of one thread each, the same Llama written out by hand (parameters named as transformers names them, so
that weights can be loaded and losses compared), attention by SDPA, cross-entropy in chunks, torch's Muon and fused
AdamW, and one all-reduce of the flat gradient at the end of a step. No DeepSpeed, no Ray, no transformers, no
checkpoints, no clipping. Attention is SDPA with a dense mask, and torch's Muon orthogonalises in bfloat16; or, so that
the rest can be compared on CPUs that are slow at these, attention is the stage's, document by document, and Muon
orthogonalises in the type that the stage chooses.

Shape suffixes: B rows, T tokens of a row, H hidden size.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.queues import SimpleQueue
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama without grouped-query attention."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int


RankResult = tuple[list[float], list[float]]
"""Of each step: the rank's summand of the batch's mean loss in nats, and seconds."""


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of queries to keys and values [B, A, T, C], as [B, T, A, C]: A heads, C columns of a head."""


class Layer(nn.Module):
    """One decoder layer: attention, then a SwiGLU MLP, each after an RMSNorm and with a residual connection."""

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

    def forward(self, x_BTH: Tensor, attend: Attend, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, hidden = x_BTH.shape
        normed = self.input_layernorm(x_BTH)
        q, k, v = (
            self.self_attn[f"{name}_proj"](normed).view(batch, length, self.heads, -1).transpose(1, 2) for name in "qkv"
        )
        attended_BTAC = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
        x_BTH = x_BTH + self.self_attn["o_proj"](attended_BTAC.reshape(batch, length, hidden))
        normed = self.post_attention_layernorm(x_BTH)
        return x_BTH + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary position embeddings (Su et al. 2021) to queries or keys [B, heads, T, head size]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class BareLlama(nn.Module):
    """A Llama with tied embeddings, as many key-value heads as query heads, and a rotary base of 10,000."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, 1e-6)
        head_size = shape.hidden // shape.heads
        self.frequencies = 10_000.0 ** -(torch.arange(0, head_size, 2) / head_size)

    def loss(self, tokens_BT: Tensor, positions_BT: Tensor, labels_BT: Tensor, *, by_document: bool = False) -> Tensor:
        """Cross-entropy in nats, summed over labels that are not -100. positions_BT: 0 begins a new document.

        by_document: attention as training computes it, instead of SDPA with a dense mask."""
        attend = attention_by_document(positions_BT) if by_document else masked_attention(positions_BT)
        angles = (positions_BT[:, None, :, None] * self.frequencies).repeat(1, 1, 1, 2)
        cos, sin = angles.cos(), angles.sin()
        x_BTH = self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x_BTH = layer(x_BTH, attend, cos, sin)
        # In chunks of 256 tokens: the kernel would map and clear 34 MB for the logits of all tokens anew in every step.
        chunks = zip(self.norm(x_BTH).flatten(0, 1).split(256), labels_BT.flatten().split(256), strict=True)
        head = self.embed_tokens.weight
        return sum((F.cross_entropy(F.linear(x, head), y, reduction="sum") for x, y in chunks), torch.zeros(()))


def masked_attention(positions_BT: Tensor) -> Attend:
    """SDPA under a mask of T × T that keeps documents apart."""
    documents_BT = (positions_BT == 0).cumsum(1)
    same_document = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
    mask = same_document & torch.ones(same_document.shape[-2:], dtype=torch.bool).tril()
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def attention_by_document(positions_BT: Tensor) -> Attend:
    """The attention of training."""
    from pipelines.learning.attention import Documents, document_attention

    documents = Documents.of(positions_BT)
    return lambda q, k, v: document_attention(None, q, k, v, None, documents=documents)[0]


def orthogonal_in_float32(grad: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """torch's Newton-Schulz iteration (torch/optim/_muon.py) without its first step, which is to bfloat16."""
    a, b, c = coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if grad.size(0) > grad.size(1) else x


def use_muon_of_training() -> None:
    """Makes torch's Muon orthogonalise in float32 where the stage does: on CPUs without fast bfloat16."""
    from pipelines.learning.precision import multiplies_bfloat16_faster

    if not multiplies_bfloat16_faster("cpu"):
        muon: Any = importlib.import_module("torch.optim._muon")
        muon._zeropower_via_newtonschulz = orthogonal_in_float32


def run(
    rank: int,
    world: int,
    port: int,
    shape: Shape,
    weights: dict[str, Tensor],
    batches: list[list[np.ndarray]],
    same_kernels: bool,
    results: SimpleQueue[RankResult],
) -> None:
    """Trains in one process on the rank's rows of each batch, and puts its RankResult into `results`.

    batches: for each step (tokens, positions, labels), each [rows of all ranks, T]. same_kernels: whether attention and
    Muon are computed as the stage does."""
    torch.set_num_threads(1)
    if same_kernels:
        use_muon_of_training()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = BareLlama(shape)
    model.load_state_dict(weights)
    matrices = [p for layer in model.layers for p in layer.parameters() if p.ndim == 2]
    not_matrices = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimisers = [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(not_matrices, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    losses, ends = [], []
    dist.barrier()
    ends.append(time.perf_counter())
    for batch in batches:
        num_rows = len(batch[0]) // world
        rank_rows = [torch.as_tensor(column)[rank * num_rows : (rank + 1) * num_rows].long() for column in batch]
        num_labels = int((torch.as_tensor(batch[2]) != -100).sum())
        loss = model.loss(*rank_rows, by_document=same_kernels)
        (loss / num_labels).backward()
        gradients = [cast(Tensor, p.grad) for p in model.parameters()]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        losses.append(loss.item() / num_labels)  # this rank's summand of the batch's mean loss
        ends.append(time.perf_counter())
    results.put((losses, [end - start for start, end in pairwise(ends)]))
    dist.destroy_process_group()
