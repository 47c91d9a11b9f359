"""PPO's losses as plain functions of tensors: a sum over the tokens of replies, never a mean.

The caller divides by the number of tokens over all workers and micro-batches of an optimiser step, so that a gradient
does not depend on how the batch was cut. Shapes: N tokens of replies (only those: there is no mask).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.learning.token_scores import TokenScores


def policy_loss(
    scores: TokenScores, old_logprobs_N: Tensor, advantages_N: Tensor, *, clip: float, entropy_bonus: float
) -> Tensor:
    """Clipped surrogate less the entropy bonus, summed over tokens (Schulman et al. 2017, eq. 9, without its term for
    values)."""
    surrogate = clipped_surrogate(scores.logprobs_N, old_logprobs_N, advantages_N, clip=clip)
    return surrogate - entropy_bonus * scores.entropies_N.sum() if entropy_bonus else surrogate


def clipped_surrogate(logprobs_N: Tensor, old_logprobs_N: Tensor, advantages_N: Tensor, *, clip: float) -> Tensor:
    """PPO's clipped policy loss, negated to be minimised (Schulman et al. 2017, eq. 7), summed over tokens.

    logprobs_N, old_logprobs_N: of each token under the policy now / when it was sampled, nats."""
    ratios_N = (logprobs_N - old_logprobs_N).exp()
    clipped_N = ratios_N.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratios_N * advantages_N, clipped_N * advantages_N).sum()


def clipped_value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, *, clip: float) -> Tensor:
    """Half the squared error, summed over tokens; moving a value further than `clip` from the old one does not lower it
    (Schulman's implementation; Huang et al. 2022, "The 37 implementation details of PPO", 9). clip 0: no bound."""
    errors_N = (values_N - returns_N).square()
    if clip:
        clipped_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
        errors_N = torch.maximum(errors_N, (clipped_N - returns_N).square())
    return 0.5 * errors_N.sum()


def num_clipped(logprobs_N: Tensor, old_logprobs_N: Tensor, *, clip: float) -> Tensor:
    """Number of tokens whose probability has moved by more than `clip`, relative. Scalar."""
    return ((logprobs_N - old_logprobs_N).exp() - 1).abs().gt(clip).sum()
