"""Two log-probabilities of a token: figures against loops, and the correction against exact expectations."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.rollout import mismatch


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    learner = -torch.rand(4, 6, generator=generator) * 3
    sampler = learner + torch.randn(4, 6, generator=generator) * 0.8
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 4])[:, None]
    return learner, sampler, mask


def test_figures_equal_a_loop_over_tokens() -> None:
    learner, sampler, mask = example()
    pairs = [(float(learner[b, a]), float(sampler[b, a])) for b in range(4) for a in range(6) if mask[b, a]]
    ratios = [math.exp(ours - theirs) for ours, theirs in pairs]
    figures = mismatch.figures(learner, sampler, mask)
    assert figures["mismatch/logprob_abs"] == pytest.approx(sum(abs(o - t) for o, t in pairs) / len(pairs))
    assert figures["mismatch/k3"] == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / len(ratios))
    beyond = sum(r > 2 or r < 0.5 for r in ratios)
    assert 0 < beyond < len(ratios)
    assert figures["mismatch/share_over_2"] == pytest.approx(beyond / len(ratios))


def test_equal_log_probabilities_have_no_mismatch() -> None:
    learner, _, mask = example()
    assert set(mismatch.figures(learner, learner, mask).values()) == {0.0}
    assert torch.equal(mismatch.importance_weights(learner, learner, mask), mask.float())


def test_k3_is_the_kl_divergence_on_average() -> None:
    sampler, learner = (torch.distributions.Categorical(logits=torch.tensor(x)) for x in ([0.0, 1.0, 2.0], [0.5, 1, 1]))
    torch.manual_seed(0)
    drawn = sampler.sample(torch.Size([1, 200_000]))
    everywhere = torch.ones_like(drawn, dtype=torch.bool)
    figures = mismatch.figures(learner.log_prob(drawn), sampler.log_prob(drawn), everywhere)
    assert figures["mismatch/k3"] == pytest.approx(float(torch.distributions.kl_divergence(sampler, learner)), rel=0.02)


def test_weights_correct_the_samplers_frequencies_and_are_capped() -> None:
    """Where no weight reaches the cap, weighted samples of one distribution have the means of the other."""
    sampler = torch.distributions.Categorical(probs=torch.tensor([0.5, 0.3, 0.2]))
    learner = torch.distributions.Categorical(probs=torch.tensor([0.3, 0.4, 0.3]))
    torch.manual_seed(0)
    drawn = sampler.sample(torch.Size([1, 200_000]))
    mask = torch.ones_like(drawn, dtype=torch.bool)
    weights = mismatch.importance_weights(learner.log_prob(drawn), sampler.log_prob(drawn), mask)
    for token, probability in enumerate([0.3, 0.4, 0.3]):
        assert (weights * (drawn == token)).mean().item() == pytest.approx(probability, abs=5e-3)
    far = mismatch.importance_weights(
        torch.tensor([[0.0, -9.0]]), torch.tensor([[-5.0, -1.0]]), torch.tensor([[True, True]])
    )
    assert far[0].tolist() == pytest.approx([2.0, math.exp(-8)])
