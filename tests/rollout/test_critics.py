"""Critics with a body of their own and without: what they are asked, keep and learn, on one rank or several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from pipelines.learning import model as models
from pipelines.learning.actor_critic import Sequences, hidden_at, new_critic
from pipelines.rollout.critics import FrozenBody
from pipelines.rollout.experience import Annotation, Experience, Rollout, Step, own_part
from tests.learning.test_actor_critic import reward_model
from tests.tiny_models import Tiny

PROMPTS = [[7, 8, 9], [5, 6], [11] * 20, [3], [30, 31]]
REPLIES = [[21, 22], [30], [40, 41, 42, 43, 44], [9] * 7, [12, 13, 14]]


class Asking:
    """An engine whose learner is whole."""

    def evaluate(self, function: Any, *args: Any) -> torch.Tensor:
        with torch.no_grad():
            return function(*args)


def annotated(critic: FrozenBody, reference: Any, numbers: range, rows: int = 2) -> list[np.ndarray]:
    """A rank's values of its rollouts, annotated a few at a time, the last first."""
    critic.begin(len(numbers))
    found: list[np.ndarray] = [np.zeros(0)] * len(numbers)
    order = list(range(len(numbers)))[::-1]
    for piece in (order[start : start + rows] for start in range(0, len(order), rows)):
        own = [numbers[place] for place in piece]
        batch = Sequences.pack([PROMPTS[n] for n in own], [REPLIES[n] for n in own])
        lengths = [len(REPLIES[n]) for n in own]
        with torch.no_grad():
            hidden = hidden_at(reference, batch, torch.float32)
        values = critic.values(Asking(), batch, hidden, piece, lengths)  # pyright: ignore[reportArgumentType]
        for place, each in zip(piece, values.split(lengths), strict=True):
            found[place] = each.numpy()
    return found


def steps(values: list[np.ndarray], world: int) -> list[list[Step]]:
    rollouts = [
        Rollout(prompt, reply, np.full(len(reply), -1.0, np.float32))
        for prompt, reply in zip(PROMPTS, REPLIES, strict=True)
    ]
    notes = [Annotation(rollout.logprobs, own) for rollout, own in zip(rollouts, values, strict=True)]
    made = Experience.build(rollouts, [1.0, -1, 0, 2, 1], notes, kl_coefficient=0.1, gamma=1.0, lam=0.9)
    return made.steps(seed=1, iteration=0, epochs=1, minibatches=2, world=world)


def test_a_head_on_the_reward_model_begins_with_its_score_at_every_token(tiny: Tiny, tmp_path: Any) -> None:
    body, reference = new_critic(reward_model(tmp_path)), models.from_folder(tiny.first)
    critic = FrozenBody(models.score_head(body).weight.detach(), body, torch.float32, value_clip=0.0)
    theirs = AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    for number, own in enumerate(annotated(critic, reference, range(5))):
        row = torch.tensor([[*PROMPTS[number], *REPLIES[number]]])
        with torch.no_grad():
            scores = theirs(row).last_hidden_state[0] @ models.score_head(body).weight.T
        assert own == pytest.approx(scores[len(PROMPTS[number]) - 1 : -1, 0].numpy(), abs=1e-4)


def test_what_a_head_learns_does_not_depend_on_how_many_ranks_keep_it(tiny: Tiny) -> None:
    reference = models.from_folder(tiny.first)
    gradients = []
    for world in (1, 2):
        ranks = [
            FrozenBody(torch.zeros(1, reference.config.hidden_size), None, torch.float32, value_clip=0.2)
            for _ in range(world)
        ]
        values = [
            own
            for rank, critic in enumerate(ranks)
            for own in annotated(critic, reference, range(*own_part(5, rank, world)))
        ]
        assert all(not own.any() for own in values)
        of_steps = []
        for number in range(2):
            total = 0.0
            for critic, own in zip(ranks, steps(values, world), strict=True):
                batches = critic.batches(own[number], [], micro_batch_rows=1)
                assert len(batches) == own[number].most_home  # as many on every rank, some of them empty
                for batch in batches:
                    loss = critic.module(batch)
                    (gradient,) = torch.autograd.grad(loss, [critic.module.get_parameter("score")])
                    total = total + gradient
            of_steps.append(total)
        gradients.append(torch.stack(of_steps))
    assert gradients[0].abs().max() > 0.1
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)
