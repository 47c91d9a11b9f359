"""Sampler and learner give the same token two log-probabilities where they compute in different types or by different
kernels: how far apart they are, and the correction.

Shapes: B replies, A tokens of the longest; mask_BA is True where a reply has a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

CAP = 2.0


def importance_weights(learner_BA: Tensor, sampler_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """min(p_learner ÷ p_sampler, 2) of each token, 0 elsewhere: truncated importance sampling (Ionides 2008; for
    rollouts of another engine Yao et al. 2025). An advantage times its weight is what the learner's own sample would
    have taught. learner_BA, sampler_BA: log-probabilities in nats."""
    return torch.where(mask_BA, (learner_BA - sampler_BA).exp().clamp(max=CAP), 0.0)


def figures(learner_BA: Tensor, sampler_BA: Tensor, mask_BA: Tensor) -> dict[str, float]:
    """mismatch/logprob_abs, mean |Δ| in nats; mismatch/k3, the k3 estimate of KL(sampler ‖ learner), r − 1 − log r with
    r = p_learner ÷ p_sampler (Schulman 2020); mismatch/share_over_2, the fraction of tokens whose probabilities differ
    by more than a factor of 2."""
    log_ratio_N = (learner_BA - sampler_BA)[mask_BA].double()
    return {
        "mismatch/logprob_abs": log_ratio_N.abs().mean().item(),
        "mismatch/k3": (log_ratio_N.expm1() - log_ratio_N).mean().item(),
        "mismatch/share_over_2": (log_ratio_N.abs() > torch.tensor(CAP).log()).double().mean().item(),
    }
