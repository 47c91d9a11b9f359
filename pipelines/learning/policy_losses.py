"""What PPO minimises, as plain functions of tensors: a sum over the tokens of replies and their count, never a mean.

The caller divides by the count over all workers and micro-batches of an optimiser step, so that a gradient does not
depend on how the batch was cut. Shapes: N tokens of replies (only those: there is no mask), H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pipelines.learning.losses import Summed, chunk_tokens


class Scored(NamedTuple):
    """What a policy says of tokens that were sampled. Both float32 [N], in nats."""

    logprobs_N: Tensor
    entropies_N: Tensor  # of the whole distribution that each was drawn from


def score_tokens(hidden_NH: Tensor, weight_VH: Tensor, actions_N: Tensor, *, temperature: float = 1.0) -> Scored:
    """log p(action) and the entropy of p = softmax(hidden @ weight.T / temperature), for each token.

    hidden_NH: the last layer's output where each token was drawn; weight_VH: the output embedding; actions_N: int.
    Logits are made a chunk of tokens at a time, and again in the backward pass, so all of them never exist at once: a
    second product costs less than 4,096 × 5,000 × 4 bytes = 80 MB to keep and fetch."""
    kind = hidden_NH.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VH.dtype
    return Scored(*cast(Any, _ChunkedScores.apply(hidden_NH, weight_VH, actions_N.long(), 1.0 / temperature, dtype)))


def clipped_surrogate(logprobs_N: Tensor, old_logprobs_N: Tensor, advantages_N: Tensor, *, clip: float) -> Summed:
    """PPO's clipped policy loss, negated to be minimised (Schulman et al. 2017, eq. 7), summed over tokens.

    logprobs_N, old_logprobs_N: of each token under the policy now / when it was sampled, nats."""
    ratios_N = (logprobs_N - old_logprobs_N).exp()
    clipped_N = ratios_N.clamp(1 - clip, 1 + clip)
    return Summed(-torch.minimum(ratios_N * advantages_N, clipped_N * advantages_N).sum(), len(ratios_N))


def clipped_value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, *, clip: float) -> Summed:
    """Half the squared error, summed over tokens; a value gains nothing by moving further than `clip` from the old one
    (Schulman's implementation; Huang et al. 2022, "The 37 implementation details of PPO", 9). clip 0: any move."""
    errors_N = (values_N - returns_N).square()
    if clip:
        kept_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
        errors_N = torch.maximum(errors_N, (kept_N - returns_N).square())
    return Summed(0.5 * errors_N.sum(), len(errors_N))


def clipped_tokens(logprobs_N: Tensor, old_logprobs_N: Tensor, *, clip: float) -> Tensor:
    """How many tokens' probabilities have moved by more than `clip`. Scalar."""
    return ((logprobs_N - old_logprobs_N).exp() - 1).abs().gt(clip).sum()


class _ChunkedScores(torch.autograd.Function):
    """dtype: of the matrix products; everything between them is float32."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, actions_N: Tensor, share: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        logprobs_N = hidden_NH.new_empty(len(hidden_NH), dtype=torch.float32)
        entropies_N, normalisers_N = torch.empty_like(logprobs_N), torch.empty_like(logprobs_N)
        factor_VH, size = weight_VH.to(dtype), chunk_tokens(weight_VH)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for start in range(0, len(hidden_NH), size):
                here = slice(start, start + size)
                logits_CV = _logits(hidden_NH[here], factor_VH, share)
                normalisers_N[here] = logits_CV.logsumexp(-1)
                logits_CV -= normalisers_N[here, None]  # log p from here on
                logprobs_N[here] = logits_CV.gather(1, actions_N[here, None]).squeeze(1)
                entropies_N[here] = -torch.linalg.vecdot(logits_CV.exp(), logits_CV)
        ctx.save_for_backward(hidden_NH, weight_VH, actions_N, normalisers_N, entropies_N)
        ctx.share, ctx.dtype, ctx.size = share, dtype, size
        return logprobs_N, entropies_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any):
        by_logprob_N, by_entropy_N = grad_outputs
        hidden_NH, weight_VH, actions_N, normalisers_N, entropies_N = ctx.saved_tensors
        grad_hidden_NH, grad_weight_VH = torch.zeros_like(hidden_NH), torch.zeros_like(weight_VH)
        factor_VH = weight_VH.to(ctx.dtype)
        for start in range(0, len(hidden_NH), ctx.size):
            here = slice(start, start + ctx.size)
            logp_CV = _logits(hidden_NH[here], factor_VH, ctx.share).sub_(normalisers_N[here, None])
            error_CV = torch.zeros_like(logp_CV)  # the loss by each logit
            p_CV = logp_CV.exp()
            if by_logprob_N is not None:  # d log p[action] / d logit = one-hot − p
                error_CV.addcmul_(p_CV, by_logprob_N[here, None], value=-1)
                error_CV.scatter_add_(1, actions_N[here, None], by_logprob_N[here, None])
            if by_entropy_N is not None:  # d entropy / d logit = −p (log p + entropy)
                p_CV.mul_(logp_CV.add_(entropies_N[here, None]))
                error_CV.addcmul_(p_CV, by_entropy_N[here, None], value=-1)
            error_CV = error_CV.mul_(ctx.share).to(ctx.dtype)
            grad_hidden_NH[here] = error_CV @ factor_VH
            grad_weight_VH += error_CV.T @ hidden_NH[here].to(ctx.dtype)
        return grad_hidden_NH, grad_weight_VH, None, None, None


def _logits(hidden_CH: Tensor, factor_VH: Tensor, share: float) -> Tensor:
    logits_CV = (hidden_CH.to(factor_VH.dtype) @ factor_VH.T).float()
    return logits_CV if share == 1.0 else logits_CV.mul_(share)
