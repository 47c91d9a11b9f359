"""Policy and critic against transformers on one row at a time, and their losses against loops."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from pipelines.learning import adapters
from pipelines.learning import model as models
from pipelines.learning.actor_critic import (
    HiddenBatch,
    Policy,
    PolicyBatch,
    Sequences,
    ValueHead,
    ValueModel,
    logprobs,
    new_critic,
    pad_right,
    scores_at,
)
from pipelines.learning.dealing import cut_evenly
from pipelines.learning.engine import Engine, OptimizerPlan, partitioned
from pipelines.learning.saving import save_proven
from pipelines.rollout.advantage import group_advantages
from tests import tiny_models
from tests.learning.processes import in_processes
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


def policy_batch(seed: int) -> PolicyBatch:
    random = np.random.default_rng(seed)
    return PolicyBatch.pack(
        PROMPTS,
        REPLIES,
        old_logprobs_N=[random.normal(-5, 1, len(reply)).astype(np.float32) for reply in REPLIES],
        advantages_N=[random.normal(size=len(reply)).astype(np.float32) for reply in REPLIES],
    )


def test_log_probabilities_of_replies_equal_transformers(tiny: Tiny) -> None:
    ours = logprobs(models.from_folder(tiny.first), Sequences.pack(PROMPTS, REPLIES), 1.0)
    rows = [[*prompt, *reply] for prompt, reply in zip(PROMPTS, REPLIES, strict=True)]
    of_rows = tiny_models.reference_logprobs(tiny.first, rows)
    expected = np.concatenate([row[-len(reply) :] for row, reply in zip(of_rows, REPLIES, strict=True)])
    assert ours.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_temperature_divides_the_logits(tiny: Tiny) -> None:
    ours = logprobs(models.from_folder(tiny.first), Sequences.pack(PROMPTS[:1], REPLIES[:1]), 0.5)
    logits = torch.tensor(tiny_models.reference_logits(tiny.first, [7, 8, 9, 21]))
    expected = [(logits[position] / 0.5).log_softmax(-1)[token] for position, token in ((2, 21), (3, 22))]
    assert ours.tolist() == pytest.approx([value.item() for value in expected], abs=1e-4)


def test_scores_equal_transformers_at_the_last_token(tmp_path: Path) -> None:
    folder = reward_model(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    rows = [[*prompt, *reply] for prompt, reply in zip(PROMPTS, REPLIES, strict=True)]
    with torch.no_grad():
        expected = [theirs(torch.tensor([row])).logits.item() for row in rows]
    width = max(map(len, rows))
    last = torch.tensor([number * width + len(row) - 1 for number, row in enumerate(rows)])
    ours = scores_at(new_critic(folder), pad_right(rows), last)
    assert ours.tolist() == pytest.approx(expected, abs=1e-4)


def test_rows_are_padded_on_the_right_with_zeros() -> None:
    assert pad_right([[1, 2, 3], [4], []]).tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0]]


def test_a_critic_from_a_policy_begins_at_0_with_its_body(tiny: Tiny) -> None:
    critic = ValueModel(new_critic(tiny.first), value_clip=0.2)
    assert critic.values(Sequences.pack(PROMPTS, REPLIES)).abs().max() == 0
    body = dict(models.from_folder(tiny.first).named_parameters())
    weights = dict(critic.model.named_parameters())
    assert weights.keys() == body.keys() | {"score.weight"}
    assert all(torch.equal(weights[name], body[name]) for name in body)


def test_no_rows_add_nothing_to_the_loss(tiny: Tiny) -> None:
    empty = PolicyBatch.pack([], [], old_logprobs_N=[], advantages_N=[])
    assert empty.num_labels == 0
    policy = Policy(models.from_folder(tiny.first), temperature=1.0, clip=0.2, entropy_bonus=0.1)
    loss = policy(empty)
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or p.grad.abs().max() == 0 for p in policy.parameters())


def by_transformers(model: Any, batch: PolicyBatch) -> torch.Tensor:
    """PPO's clipped loss less the entropy bonus (Schulman et al. 2017, equations 7 and 9), from the model's logits of
    one row at a time."""
    total = torch.zeros(())
    old, advantages = (
        iter(column.split([len(r) for r in REPLIES])) for column in (batch.old_logprobs_N, batch.advantages_N)
    )
    for prompt, reply in zip(PROMPTS, REPLIES, strict=True):
        row = torch.tensor([prompt + reply])
        logprobs = (model(input_ids=row).logits[0, len(prompt) - 1 : -1] / TEMPERATURE).log_softmax(-1)
        ratio = (logprobs[torch.arange(len(reply)), torch.tensor(reply)] - next(old)).exp()
        advantage = next(advantages)
        clipped = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        total = total - (clipped + ENTROPY * entropy).sum()
    return total


TEMPERATURE, CLIP, ENTROPY = 0.7, 0.2, 0.05


def test_the_policys_loss_and_every_gradient_equal_those_from_transformers_logits(tiny: Tiny) -> None:
    ours, theirs = models.from_folder(tiny.first), AutoModelForCausalLM.from_pretrained(tiny.first)
    batch = policy_batch(3)
    near = {"old_logprobs_N": by_rows(theirs) + 0.3 * torch.randn(8, generator=torch.Generator().manual_seed(1))}
    batch = replace(batch, **near)  # so that some ratios are clipped and some are not
    policy = Policy(ours, temperature=TEMPERATURE, clip=CLIP, entropy_bonus=ENTROPY)
    loss, expected = policy(batch), by_transformers(theirs, batch)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    assert 0 < policy.pop_sums()["clipped"] < 8
    for (name, here), there in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert here.grad is not None and there.grad is not None
        assert (here.grad - there.grad).norm() <= 1e-4 * there.grad.norm(), name


def by_rows(model: Any) -> torch.Tensor:
    """The replies' log-probabilities at TEMPERATURE, one row at a time. float32 [N]."""
    parts = []
    for prompt, reply in zip(PROMPTS, REPLIES, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
        parts.append((logits / TEMPERATURE).log_softmax(-1)[torch.arange(len(reply)), torch.tensor(reply)])
    return torch.cat(parts)


PLAN = OptimizerPlan("adamw", learning_rate=1e-3, adam_learning_rate=1e-3, weight_decay=0.0, clip_norm=0.5)


def one_step(folder: Path, model: Path, micro_batches: int, zero_stage: int) -> None:
    """An optimiser step of a policy without a critic (`advantage: group`) on this rank's rows, in so many
    micro-batches; rank 0 exports the weights as PPO does."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    with partitioned(zero_stage, torch.float32):
        initial = models.from_folder(model)
    policy = Policy(initial, temperature=TEMPERATURE, clip=CLIP, entropy_bonus=ENTROPY).eval()
    engine = Engine(policy, [], PLAN, zero_stage=zero_stage)
    random = np.random.default_rng(3)
    mask_BA = pad_right([[1] * len(reply) for reply in REPLIES]).bool()
    advantages_BA = group_advantages(torch.tensor([4.0, -2.0, 8.0]), mask_BA, group_size=3)
    rows = [
        (prompt, reply, random.normal(-5, 1, len(reply)).astype(np.float32), advantages_A[: len(reply)].numpy())
        for prompt, reply, advantages_A in zip(PROMPTS, REPLIES, advantages_BA, strict=True)
    ]
    pieces = cut_evenly(rows[rank::world], micro_batches)
    for number, piece in enumerate(pieces, 1):
        columns = list(zip(*piece, strict=True)) or [(), (), (), ()]
        batch = PolicyBatch.pack(columns[0], columns[1], old_logprobs_N=columns[2], advantages_N=columns[3])
        engine.backward(batch, scale=world / sum(map(len, REPLIES)), last=number == len(pieces))
    out = folder / f"{world}-{micro_batches}-{zero_stage}"
    out.mkdir(exist_ok=True)
    norm = engine.step(1.0)
    weights = ((name.removeprefix("model."), weight) for name, weight in engine.each_weight())
    if rank == 0:
        save_proven(initial, weights, out)
        (out / "norm.json").write_text(json.dumps(norm))
    for _ in weights:  # the other rank takes part in gathering each
        continue


def steps(folder: Path, model: Path, *settings: tuple[int, int]) -> None:
    for micro_batches, zero_stage in settings:
        one_step(folder, model, micro_batches, zero_stage)


def test_a_step_is_the_same_on_any_number_of_ranks_and_micro_batches_and_at_any_zero_stage(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Of three replies a rank has two and another one; with three micro-batches some are empty."""
    in_processes(steps, 1, tmp_path, tiny.first, (1, 1))
    in_processes(steps, 2, tmp_path, tiny.first, (1, 1), (3, 1), (3, 3))
    names = ("1-1-1", "2-1-1", "2-3-1", "2-3-3")
    whole, *others = (load_file(tmp_path / name / "model.safetensors") for name in names)
    norm, *norms = (json.loads((tmp_path / name / "norm.json").read_text()) for name in names)
    start = load_file(tiny.first / "model.safetensors")
    assert norms == pytest.approx([norm] * 3, rel=1e-4) and norm > PLAN.clip_norm
    for other in others:
        assert other.keys() == whole.keys() == start.keys()
        for name, weight in whole.items():
            distance = (weight - start[name]).norm()
            assert distance > 0 and (other[name] - weight).norm() < 2e-3 * distance, name


def test_sums_are_returned_once(tiny: Tiny) -> None:
    policy = Policy(models.from_folder(tiny.first), temperature=1.0, clip=0.2, entropy_bonus=0.0)
    losses = [policy(policy_batch(seed)).item() for seed in (1, 2)]
    sums = policy.pop_sums()
    assert sums["policy_loss"] == pytest.approx(sum(losses), rel=1e-5)
    assert sums["entropy_nats"] > 0 and 0 <= sums["clipped"] <= 16
    assert policy.pop_sums() == {}


def test_a_head_begins_with_its_score_and_learns_more_than_a_linear_function() -> None:
    torch.manual_seed(3)
    hidden_NH, score_1H = torch.randn(400, 6), torch.randn(1, 6)
    head = ValueHead(score_1H, value_clip=0.0)
    assert torch.allclose(head.values(hidden_NH), (hidden_NH @ score_1H.T).squeeze(1), atol=1e-6)
    target_N = hidden_NH[:, 0] * hidden_NH[:, 1]  # no linear function
    batch = HiddenBatch(hidden_NH, head.values(hidden_NH).detach(), target_N)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.03)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        (head(batch) / batch.num_labels).backward()
        optimizer.step()
        losses.append(head.pop_sums()["value_loss"] / batch.num_labels)
    assert losses[-1] < 0.05 * 0.5 * target_N.square().mean()
    linear = torch.linalg.lstsq(hidden_NH, target_N[:, None]).solution
    assert losses[-1] < 0.1 * 0.5 * (hidden_NH @ linear - target_N[:, None]).square().mean()


