"""Policy and critic against transformers on one row at a time, and the gradient however a batch is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from pipelines.learning import model as models
from pipelines.learning.actor_critic import (
    Critic,
    ExperienceBatch,
    HiddenBatch,
    Policy,
    Sequences,
    ValueHead,
    logprobs,
    new_critic,
    scores_at,
)
from tests import tiny_models
from tests.tiny_models import VOCABULARY, Tiny

PROMPTS = [[7, 8, 9], [5, 6], [11] * 20]
REPLIES = [[21, 22], [30], [40, 41, 42, 43, 44]]


def reward_model(folder: Path) -> Path:
    """A tiny reward model with random weights."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=tiny_models.CONTEXT, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def batch(seed: int = 0) -> ExperienceBatch:
    sequences = Sequences.pack(PROMPTS, REPLIES)
    torch.manual_seed(seed)
    columns = [*torch.randn(4, len(sequences.actions_N))]
    columns[0] -= 5
    return ExperienceBatch.of(PROMPTS, REPLIES, [column.numpy() for column in columns])


def test_log_probabilities_of_replies_equal_transformers(tiny: Tiny) -> None:
    found = logprobs(models.from_folder(tiny.first), Sequences.pack(PROMPTS, REPLIES), 1.0, torch.float32)
    rows = [[*prompt, *reply] for prompt, reply in zip(PROMPTS, REPLIES, strict=True)]
    whole = tiny_models.reference_logprobs(tiny.first, rows)
    expected = np.concatenate([own[-len(reply) :] for own, reply in zip(whole, REPLIES, strict=True)])
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_temperature_divides_the_logits(tiny: Tiny) -> None:
    found = logprobs(models.from_folder(tiny.first), Sequences.pack(PROMPTS[:1], REPLIES[:1]), 0.5, torch.float32)
    logits = torch.tensor(tiny_models.reference_logits(tiny.first, [7, 8, 9, 21]))
    expected = [(logits[place] / 0.5).log_softmax(-1)[token] for place, token in ((2, 21), (3, 22))]
    assert found.tolist() == pytest.approx([value.item() for value in expected], abs=1e-4)


def test_scores_equal_transformers_at_the_last_token(tmp_path: Path) -> None:
    folder = reward_model(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    rows = [[*prompt, *reply] for prompt, reply in zip(PROMPTS, REPLIES, strict=True)]
    with torch.no_grad():
        expected = [theirs(torch.tensor([row])).logits.item() for row in rows]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    last = torch.tensor([number * width + len(row) - 1 for number, row in enumerate(rows)])
    assert scores_at(new_critic(folder), tokens, last, torch.float32).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_critic_from_a_policy_begins_at_0_with_its_body(tiny: Tiny) -> None:
    critic = Critic(new_critic(tiny.first), torch.float32, value_clip=0.2)
    assert critic.values(batch()).abs().max() == 0
    body = dict(models.from_folder(tiny.first).named_parameters())
    own = dict(critic.model.named_parameters())
    assert own.keys() == body.keys() | {"score.weight"}
    assert all(torch.equal(own[name], body[name]) for name in body)


def test_no_rows_add_nothing_to_the_loss(tiny: Tiny) -> None:
    nothing = ExperienceBatch(*vars(Sequences.pack([], [])).values(), *[torch.zeros(0)] * 4)
    assert nothing.num_labels == 0
    policy = Policy(models.from_folder(tiny.first), torch.float32, temperature=1.0, clip=0.2, entropy_bonus=0.1)
    loss = policy(nothing)
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or p.grad.abs().max() == 0 for p in policy.parameters())


def test_what_is_counted_is_told_once(tiny: Tiny) -> None:
    policy = Policy(models.from_folder(tiny.first), torch.float32, temperature=1.0, clip=0.2, entropy_bonus=0.0)
    losses = [policy(batch(seed)).item() for seed in (1, 2)]
    told = policy.told()
    assert told["policy_loss"] == pytest.approx(sum(losses), rel=1e-5)
    assert told["entropy_nats"] > 0 and 0 <= told["clipped"] <= 16
    assert policy.told() == {}


def test_a_head_begins_as_the_score_it_is_given_and_learns_more_than_a_line() -> None:
    torch.manual_seed(3)
    hidden_NH, score_1H = torch.randn(400, 6), torch.randn(1, 6)
    made = ValueHead(score_1H, value_clip=0.0)
    assert torch.allclose(made.values(hidden_NH), (hidden_NH @ score_1H.T).squeeze(1), atol=1e-6)
    wanted_N = hidden_NH[:, 0] * hidden_NH[:, 1]  # no line says this
    batch = HiddenBatch(hidden_NH, made.values(hidden_NH).detach(), wanted_N)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.03)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        (made(batch) / batch.num_labels).backward()
        optimizer.step()
        losses.append(made.told()["value_loss"] / batch.num_labels)
    assert losses[-1] < 0.05 * 0.5 * wanted_N.square().mean()
    line = torch.linalg.lstsq(hidden_NH, wanted_N[:, None]).solution
    assert losses[-1] < 0.1 * 0.5 * (hidden_NH @ line - wanted_N[:, None]).square().mean()


def test_a_heads_values_equal_a_loop_and_its_loss_the_clipped_value_loss() -> None:
    torch.manual_seed(4)
    made = ValueHead(torch.randn(1, 3), value_clip=0.2)
    with torch.no_grad():
        made.out.normal_()
    hidden_NH, old_N, returns_N = torch.randn(5, 3), torch.randn(5), torch.randn(5)
    inner, out, score = (each.detach().double().numpy() for each in (made.inner, made.out[0], made.score[0]))
    total = 0.0
    columns = hidden_NH.double().numpy(), old_N, returns_N, made.values(hidden_NH)
    for h, old, wanted, found in zip(*columns, strict=True):
        units = [float(row @ h) for row in inner]
        value = float(score @ h) + sum(o * u / (1 + np.exp(-u)) for o, u in zip(out, units, strict=True))
        assert found.item() == pytest.approx(value, abs=1e-5)
        kept = float(old) + min(max(value - float(old), -0.2), 0.2)
        total += 0.5 * max((value - float(wanted)) ** 2, (kept - float(wanted)) ** 2)
    assert made(HiddenBatch(hidden_NH, old_N, returns_N)).item() == pytest.approx(total, rel=1e-5)
    nothing = made(HiddenBatch(torch.zeros(0, 3), *torch.zeros(2, 0)))
    assert nothing.item() == 0
