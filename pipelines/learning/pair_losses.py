"""What is minimised over pairs of replies, as plain functions of tensors: a sum over pairs, never a mean.

The caller divides by the number of pairs over all workers and micro-batches of an optimiser step. Shapes: P pairs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor, weights_P: Tensor | None = None) -> Tensor:
    """-log σ(chosen − rejected), summed: what it takes for rewards to say which reply was preferred (Bradley & Terry
    1952; Ouyang et al. 2022, eq. 1).

    chosen_P, rejected_P: rewards, float32; weights_P: what each comparison counts, 1 by default. Scalar, nats."""
    losses_P = -F.logsigmoid(chosen_P - rejected_P)
    return losses_P.sum() if weights_P is None else (losses_P * weights_P).sum()


def implicit_rewards(logprobs: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """β (log π(reply) − log π_reference(reply)): the reward under which a policy is optimal, but for a term that is
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
    the frozen reference; beta: what a nat of distance from the reference costs; label_smoothing: the share of pairs
    thought to be the wrong way round (conservative DPO, Mitchell 2023, eq. 3)."""
    margins_P = implicit_rewards(chosen_P, chosen_reference_P, beta=beta) - implicit_rewards(
        rejected_P, rejected_reference_P, beta=beta
    )
    right, wrong = -F.logsigmoid(margins_P).sum(), -F.logsigmoid(-margins_P).sum()
    return (1 - label_smoothing) * right + label_smoothing * wrong