def test_a_heads_values_and_its_loss_equal_a_loop() -> None:
    torch.manual_seed(4)
    head = ValueHead(torch.randn(1, 3), value_clip=0.2)
    with torch.no_grad():
        head.out.normal_()
    hidden_NH, old_N, returns_N = torch.randn(5, 3), torch.randn(5), torch.randn(5)
    inner, out, score = (weight.detach().double().numpy() for weight in (head.inner, head.out[0], head.score[0]))
    total = 0.0
    columns = hidden_NH.double().numpy(), old_N.tolist(), returns_N.tolist(), head.values(hidden_NH).tolist()
    for h, old, target, ours in zip(*columns, strict=True):
        units = [float(row @ h) for row in inner]
        value = float(score @ h) + sum(o * u / (1 + np.exp(-u)) for o, u in zip(out, units, strict=True))
        assert ours == pytest.approx(value, abs=1e-5)
        clipped = old + min(max(value - old, -0.2), 0.2)
        total += 0.5 * max((value - target) ** 2, (clipped - target) ** 2)
    assert head(HiddenBatch(hidden_NH, old_N, returns_N)).item() == pytest.approx(total, rel=1e-5)
    assert head(HiddenBatch(torch.zeros(0, 3), *torch.zeros(2, 0))).item() == 0


def test_a_policy_with_lora_learns_what_pefts_layers_make_it_learn(tiny: Tiny) -> None:
    """The fused layers of sft, in PPO's loss; and with the adapters off, the base, which is PPO's reference."""

    def learnt(fuse: bool) -> tuple[Any, Policy, dict[str, torch.Tensor]]:
        adapted: Any = adapters.attach(models.from_folder(tiny.first), adapters.Lora(4, 12.0, 0.0), seed=3)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
        model: Any = (adapters.fused(adapted) if fuse else adapted).get_base_model()
        policy = Policy(model, temperature=0.7, clip=0.2, entropy_bonus=0.1).eval()
        policy(policy_batch(1)).backward()
        return adapted, policy, {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}

    (adapted, policy, gradients), (_, _, expected) = learnt(True), learnt(False)
    assert len(expected) > 0 and gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)
    batch = Sequences.pack(PROMPTS, REPLIES)
    with adapted.disable_adapter():
        reference = logprobs(policy.model, batch, 0.7)
    assert torch.equal(reference, logprobs(models.from_folder(tiny.first), batch, 0.7))
    assert not torch.allclose(reference, logprobs(policy.model, batch, 0.7), atol=1e-3)
