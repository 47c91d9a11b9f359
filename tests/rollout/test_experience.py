"""Experience: whole-batch advantages beside a loop, and how it is cut over steps and ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.rollout.experience import Annotation, Experience, Rollout, kl_nats, own_part


def example(count: int = 11) -> tuple[list[Rollout], list[float], list[Annotation]]:
    random = np.random.default_rng(4)
    rollouts, notes = [], []
    for number in range(count):
        length = int(random.integers(1, 9))
        draw = lambda n=length: random.normal(size=n).astype(np.float32)  # noqa: E731
        rollouts.append(Rollout(list(range(3 + number)), [number] * length, draw()))
        notes.append(Annotation(draw(), draw()))
    return rollouts, random.normal(size=count).tolist(), notes


def build(rollouts: list[Rollout], scores: list[float], notes: list[Annotation]) -> Experience:
    return Experience.build(rollouts, scores, notes, kl_coefficient=0.2, gamma=0.98, lam=0.9)


def test_rows_equal_a_loop() -> None:
    rollouts, scores, notes = example()
    experience = build(rollouts, scores, notes)
    raw = []
    for rollout, score, note, row in zip(rollouts, scores, notes, experience.rows, strict=True):
        rewards = [-0.2 * (p - q) for p, q in zip(rollout.logprobs, note.reference, strict=True)]
        rewards[-1] += score
        assert note.values is not None
        following, values = 0.0, [*note.values, 0.0]
        own = []
        for t in reversed(range(len(rewards))):
            following = rewards[t] + 0.98 * values[t + 1] - values[t] + 0.98 * 0.9 * following
            own.insert(0, following)
        raw.append(np.array(own))
        assert row.returns == pytest.approx(raw[-1] + note.values, abs=1e-5)
        assert np.array_equal(row.old_logprobs, rollout.logprobs) and row.values.tolist() == note.values.tolist()
    every = np.concatenate(raw)
    for row, own in zip(experience.rows, raw, strict=True):
        assert row.advantages == pytest.approx((own - every.mean()) / every.std(), abs=1e-4)


def test_kl_of_a_reply_is_summed_and_the_learners_own_log_probabilities_count_where_they_are_given() -> None:
    rollouts, scores, notes = example(3)
    assert kl_nats(rollouts, notes)[0] == pytest.approx((rollouts[0].logprobs - notes[0].reference).sum(), abs=1e-5)
    notes = [replace(note, old=note.reference + 1) for note in notes]
    experience = build(rollouts, scores, notes)
    assert experience.kl_nats == pytest.approx([len(rollout.reply) for rollout in rollouts], abs=1e-5)
    assert np.array_equal(experience.rows[0].old_logprobs, notes[0].reference + 1)


def test_without_a_critic_replies_to_a_prompt_are_measured_against_each_other() -> None:
    rollouts, scores, notes = example(12)
    notes = [replace(note, values=None) for note in notes]
    experience = Experience.build(rollouts, scores, notes, kl_coefficient=0.2, gamma=0.98, lam=0.9, group=4)
    rewards = [
        score - 0.2 * sum(p - q for p, q in zip(rollout.logprobs, note.reference, strict=True))
        for rollout, score, note in zip(rollouts, scores, notes, strict=True)
    ]
    raw = []
    for number, reward in enumerate(rewards):
        first = number // 4 * 4
        raw.append(reward - sum(rewards[n] for n in range(first, first + 4) if n != number) / 3)
    every = np.concatenate([[own] * len(rollout.reply) for own, rollout in zip(raw, rollouts, strict=True)])
    for row, own in zip(experience.rows, raw, strict=True):
        assert row.advantages == pytest.approx(np.full(len(row.reply), (own - every.mean()) / every.std()), abs=1e-4)


@pytest.mark.parametrize("minibatches", [1, 4, 7, 39, 40])
def test_minibatches_differ_by_at_most_one_reply(minibatches: int) -> None:
    experience = build(*example(40))
    steps = experience.steps(seed=7, iteration=3, epochs=1, minibatches=minibatches, world=1)[0]
    replies = [len(step.rows) for step in steps]
    assert sum(replies) == 40 and len(replies) == minibatches and max(replies) - min(replies) <= 1
    assert [sum(len(row.reply) for row in step.rows) for step in steps] == [step.tokens for step in steps]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_step_says_which_of_a_ranks_own_rollouts_it_has(world: int) -> None:
    experience = build(*example())
    ranks = experience.steps(seed=7, iteration=3, epochs=1, minibatches=3, world=world)
    parts = [range(*own_part(11, rank, world)) for rank in range(world)]
    assert [number for part in parts for number in part] == list(range(11))
    for together in zip(*ranks, strict=True):
        of_policy = sorted(row.reply[0] for step in together for row in step.rows)
        at_home = [(part[one.number], one) for part, step in zip(parts, together, strict=True) for one in step.home]
        assert sorted(number for number, _ in at_home) == of_policy  # example() names each by its reply
        assert {step.most_home for step in together} == {max(len(step.home) for step in together)}
        for number, one in at_home:
            row = experience.rows[number]
            assert np.array_equal(one.values, row.values) and np.array_equal(one.returns, row.returns)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_epoch_learns_each_row_once_whatever_the_number_of_ranks(world: int) -> None:
    experience = build(*example())
    ranks = experience.steps(seed=7, iteration=3, epochs=2, minibatches=3, world=world)
    alone = experience.steps(seed=7, iteration=3, epochs=2, minibatches=3, world=1)[0]
    assert len(ranks) == world and all(len(steps) == 6 for steps in ranks)
    for number, together in enumerate(zip(*ranks, strict=True)):
        names = [row.reply[0] for step in together for row in step.rows]
        assert sorted(names) == sorted(row.reply[0] for row in alone[number].rows)
        assert {step.tokens for step in together} == {alone[number].tokens}
        assert {step.most_rows for step in together} == {max(len(step.rows) for step in together)}
        assert max(len(s.rows) for s in together) - min(len(s.rows) for s in together) <= 1
    for epoch in (alone[:3], alone[3:]):
        assert sorted(row.reply[0] for step in epoch for row in step.rows) == list(range(11))


def test_the_order_is_a_function_of_seed_and_iteration() -> None:
    experience = build(*example())

    def order(seed: int, iteration: int) -> list[list[int]]:
        (steps,) = experience.steps(seed=seed, iteration=iteration, epochs=1, minibatches=4, world=1)
        return [[row.reply[0] for row in step.rows] for step in steps]

    assert order(1, 5) == order(1, 5)
    assert order(1, 5) != order(1, 6) and order(1, 5) != order(2, 5)
