"""Experience: whole-batch advantages against a loop, and how rows are cut over steps and ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from pipelines.inference.reply import Reply
from pipelines.rollout.advantage import generalised_advantages, group_advantages, scaled_by_reply, whitened
from pipelines.rollout.experience import Annotation, Experience, Rollout, Row, Step, optimizer_steps, rank_range


def example(count: int = 11) -> tuple[list[Rollout], list[float], list[Annotation]]:
    """Rollouts, scores and annotations; all tokens of a reply are its number."""
    random = np.random.default_rng(4)
    rollouts, annotations = [], []
    for number in range(count):
        length = int(random.integers(1, 9))
        logprobs, ref_logprobs, values = (random.normal(size=length).astype(np.float32) for _ in range(3))
        rollouts.append(Rollout(list(range(3 + number)), Reply([number] * length, logprobs, "stop")))
        annotations.append(Annotation(ref_logprobs, values))
    return rollouts, random.normal(size=count).tolist(), annotations


def gae(experience: Experience, scores: list[float]) -> Tensor:
    rewards = experience.token_rewards(scores, kl_coefficient=0.2)
    return generalised_advantages(rewards, experience.values_BA, experience.action_mask_BA, gamma=0.98, lam=0.9)


def rows(count: int = 11) -> list[Row]:
    rollouts, scores, annotations = example(count)
    experience = Experience.pack(rollouts, annotations)
    return experience.rows(gae(experience, scores), normalise=whitened)


def cut(
    rows: list[Row], *, world: int, epochs: int = 1, minibatches: int = 3, seed: int = 7, iteration: int = 3
) -> list[list[Step]]:
    return optimizer_steps(rows, seed=seed, iteration=iteration, epochs=epochs, minibatches=minibatches, world=world)


def test_rows_equal_a_loop() -> None:
    rollouts, scores, annotations = example()
    experience = Experience.pack(rollouts, annotations)
    made = experience.rows(gae(experience, scores), normalise=whitened)
    advantages = []
    for rollout, score, annotation, row in zip(rollouts, scores, annotations, made, strict=True):
        pairs = zip(rollout.reply.logprobs, annotation.ref_logprobs, strict=True)
        rewards = [-0.2 * (p - q) for p, q in pairs]
        rewards[-1] += score
        assert annotation.values is not None
        next_advantage, values = 0.0, [*annotation.values, 0.0]
        of_reply: list[float] = []
        for t in reversed(range(len(rewards))):
            next_advantage = rewards[t] + 0.98 * values[t + 1] - values[t] + 0.98 * 0.9 * next_advantage
            of_reply.insert(0, next_advantage)
        advantages.append(np.array(of_reply))
        assert row.returns == pytest.approx(advantages[-1] + annotation.values, abs=1e-5)
        assert (row.prompt, row.reply) == (rollout.prompt, rollout.reply.tokens)
        assert np.array_equal(row.old_logprobs, rollout.reply.logprobs)
        assert row.values.tolist() == annotation.values.tolist()
    of_tokens = np.concatenate(advantages)
    for row, of_reply in zip(made, advantages, strict=True):
        assert row.advantages == pytest.approx((of_reply - of_tokens.mean()) / of_tokens.std(), abs=1e-4)


def test_kl_of_a_reply_is_summed_and_the_learners_log_probabilities_replace_the_samplers() -> None:
    rollouts, scores, annotations = example(3)
    expected = (rollouts[0].reply.logprobs - annotations[0].ref_logprobs).sum()
    assert Experience.pack(rollouts, annotations).kl_nats_B[0].item() == pytest.approx(expected, abs=1e-5)
    annotations = [replace(note, old_logprobs=note.ref_logprobs + 1) for note in annotations]
    experience = Experience.pack(rollouts, annotations)
    assert experience.kl_nats_B.tolist() == pytest.approx([len(r.reply.tokens) for r in rollouts], abs=1e-5)
    gae_BA = gae(experience, scores)
    row = experience.rows(gae_BA, normalise=whitened)[0]
    assert np.array_equal(row.old_logprobs, annotations[0].ref_logprobs + 1)
    ratios = np.exp(row.old_logprobs - rollouts[0].reply.logprobs).clip(max=2)
    unweighted = whitened(gae_BA, experience.action_mask_BA)[0, : len(ratios)].numpy()
    assert row.advantages == pytest.approx(unweighted * ratios, rel=1e-5)
    gaps = [
        n.old_logprobs - r.reply.logprobs
        for n, r in zip(annotations, rollouts, strict=True)
        if n.old_logprobs is not None
    ]
    assert experience.mismatch()["mismatch/logprob_abs"] == pytest.approx(np.abs(np.concatenate(gaps)).mean(), rel=1e-5)


def test_without_a_critic_replies_to_a_prompt_are_compared_with_each_other() -> None:
    rollouts, scores, annotations = example(12)
    annotations = [replace(note, values=None) for note in annotations]
    experience = Experience.pack(rollouts, annotations)
    token_rewards = experience.token_rewards(scores, kl_coefficient=0.2)
    of_groups = group_advantages(token_rewards.sum(1), experience.action_mask_BA, group_size=4)
    made = experience.rows(of_groups, normalise=scaled_by_reply)
    rewards = [
        score - 0.2 * sum(p - q for p, q in zip(rollout.reply.logprobs, note.ref_logprobs, strict=True))
        for rollout, score, note in zip(rollouts, scores, annotations, strict=True)
    ]
    advantages = []
    for number, reward in enumerate(rewards):
        first = number // 4 * 4
        advantages.append(reward - sum(rewards[n] for n in range(first, first + 4) if n != number) / 3)
    for row, of_reply in zip(made, advantages, strict=True):
        expected = of_reply / np.std(advantages)  # over replies: a long one counts no more
        assert row.advantages == pytest.approx(np.full(len(row.reply), expected), abs=1e-4)


@pytest.mark.parametrize("minibatches", [1, 4, 7, 39, 40])
def test_minibatches_differ_by_at_most_one_reply(minibatches: int) -> None:
    steps = cut(rows(40), world=1, minibatches=minibatches)[0]
    replies = [len(step.rows) for step in steps]
    assert sum(replies) == 40 and len(replies) == minibatches and max(replies) - min(replies) <= 1
    assert [sum(len(row.reply) for row in step.rows) for step in steps] == [step.num_tokens for step in steps]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_value_rows_of_a_step_are_those_that_the_rank_annotated(world: int) -> None:
    made = rows()
    ranks = cut(made, world=world)
    ranges = [rank_range(11, rank, world) for rank in range(world)]
    assert [number for part in ranges for number in part] == list(range(11))
    for together in zip(*ranks, strict=True):
        of_policy = sorted(row.reply[0] for step in together for row in step.rows)
        of_critic = [(part[row.index], row) for part, step in zip(ranges, together, strict=True)
                     for row in step.value_rows]  # fmt: skip
        assert sorted(number for number, _ in of_critic) == of_policy  # example() fills each reply with its number
        assert {step.max_value_rows for step in together} == {max(len(step.value_rows) for step in together)}
        for number, row in of_critic:
            assert np.array_equal(row.values, made[number].values) and np.array_equal(row.returns, made[number].returns)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_epoch_has_each_row_once_whatever_the_number_of_ranks(world: int) -> None:
    made = rows()
    ranks = cut(made, world=world, epochs=2)
    alone = cut(made, world=1, epochs=2)[0]
    assert len(ranks) == world and all(len(steps) == 6 for steps in ranks)
    for number, together in enumerate(zip(*ranks, strict=True)):
        numbers = [row.reply[0] for step in together for row in step.rows]
        assert sorted(numbers) == sorted(row.reply[0] for row in alone[number].rows)
        assert {step.num_tokens for step in together} == {alone[number].num_tokens}
        assert {step.max_rows for step in together} == {max(len(step.rows) for step in together)}
        assert max(len(s.rows) for s in together) - min(len(s.rows) for s in together) <= 1
    for epoch in (alone[:3], alone[3:]):
        assert sorted(row.reply[0] for step in epoch for row in step.rows) == list(range(11))


def test_the_order_is_a_function_of_seed_and_iteration() -> None:
    made = rows()

    def order(seed: int, iteration: int) -> list[list[int]]:
        (steps,) = cut(made, world=1, minibatches=4, seed=seed, iteration=iteration)
        return [[row.reply[0] for row in step.rows] for step in steps]

    assert order(1, 5) == order(1, 5)
    assert order(1, 5) != order(1, 6) and order(1, 5) != order(2, 5)
