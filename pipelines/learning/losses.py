"""Losses as plain functions of tensors: a sum over valid tokens and their count, never a mean.

The caller divides by the count over all workers and micro-batches of an optimiser step, so that a gradient does not
depend on how the batch was cut. Shapes: N tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

IGNORE = -100  # the label of a token whose successor is not to be learnt

# 4,096 logits × 512 tokens × 4 bytes = 8 MB: a chunk stays near the cache instead of 4,096 × 2,048 × 4 = 34 MB for a
# micro-batch of 8 rows. A GPU wants larger products: 2^27 × 4 bytes = 0.5 GB, not the 5 GB of a vocabulary of 150,000.
CHUNK_LOGITS = {"cpu": 2**21, "cuda": 2**27}
MIN_CHUNK_TOKENS = 128  # narrower products leave the GEMM kernels idle


class Summed(NamedTuple):
    """A loss in nats summed over so many tokens."""

    total: Tensor  # scalar, float32
    tokens: int


def next_token_cross_entropy(hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor) -> Summed:
    """-log p(label) of every token whose label is not IGNORE, with p = softmax(hidden @ weight.T).

    hidden_NH: the last layer's output, any leading shape; weight_VH: the output embedding; labels_N: int, same leading
    shape as hidden. Logits are made a chunk of tokens at a time and the gradients with them (the softmax minus the
    label's one-hot row, as in Liger Kernel, Hsu et al. 2024, section 3), so all logits never exist at once and none is
    computed twice. Equals torch.nn.functional.cross_entropy(reduction="sum") and its gradients.
    """
    labels = labels_N.reshape(-1)
    valid = (labels != IGNORE).nonzero().squeeze(1)
    hidden = hidden_NH.reshape(-1, hidden_NH.shape[-1]).index_select(0, valid)
    learns = torch.is_grad_enabled() and (hidden.requires_grad or weight_VH.requires_grad)
    dtype = product_dtype(weight_VH)
    total = _ChunkedCrossEntropy.apply(hidden, weight_VH, labels.index_select(0, valid).long(), dtype, learns)
    return Summed(cast(Tensor, total), len(valid))


def chunk_tokens(weight_VH: Tensor) -> int:
    """How many tokens' logits are held at once."""
    return max(MIN_CHUNK_TOKENS, CHUNK_LOGITS.get(weight_VH.device.type, CHUNK_LOGITS["cuda"]) // weight_VH.shape[0])


def product_dtype(weight_VH: Tensor) -> torch.dtype:
    """Of the products with a weight: autocast's, where it is on."""
    kind = weight_VH.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VH.dtype


def add_product(sum_VH: Tensor, left_VC: Tensor, right_CH: Tensor) -> None:
    """sum += left @ right, in one kernel where the two are of the sum's dtype."""
    if left_VC.dtype == sum_VH.dtype:
        sum_VH.addmm_(left_VC, right_CH)
    else:
        sum_VH += left_VC @ right_CH


class _ChunkedCrossEntropy(torch.autograd.Function):
    """sum of -log softmax(hidden @ weight.T)[label]; gradients are made in the forward pass, chunk by chunk.

    dtype: of the matrix products; everything between them is float32."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor, dtype: torch.dtype, learns: bool
    ) -> Tensor:
        with torch.autocast(hidden_NH.device.type, enabled=False):
            return _forward(ctx, hidden_NH, weight_VH, labels_N, dtype, learns)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        grad_hidden_NH, grad_weight_VH = ctx.saved_tensors
        scale = grad_outputs[0]
        return grad_hidden_NH * scale, None if grad_weight_VH is None else grad_weight_VH * scale, None, None, None


def _forward(
    ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, labels_N: Tensor, dtype: torch.dtype, learns: bool
) -> Tensor:
    grad_hidden_NH = torch.empty_like(hidden_NH) if learns else None
    grad_weight_VH = torch.zeros_like(weight_VH) if learns and ctx.needs_input_grad[1] else None  # frozen: none
    factor_VH, size = weight_VH.to(dtype), chunk_tokens(weight_VH)
    total = hidden_NH.new_zeros((), dtype=torch.float32)
    for start in range(0, len(hidden_NH), size):
        hidden_CH, labels_C1 = hidden_NH[start : start + size].to(dtype), labels_N[start : start + size, None]
        logits_CV = (hidden_CH @ factor_VH.T).float()
        peak_C1 = logits_CV.amax(-1, keepdim=True)
        label_logits_C1 = logits_CV.gather(1, labels_C1)
        odds_CV = logits_CV.sub_(peak_C1).exp_()  # in place: the only V-wide tensor of the chunk
        normaliser_C1 = odds_CV.sum(-1, keepdim=True)
        total += (normaliser_C1.log() + peak_C1 - label_logits_C1).sum()
        if grad_hidden_NH is not None:
            error_CV = odds_CV.div_(normaliser_C1)  # the softmax, less 1 at the label
            error_CV.scatter_add_(1, labels_C1, torch.full_like(peak_C1, -1.0))
            error_CV = error_CV.to(dtype)
            grad_hidden_NH[start : start + size] = error_CV @ factor_VH
            if grad_weight_VH is None:
                continue
            add_product(grad_weight_VH, error_CV.T, hidden_CH)
    ctx.save_for_backward(grad_hidden_NH, grad_weight_VH)
    return total
