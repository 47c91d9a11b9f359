"""PPO's losses against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.learning.policy_losses import clipped_surrogate, clipped_tokens, clipped_value_loss, policy_loss
from pipelines.learning.token_scores import TokenScores


@pytest.mark.parametrize("bonus", [0.0, 0.3])
def test_the_policys_loss_is_the_surrogate_less_the_bonus(bonus: float) -> None:
    logp, old, advantages, entropies = torch.randn(4, 9)
    found = policy_loss(TokenScores(logp, entropies), old, advantages, clip=0.2, entropy_bonus=bonus)
    expected = clipped_surrogate(logp, old, advantages, clip=0.2) - bonus * entropies.sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


def test_surrogate_equals_a_loop_with_gradients() -> None:
    torch.manual_seed(0)
    old = torch.randn(50) - 2
    logp = (old + 0.4 * torch.randn(50)).requires_grad_()
    advantages = torch.randn(50)
    loss = clipped_surrogate(logp, old, advantages, clip=0.2)
    expected, gradient, moved = 0.0, [], 0
    for new, before, advantage in zip(logp.tolist(), old.tolist(), advantages.tolist(), strict=True):
        ratio = math.exp(new - before)
        clipped = min(max(ratio, 0.8), 1.2)
        moved += not 0.8 <= ratio <= 1.2
        expected -= min(ratio * advantage, clipped * advantage)
        gradient.append(-ratio * advantage if ratio * advantage <= clipped * advantage else 0.0)
    assert 0 < moved < 50 and 0.0 in gradient
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(loss, logp)[0].tolist() == pytest.approx(gradient, rel=1e-5, abs=1e-6)
    assert clipped_tokens(logp, old, clip=0.2) == moved


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_value_loss_equals_a_loop_with_gradients(clip: float) -> None:
    torch.manual_seed(1)
    old, returns = torch.randn(40), torch.randn(40)
    values = (old + torch.randn(40)).requires_grad_()
    loss = clipped_value_loss(values, old, returns, clip=clip)
    expected, gradient = 0.0, []
    for value, before, wanted in zip(values.tolist(), old.tolist(), returns.tolist(), strict=True):
        kept = min(max(value, before - clip), before + clip) if clip else value
        plain, bounded = (value - wanted) ** 2, (kept - wanted) ** 2
        expected += 0.5 * max(plain, bounded)
        gradient.append(value - wanted if plain >= bounded else 0.0)
    assert (0.0 in gradient) == bool(clip)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(loss, values)[0].tolist() == pytest.approx(gradient, rel=1e-5, abs=1e-6)
