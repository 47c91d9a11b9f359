"""Rewards of tokens, GAE, leave-one-out and whitening against loops, and the KL controller against the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.rollout.advantage import (
    KlController,
    RunningMoments,
    generalised_advantages,
    group_advantages,
    scaled_by_reply,
    token_rewards,
    whitened,
)

LENGTHS = [4, 1, 6]


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    mask_BA = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
    return torch.randn(3, 6), torch.randn(3, 6), mask_BA


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0)])
def test_advantages_equal_the_sum_over_later_tokens(gamma: float, lam: float) -> None:
    rewards, values, mask = example()
    ours = generalised_advantages(rewards, values, mask, gamma=gamma, lam=lam)
    for row, length in enumerate(LENGTHS):
        value = [*values[row, :length].tolist(), 0.0]
        deltas = [rewards[row, t].item() + gamma * value[t + 1] - value[t] for t in range(length)]
        expected = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]
        assert ours[row, :length].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert ours[row, length:].abs().sum() == 0


def test_padding_does_not_count() -> None:
    rewards, values, mask = example()
    other = generalised_advantages(rewards.where(mask, 9.0), values.where(mask, -7.0), mask, gamma=1.0, lam=0.95)
    assert torch.equal(other, generalised_advantages(rewards, values, mask, gamma=1.0, lam=0.95))


def test_lambda_1_without_a_critic_gives_the_sum_of_later_rewards() -> None:
    rewards, _, mask = example()
    ours = generalised_advantages(rewards, torch.zeros(3, 6), mask, gamma=1.0, lam=1.0)
    assert ours[2].tolist() == pytest.approx(rewards[2].flip(0).cumsum(0).flip(0).tolist(), abs=1e-5)


def test_a_reply_is_compared_with_the_mean_of_the_others_of_its_group() -> None:
    mask = torch.arange(3) < torch.tensor([3, 1, 2, 2])[:, None]
    ours = group_advantages(torch.tensor([1.0, 4.0, 0.0, 0.5]), mask, group_size=2)
    assert ours.tolist() == [[-3.0] * 3, [3.0, 0, 0], [-0.5, -0.5, 0], [0.5, 0.5, 0]]
    (three,) = group_advantages(torch.tensor([1.0, 4.0, 0.0]), mask[:3, :1], group_size=3).T.tolist()
    assert three == pytest.approx([1 - 4 / 2, 4 - 1 / 2, 0 - 5 / 2])


@pytest.mark.parametrize("size", [1, 3])
def test_groups_are_whole_and_of_more_than_one_reply(size: int) -> None:
    with pytest.raises(ValueError, match=f"4 rewards in groups of {size}; expected whole groups of 2 or more"):
        group_advantages(torch.zeros(4), torch.ones(4, 2, dtype=torch.bool), group_size=size)


def test_rewards_of_tokens() -> None:
    _, kl, mask = example()
    ours = token_rewards(torch.tensor([1.0, -2.0, 0.5]), kl, mask, coefficient=0.1)
    for row, (length, score) in enumerate(zip(LENGTHS, (1.0, -2.0, 0.5), strict=True)):
        expected = [-0.1 * kl[row, t].item() + (score if t == length - 1 else 0.0) for t in range(length)]
        assert ours[row, :length].tolist() == pytest.approx(expected, abs=1e-6)
        assert ours[row, length:].abs().sum() == 0


def test_whitening_is_over_all_tokens_of_the_batch() -> None:
    values, _, mask = example()
    ours = whitened(values, mask)
    kept = values[mask].double().numpy()
    assert ours[mask].tolist() == pytest.approx(((kept - kept.mean()) / kept.std()).tolist(), abs=1e-5)
    assert ours[~mask].abs().sum() == 0
    assert whitened(torch.ones(3, 6), mask).abs().max() == 0


def test_a_fixed_coefficient_stays() -> None:
    assert KlController().next(0.05, 100.0) == 0.05


def test_an_adaptive_coefficient_moves_by_at_most_a_fiftieth() -> None:
    control = KlController(target=5.0)
    assert control.next(0.1, 5.0) == pytest.approx(0.1)
    assert control.next(0.1, 5.5) == pytest.approx(0.1 * 1.01)
    assert control.next(0.1, 50.0) == pytest.approx(0.1 * 1.02)
    assert control.next(0.1, 0.0) == pytest.approx(0.1 * 0.98)


def test_an_adaptive_coefficient_reaches_its_target() -> None:
    coefficient, control = 0.01, KlController(target=6.0)
    for _ in range(600):
        coefficient = control.next(coefficient, 1.2 / coefficient)  # the dearer a nat, the less of them
    assert 1.2 / coefficient == pytest.approx(6.0, rel=0.05) and np.isfinite(coefficient)


def test_scaling_by_replies_does_not_favour_length_and_ignores_the_scale_of_rewards() -> None:
    """Every token of a reply has the reply's advantage ÷ the standard deviation over replies, by numpy."""
    lengths, advantages = [2, 30, 5, 1], np.array([1.0, -0.5, 0.25, -2.0])
    mask = torch.arange(30) < torch.tensor(lengths)[:, None]
    values = torch.where(mask, torch.tensor(advantages, dtype=torch.float32)[:, None], 0.0)
    for scale in (1.0, 100.0):
        ours = scaled_by_reply(values * scale, mask)
        for reply, expected in enumerate(advantages / advantages.std()):
            assert ours[reply, : lengths[reply]].tolist() == pytest.approx([expected] * lengths[reply], rel=1e-5)
        assert not ours[~mask].any()
    assert scaled_by_reply(torch.zeros(4, 30), mask).abs().max() == 0


def test_moments_of_batches_are_those_of_all_values_together() -> None:
    batches = [np.random.default_rng(seed).normal(3.0, 2.0, size).tolist() for seed, size in enumerate((1, 7, 64, 3))]
    moments, seen = RunningMoments(), []
    for batch in batches:
        seen += batch
        moments = moments.with_values(batch)
        spread = np.std(seen, ddof=1) if len(seen) > 1 else 1.0
        assert moments.standardised(batch) == pytest.approx((np.array(batch) - np.mean(seen)) / spread, abs=1e-9)
    assert RunningMoments().with_values([5.0, 5.0]).standardised([5.0, 6.0]) == [0.0, 1.0]  # no spread
