"""What a policy says of tokens that were sampled: log-probabilities and entropies without a tensor of all logits.

    hidden [N, H], output embedding [V, H] ──a chunk of tokens at a time──► logits ──► log p of each, a loss, gradients

Shapes: N tokens of replies, C of them a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pipelines.learning.losses import add_product, chunk_tokens, product_dtype


class Scored(NamedTuple):
    """What a policy says of tokens that were sampled. Both float32 [N], in nats."""

    logprobs_N: Tensor
    entropies_N: Tensor  # of the whole distribution that each was drawn from


def score_tokens(hidden_NH: Tensor, weight_VH: Tensor, actions_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log p(action) of each token, p = softmax(hidden @ weight.T / temperature). float32 [N].

    hidden_NH: the last layer's output where each token was drawn; weight_VH: the output embedding; actions_N: int.
    Where a gradient is asked for, logits are made again on the way back: loss_of_tokens is for a loss that is a sum
    over tokens."""
    dtype = product_dtype(weight_VH)
    return cast(Any, _Scores.apply(hidden_NH, weight_VH, actions_N.long(), 1.0 / temperature, dtype))


TokenLoss = Callable[[Scored, slice], Tensor]
"""A loss of some of the tokens, summed: what a policy says of them, and which they are."""


def loss_of_tokens(
    hidden_NH: Tensor, weight_VH: Tensor, actions_N: Tensor, loss: TokenLoss, *, temperature: float = 1.0
) -> tuple[Tensor, Scored]:
    """The sum of a loss over all tokens, and what the policy says of each (for whoever watches: without a gradient).

    Arguments as of score_tokens; `loss` is called for a chunk of tokens after the other. The gradients by hidden and
    weight are made with the chunk's logits, while they are there (after Liger Kernel, Hsu et al. 2024, section 3): no
    logits are kept for the backward pass, and none are computed twice."""
    learns = torch.is_grad_enabled() and (hidden_NH.requires_grad or weight_VH.requires_grad)
    total, *scored = cast(Any, _FusedLoss.apply(
        hidden_NH, weight_VH, actions_N.long(), loss, 1.0 / temperature, product_dtype(weight_VH), learns
    ))  # fmt: skip
    return total, Scored(*scored)


class _Scores(torch.autograd.Function):
    """dtype: of the matrix products; everything between them is float32."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, actions_N: Tensor, share: float, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(hidden_NH, weight_VH, actions_N)
        ctx.share, ctx.dtype = share, dtype
        logprobs_N = hidden_NH.new_empty(len(hidden_NH), dtype=torch.float32)
        for here, chunk in _chunks(hidden_NH, weight_VH.to(dtype), actions_N, share):
            logprobs_N[here] = chunk.logprobs_C
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any):
        hidden_NH, weight_VH, actions_N = ctx.saved_tensors
        grad_hidden_NH, grad_weight_VH = torch.empty_like(hidden_NH), torch.zeros_like(weight_VH)
        for here, chunk in _chunks(hidden_NH, weight_VH.to(ctx.dtype), actions_N, ctx.share):
            error_CV = chunk.error_CV(grad_outputs[0][here])
            grad_hidden_NH[here] = error_CV @ chunk.factor_VH
            add_product(grad_weight_VH, error_CV.T, chunk.hidden_CH)
        return grad_hidden_NH, grad_weight_VH, None, None, None


class _Chunk:
    """The logits of some tokens, and what follows from them. dtype of the products: factor_VH's; all else is float32.

    shifted_CV: logits less the row's largest; odds_CV: their exponentials, the only other V-wide tensor."""

    def __init__(self, hidden_CH: Tensor, factor_VH: Tensor, actions_C: Tensor, share: float):
        self.hidden_CH, self.factor_VH = hidden_CH.to(factor_VH.dtype), factor_VH
        self.share, self.actions_C1 = share, actions_C.long()[:, None]
        logits_CV = (self.hidden_CH @ factor_VH.T).float()
        if share != 1.0:
            logits_CV.mul_(share)
        self.shifted_CV = logits_CV.sub_(logits_CV.amax(-1, keepdim=True))
        self.odds_CV = self.shifted_CV.exp()
        self.normalisers_C = self.odds_CV.sum(-1)
        self.logprobs_C = self.shifted_CV.gather(1, self.actions_C1).squeeze(1) - self.normalisers_C.log()

    def entropies_C(self) -> Tensor:
        """log Z − Σ p · logit."""
        expected_C = torch.bmm(self.odds_CV[:, None], self.shifted_CV[:, :, None]).flatten()
        return self.normalisers_C.log() - expected_C / self.normalisers_C

    def error_CV(
        self, by_logprob_C: Tensor, by_entropy_C: Tensor | None = None, entropies_C: Tensor | float = 0.0
    ) -> Tensor:
        """The loss by hidden @ weight.T, in the place of the odds, which are no more; so are the logits.

        d log p[action] / d logit = one-hot − p; d entropy / d logit = −p (log p + entropy)."""
        error_CV, by_p_C = self.odds_CV, by_logprob_C
        if by_entropy_C is None:
            error_CV.mul_((-by_p_C / self.normalisers_C)[:, None])
        else:
            by_p_C = by_p_C + by_entropy_C * (entropies_C - self.normalisers_C.log())
            factor_CV = self.shifted_CV.mul_(by_entropy_C[:, None]).add_(by_p_C[:, None])
            error_CV.mul_(factor_CV.div_(-self.normalisers_C[:, None]))
        error_CV.scatter_add_(1, self.actions_C1, by_logprob_C[:, None])
        return (error_CV if self.share == 1.0 else error_CV.mul_(self.share)).to(self.factor_VH.dtype)


