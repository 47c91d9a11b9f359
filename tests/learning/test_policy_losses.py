"""PPO's losses against loops over tokens."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.learning.policy_losses import clipped_surrogate, clipped_value_loss, num_clipped, policy_loss
from pipelines.learning.token_scores import TokenScores


def surrogate_of_token(logprob: float, old_logprob: float, advantage: float, clip: float) -> float:
    """Schulman et al. 2017, eq. 7, of one token, negated."""
    ratio = math.exp(logprob - old_logprob)
    return -min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)


@pytest.mark.parametrize("bonus", [0.0, 0.3])
def test_policy_loss_equals_a_loop_over_tokens_with_gradients(bonus: float) -> None:
    torch.manual_seed(3)
    old, advantages, entropies = torch.randn(3, 40)
    logprobs = (old + 0.4 * torch.randn(40)).requires_grad_()
    entropies.requires_grad_()
    loss = policy_loss(TokenScores(logprobs, entropies), old, advantages, clip=0.2, entropy_bonus=bonus)
    expected = 0.0
    for logprob, old_logprob, advantage, entropy in zip(
        logprobs.tolist(), old.tolist(), advantages.tolist(), entropies.tolist(), strict=True
    ):
        expected += surrogate_of_token(logprob, old_logprob, advantage, 0.2) - bonus * entropy
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    by_entropy = torch.autograd.grad(loss, entropies, allow_unused=True)[0]
    assert (torch.zeros(40) if by_entropy is None else by_entropy).tolist() == pytest.approx([-bonus] * 40)


def test_surrogate_equals_a_loop_with_gradients() -> None:
    torch.manual_seed(0)
    old = torch.randn(50) - 2
    logprobs = (old + 0.4 * torch.randn(50)).requires_grad_()
    advantages = torch.randn(50)
    loss = clipped_surrogate(logprobs, old, advantages, clip=0.2)
    expected, gradient, clipped = 0.0, [], 0
    for new, before, advantage in zip(logprobs.tolist(), old.tolist(), advantages.tolist(), strict=True):
        ratio = math.exp(new - before)
        clipped += not 0.8 <= ratio <= 1.2
        bounded = min(max(ratio, 0.8), 1.2)
        expected += surrogate_of_token(new, before, advantage, 0.2)
        gradient.append(-ratio * advantage if ratio * advantage <= bounded * advantage else 0.0)
    assert 0 < clipped < 50 and 0.0 in gradient
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(loss, logprobs)[0].tolist() == pytest.approx(gradient, rel=1e-5, abs=1e-6)
    assert num_clipped(logprobs, old, clip=0.2) == clipped


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_value_loss_equals_a_loop_with_gradients(clip: float) -> None:
    torch.manual_seed(1)
    old, returns = torch.randn(40), torch.randn(40)
    values = (old + torch.randn(40)).requires_grad_()
    loss = clipped_value_loss(values, old, returns, clip=clip)
    expected, gradient = 0.0, []
    for value, before, target in zip(values.tolist(), old.tolist(), returns.tolist(), strict=True):
        bounded = min(max(value, before - clip), before + clip) if clip else value
        error, bounded_error = (value - target) ** 2, (bounded - target) ** 2
        expected += 0.5 * max(error, bounded_error)
        gradient.append(value - target if error >= bounded_error else 0.0)
    assert (0.0 in gradient) == bool(clip)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(loss, values)[0].tolist() == pytest.approx(gradient, rel=1e-5, abs=1e-6)
