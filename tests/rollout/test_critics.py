"""The critic with a frozen body: its values, what it keeps and learns, on one rank or several."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from pipelines.inference.reply import Reply
from pipelines.learning import model as models
from pipelines.learning.actor_critic import Sequences, hidden_at, new_critic
from pipelines.rollout.advantage import generalised_advantages, whitened
from pipelines.rollout.critics import HeadCritic, ReferencePass
from pipelines.rollout.experience import Annotation, Experience, Rollout, Step, optimizer_steps, rank_range
from tests.learning.test_actor_critic import reward_model
from tests.tiny_models import Tiny

PROMPTS = [[7, 8, 9], [5, 6], [11] * 20, [3], [30, 31]]
REPLIES = [[21, 22], [30], [40, 41, 42, 43, 44], [9] * 7, [12, 13, 14]]


class WholeEngine:
    """An engine whose learner is whole."""

    def evaluate(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        with torch.no_grad():
            return function(*args)


def annotate(critic: HeadCritic, reference: Any, numbers: range, micro_batch_rows: int = 2) -> list[np.ndarray]:
    """A rank's values of its rollouts, annotated a few at a time, the last first."""
    values: list[np.ndarray] = [np.zeros(0)] * len(numbers)
    order = list(range(len(numbers)))[::-1]
    for indices in (order[start : start + micro_batch_rows] for start in range(0, len(order), micro_batch_rows)):
        batch = Sequences.pack([PROMPTS[numbers[i]] for i in indices], [REPLIES[numbers[i]] for i in indices])
        lengths = [len(REPLIES[numbers[i]]) for i in indices]
        with torch.no_grad():
            hidden = hidden_at(reference, batch)
        reference_pass = ReferencePass(indices, lengths, batch, hidden)
        values_N = critic.values(WholeEngine(), reference_pass)  # pyright: ignore[reportArgumentType]
        for index, of_reply in zip(indices, values_N.split(lengths), strict=True):
            values[index] = of_reply.numpy()
    return values


def steps(values: list[np.ndarray], world: int) -> list[list[Step]]:
    rollouts = [
        Rollout(prompt, Reply(reply, np.full(len(reply), -1.0, np.float32), "stop"))
        for prompt, reply in zip(PROMPTS, REPLIES, strict=True)
    ]
    annotations = [Annotation(rollout.reply.logprobs, v) for rollout, v in zip(rollouts, values, strict=True)]
    experience = Experience.pack(rollouts, annotations)
    rewards = experience.token_rewards([1.0, -1, 0, 2, 1], kl_coefficient=0.1)
    advantages = generalised_advantages(
        rewards, experience.values_BA, experience.action_mask_BA, gamma=1.0, lam=0.9
    )  # fmt: skip
    return optimizer_steps(
        experience.rows(advantages, normalise=whitened), seed=1, iteration=0, epochs=1, minibatches=2, world=world
    )


def test_a_head_on_the_reward_model_begins_with_its_score_at_every_token(tiny: Tiny, tmp_path: Path) -> None:
    body, reference = new_critic(reward_model(tmp_path)), models.from_folder(tiny.first)
    critic = HeadCritic(models.score_head(body).weight.detach(), partial(hidden_at, body), value_clip=0.0)
    theirs = AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    for number, values in enumerate(annotate(critic, reference, range(5))):
        row = torch.tensor([[*PROMPTS[number], *REPLIES[number]]])
        with torch.no_grad():
            scores = theirs(row).last_hidden_state[0] @ models.score_head(body).weight.T
        assert values == pytest.approx(scores[len(PROMPTS[number]) - 1 : -1, 0].numpy(), abs=1e-4)


def test_what_a_head_learns_does_not_depend_on_the_number_of_ranks(tiny: Tiny) -> None:
    reference = models.from_folder(tiny.first)
    gradients = []
    for world in (1, 2):
        ranks = [HeadCritic(torch.zeros(1, reference.config.hidden_size), None, value_clip=0.2) for _ in range(world)]
        values = [
            of_reply
            for rank, critic in enumerate(ranks)
            for of_reply in annotate(critic, reference, rank_range(5, rank, world))
        ]
        assert all(not of_reply.any() for of_reply in values)
        of_steps = []
        for number in range(2):
            total = torch.zeros(1, reference.config.hidden_size)
            for critic, rank_steps in zip(ranks, steps(values, world), strict=True):
                batches = critic.micro_batches(rank_steps[number], micro_batch_rows=1)
                assert len(batches) == rank_steps[number].max_value_rows  # as many on every rank, some of them empty
                for batch in batches:
                    loss = critic.module(batch)
                    (gradient,) = torch.autograd.grad(loss, [critic.module.get_parameter("score")])
                    total += gradient
            of_steps.append(total)
        gradients.append(torch.stack(of_steps))
    assert gradients[0].abs().max() > 0.1
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)
