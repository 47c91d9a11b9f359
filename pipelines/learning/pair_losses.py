"""Losses of preference pairs as plain functions of tensors: a sum over pairs, never a mean.

The caller divides by the number of pairs over all workers and micro-batches of an optimiser step. Shapes: P pairs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor, weights_P: Tensor | None = None) -> Tensor:
    """-log σ(chosen − rejected), summed: the negative log-likelihood of the preferences under rewards (Bradley & Terry
    1952; Ouyang et al. 2022, eq. 1).

    chosen_P, rejected_P: rewards, float32; weights_P: weight of each comparison, 1 by default. Scalar, nats."""
    losses_P = -F.logsigmoid(chosen_P - rejected_P)
    return losses_P.sum() if weights_P is None else (losses_P * weights_P).sum()


def implicit_rewards(logprobs: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """β (log π(reply) − log π_reference(reply)): the reward under which the policy is optimal, up to a term that is
    the same for all replies to a prompt (Rafailov et al. 2023, eq. 5). Any shape, nats."""
    return beta * (logprobs - reference)


def dpo(
    chosen_P: Tensor,
    rejected_P: Tensor,
    chosen_reference_P: Tensor,
    rejected_reference_P: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7), summed over pairs. Scalar, nats.

    chosen_P … rejected_reference_P: log-probability of each reply, summed over its tokens, under the policy and under
    the frozen reference; beta: strength of the KL penalty towards the reference; label_smoothing: assumed fraction of
    pairs with swapped labels (conservative DPO, Mitchell 2023, eq. 3)."""
    margins_P = implicit_rewards(chosen_P, chosen_reference_P, beta=beta) - implicit_rewards(
        rejected_P, rejected_reference_P, beta=beta
    )
    as_labelled, swapped = -F.logsigmoid(margins_P).sum(), -F.logsigmoid(-margins_P).sum()
    return (1 - label_smoothing) * as_labelled + label_smoothing * swapped