class _FusedLoss(torch.autograd.Function):
    """dtype: of the matrix products; everything between them is float32."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, actions_N: Tensor, loss: TokenLoss, share: float,
        dtype: torch.dtype, learns: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        logprobs_N = hidden_NH.new_empty(len(hidden_NH), dtype=torch.float32)
        entropies_N, total = torch.empty_like(logprobs_N), logprobs_N.new_zeros(())
        grad_hidden_NH = torch.empty_like(hidden_NH) if learns else None
        grad_weight_VH = torch.zeros_like(weight_VH) if learns else None
        for here, chunk in _chunks(hidden_NH, weight_VH.to(dtype), actions_N, share):
            scored = Scored(chunk.logprobs_C, chunk.entropies_C())
            logprobs_N[here], entropies_N[here] = scored
            value, by_logprob_C, by_entropy_C = _with_gradients(loss, scored, here)
            total += value
            if grad_hidden_NH is not None and grad_weight_VH is not None:
                error_CV = chunk.error_CV(by_logprob_C, by_entropy_C, scored.entropies_N)
                grad_hidden_NH[here] = error_CV @ chunk.factor_VH
                add_product(grad_weight_VH, error_CV.T, chunk.hidden_CH)
        ctx.save_for_backward(grad_hidden_NH, grad_weight_VH)
        ctx.mark_non_differentiable(logprobs_N, entropies_N)
        ctx.set_materialize_grads(False)
        return total, logprobs_N, entropies_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any):
        grad_hidden_NH, grad_weight_VH = ctx.saved_tensors
        return grad_hidden_NH * grad_outputs[0], grad_weight_VH * grad_outputs[0], None, None, None, None, None


def _chunks(hidden_NH: Tensor, factor_VH: Tensor, actions_N: Tensor, share: float) -> Iterator[tuple[slice, _Chunk]]:
    size = chunk_tokens(factor_VH)
    for start in range(0, len(hidden_NH), size):
        here = slice(start, start + size)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            yield here, _Chunk(hidden_NH[here], factor_VH, actions_N[here], share)


def _with_gradients(loss: TokenLoss, scored: Scored, here: slice) -> tuple[Tensor, Tensor, Tensor | None]:
    """The loss of a chunk, and itself by each log-probability and by each entropy; None: it does not look at them."""
    with torch.enable_grad():
        leaves = Scored(*(column.detach().requires_grad_() for column in scored))
        value = loss(leaves, here)
        by_logprob_C, by_entropy_C = torch.autograd.grad(value, leaves, allow_unused=True)
    return value.detach(), torch.zeros_like(leaves[0]) if by_logprob_C is None else by_logprob_C, by_entropy_C
