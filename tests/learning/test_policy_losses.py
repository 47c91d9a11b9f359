"""PPO's losses against plain loops, and the chunked scores of tokens against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipelines.learning import policy_losses
from pipelines.learning.policy_losses import clipped_surrogate, clipped_tokens, clipped_value_loss, score_tokens


def example(tokens: int = 300, hidden: int = 16, vocabulary: int = 97) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    hidden_NH = torch.randn(tokens, hidden, requires_grad=True)
    weight_VH = torch.randn(vocabulary, hidden, requires_grad=True)
    return hidden_NH, weight_VH, torch.randint(0, vocabulary, (tokens,))


def by_torch(hidden: Tensor, weight: Tensor, actions: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    drawn = torch.distributions.Categorical(logits=hidden @ weight.T / temperature)
    return drawn.log_prob(actions), drawn.entropy()


@pytest.mark.parametrize(("chunk", "temperature"), [(128, 1.0), (7, 0.7), (1000, 1.3)])
def test_scores_and_gradients_equal_torch(chunk: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, actions = example()
    monkeypatch.setattr(policy_losses, "chunk_tokens", lambda _: chunk)
    ours = score_tokens(hidden, weight, actions, temperature=temperature)
    theirs = by_torch(hidden, weight, actions, temperature)
    by_token = torch.randn(2, len(actions))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    for kept in ((1.0, 0.0), (0.0, 1.0), (0.3, -2.0)):  # of log-probabilities alone, of entropies alone, of both
        mine, other = (
            torch.stack(
                [s * (column * own).sum() for s, column, own in zip(kept, columns, by_token, strict=True)]
            ).sum()
            for columns in (ours, theirs)
        )
        found, expected = (torch.autograd.grad(loss, (hidden, weight), retain_graph=True) for loss in (mine, other))
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-4)


def test_without_entropy_in_the_loss_the_gradient_is_the_log_probabilities_own() -> None:
    hidden, weight, actions = example()
    loss = score_tokens(hidden, weight, actions).logprobs_N.sum()
    expected = by_torch(hidden, weight, actions, 1.0)[0].sum()
    for one, two in zip(
        torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-4)


def test_no_tokens_give_nothing_and_zero_gradients() -> None:
    hidden, weight, actions = example()
    logprobs, entropies = score_tokens(hidden[:0], weight, actions[:0])
    assert len(logprobs) == len(entropies) == 0
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(logprobs.sum(), (hidden, weight)))


def test_surrogate_equals_a_loop_with_gradients() -> None:
    torch.manual_seed(0)
    old = torch.randn(50) - 2
    logp = (old + 0.4 * torch.randn(50)).requires_grad_()
    advantages = torch.randn(50)
    loss, tokens = clipped_surrogate(logp, old, advantages, clip=0.2)
    expected, gradient, moved = 0.0, [], 0
    for new, before, advantage in zip(logp.tolist(), old.tolist(), advantages.tolist(), strict=True):
        ratio = math.exp(new - before)
        clipped = min(max(ratio, 0.8), 1.2)
        moved += not 0.8 <= ratio <= 1.2
        expected -= min(ratio * advantage, clipped * advantage)
        gradient.append(-ratio * advantage if ratio * advantage <= clipped * advantage else 0.0)
    assert tokens == 50 and 0 < moved < 50 and 0.0 in gradient
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(loss, logp)[0].tolist() == pytest.approx(gradient, rel=1e-5, abs=1e-6)
    assert clipped_tokens(logp, old, clip=0.2) == moved


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_value_loss_equals_a_loop_with_gradients(clip: float) -> None:
    torch.manual_seed(1)
    old, returns = torch.randn(40), torch.randn(40)
    values = (old + torch.randn(40)).requires_grad_()
    loss, tokens = clipped_value_loss(values, old, returns, clip=clip)
    expected, gradient = 0.0, []
    for value, before, wanted in zip(values.tolist(), old.tolist(), returns.tolist(), strict=True):
        kept = min(max(value, before - clip), before + clip) if clip else value
        plain, bounded = (value - wanted) ** 2, (kept - wanted) ** 2
        expected += 0.5 * max(plain, bounded)
        gradient.append(value - wanted if plain >= bounded else 0.0)
    assert tokens == 40 and (0.0 in gradient) == bool(clip)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(loss, values)[0].tolist() == pytest.approx(gradient, rel=1e-5, abs=1e-6)
