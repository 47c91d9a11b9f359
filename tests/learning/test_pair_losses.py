"""Losses of pairs against TRL's trainers and loops written by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification, PreTrainedModel
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from pipelines.learning.model import from_folder, last_hidden
from pipelines.learning.pair_losses import bradley_terry, dpo, implicit_rewards
from pipelines.learning.pairs import (
    DpoLearner,
    PairBatch,
    RewardLearner,
    new_reward_model,
    pack,
    reply_logprobs,
    rewards,
)
from tests.tiny_models import Tiny, rows

PROMPTS = (7, 3, 12, 5)  # tokens of each pair's prompt
REPLIES = ((4, 9), (6, 2), (1, 20), (8, 8))  # tokens of the chosen and the rejected reply


def pairs() -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen, rejected of each pair; no length divides another, and one of a batch is much the longest."""
    made = rows(12, 32, seed=5)
    return [
        (made[3 * n][:prompt], made[3 * n + 1][:chosen], made[3 * n + 2][:rejected])
        for n, (prompt, (chosen, rejected)) in enumerate(zip(PROMPTS, REPLIES, strict=True))
    ]


def batch() -> PairBatch:
    sequences = [p + c for p, c, _ in pairs()] + [p + r for p, _, r in pairs()]
    return pack([np.array(s) for s in sequences], [len(p) for p, _, _ in pairs()] * 2, np.arange(len(pairs())))


def logprob(model: Any, prompt: list[int], reply: list[int]) -> Tensor:
    """Of a reply, one token at a time."""
    logprobs = model(torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
    return torch.stack([logprobs[len(prompt) - 1 + place, token] for place, token in enumerate(reply)]).sum()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def same_gradients(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None, name
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5 * max(scale, 1e-3), msg=name)


# ---- the functions ---------------------------------------------------------------------------------------------------


def test_losses_equal_a_loop() -> None:
    chosen, rejected, ref_chosen, ref_rejected = torch.randn(4, 9, dtype=torch.float64, generator=torch.manual_seed(0))
    expected = {"bradley_terry": 0.0, "dpo": 0.0, "smooth": 0.0}
    for c, r, rc, rr in zip(*(x.tolist() for x in (chosen, rejected, ref_chosen, ref_rejected)), strict=True):
        expected["bradley_terry"] += math.log(1 + math.exp(r - c))
        margin = 0.3 * ((c - rc) - (r - rr))
        expected["dpo"] += math.log(1 + math.exp(-margin))
        expected["smooth"] += 0.9 * math.log(1 + math.exp(-margin)) + 0.1 * math.log(1 + math.exp(margin))
    terms = (chosen, rejected, ref_chosen, ref_rejected)
    assert bradley_terry(chosen, rejected).item() == pytest.approx(expected["bradley_terry"], rel=1e-12)
    assert dpo(*terms, beta=0.3).item() == pytest.approx(expected["dpo"], rel=1e-12)
    assert dpo(*terms, beta=0.3, label_smoothing=0.1).item() == pytest.approx(expected["smooth"], rel=1e-12)
    close(implicit_rewards(chosen, ref_chosen, beta=0.3), (chosen - ref_chosen) * 0.3)


def test_losses_stay_finite_where_one_side_is_hopeless() -> None:
    far = torch.tensor([-1e4])
    assert bradley_terry(far, -far).item() == pytest.approx(2e4)
    assert dpo(far, -far, -far, far, beta=1.0).item() == pytest.approx(4e4)


# ---- on models, against TRL ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.from_list([{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in pairs()])


def test_reward_loss_and_gradient_equal_trl(tiny: Tiny, tmp_path: Path) -> None:
    ours = new_reward_model(tiny.first, seed=1, pad_id=0)
    assert isinstance(ours, LlamaForSequenceClassification)
    theirs = copy.deepcopy(ours)
    theirs.set_attn_implementation("sdpa")  # for padded rows
    whole = Dataset.from_list([{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in pairs()])
    config = RewardConfig(str(tmp_path), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
                          disable_dropout=False, per_device_train_batch_size=4, max_length=None)  # fmt: skip
    trainer = RewardTrainer(
        model=theirs, args=config, train_dataset=whole, processing_class=AutoTokenizer.from_pretrained(tiny.first)
    )
    expected = cast(Tensor, trainer.compute_loss(theirs, trainer.data_collator(cast(Any, list(whole)))))
    expected.backward()
    loss = RewardLearner(ours, every_token=False)(batch()) / 4
    loss.backward()
    close(loss, expected)
    same_gradients(ours, theirs)


def dpo_learner(policy: PreTrainedModel, reference_N2: Tensor, *, beta: float, label_smoothing: float) -> DpoLearner:
    learner = DpoLearner(policy, beta=beta, label_smoothing=label_smoothing)
    learner.reference_N2 = reference_N2
    return learner


def test_dpo_loss_and_gradient_equal_trl(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    policy, reference = from_folder(tiny.second), from_folder(tiny.first)
    theirs = copy.deepcopy(policy)
    theirs.set_attn_implementation("sdpa")  # for padded rows
    config = DPOConfig(str(tmp_path), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
                       disable_dropout=False, per_device_train_batch_size=4, max_length=None, beta=0.25)  # fmt: skip
    texts = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])  # the training data comes below
    trainer = DPOTrainer(
        model=theirs, ref_model=AutoModelForCausalLM.from_pretrained(tiny.first), args=config, train_dataset=texts,
        processing_class=AutoTokenizer.from_pretrained(tiny.first),
    )  # fmt: skip
    expected = cast(Tensor, trainer.compute_loss(theirs, trainer.data_collator(cast(Any, list(dataset)))))
    expected.backward()
    with torch.no_grad():
        reference_N2 = reply_logprobs(reference, batch()).view(2, -1).T
    loss = dpo_learner(policy, reference_N2, beta=0.25, label_smoothing=0.0)(batch()) / 4
    loss.backward()
    close(loss, expected)
    same_gradients(policy, theirs)


def test_every_token_from_the_first_that_differs_is_compared(tiny: Tiny) -> None:
    """As DeepSpeed-Chat does it, in a loop: a side that is over is compared by its last token."""
    model = new_reward_model(tiny.first, seed=1, pad_id=0)
    prompt, same = [5, 6, 7], [20, 21]
    sides = [([30, 31, 32, 4], [33, 4]), ([40, 4], [41, 42, 43, 4])]
    whole = [([*prompt, *same, *chosen], [*prompt, *same, *rejected]) for chosen, rejected in sides]
    expected = torch.zeros(())
    for chosen, rejected in whole:
        scores = [
            (last_hidden(model, torch.tensor([side]))[0] @ model.get_parameter("score.weight").T)[:, 0]
            for side in (chosen, rejected)
        ]
        places = range(len(prompt + same), max(len(chosen), len(rejected)))
        losses = [
            -F.logsigmoid(scores[0][min(t, len(chosen) - 1)] - scores[1][min(t, len(rejected) - 1)]) for t in places
        ]
        expected = expected + torch.stack(losses).mean()
    packed = pack([np.array(side) for side in (*(c for c, _ in whole), *(r for _, r in whole))], [3] * 4, np.arange(2))
    close(RewardLearner(model, every_token=True)(packed), expected)


# ---- packing ---------------------------------------------------------------------------------------------------------


def test_packed_sequences_know_nothing_of_each_other(tiny: Tiny) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.first, dtype=torch.float32)
    expected = [logprob(model, p, c) for p, c, _ in pairs()] + [logprob(model, p, r) for p, _, r in pairs()]
    with torch.no_grad():
        close(reply_logprobs(from_folder(tiny.first), batch()), torch.stack(expected))
        scorer = new_reward_model(tiny.first, seed=1, pad_id=0)
        alone = [p + c for p, c, _ in pairs()] + [p + r for p, _, r in pairs()]
        close(rewards(scorer, batch()), torch.stack([scorer(torch.tensor([s])).logits[0, 0] for s in alone]))


def test_rows_are_as_long_as_the_longest_sequence_and_hold_several() -> None:
    packed = batch()
    lengths = [p + c for p, (c, _) in zip(PROMPTS, REPLIES, strict=True)]
    lengths += [p + r for p, (_, r) in zip(PROMPTS, REPLIES, strict=True)]
    assert packed.tokens_BT.shape == (math.ceil(sum(lengths) / 32), 32)  # as few rows as could be
    assert packed.num_labels == 4
    assert len(packed.reply_tokens_N) == sum(map(sum, REPLIES))


def test_an_empty_batch_has_no_loss_and_still_reaches_every_weight(tiny: Tiny) -> None:
    no_pairs = pack([], [], np.zeros(0, np.int64))
    scorers = [new_reward_model(tiny.first, seed=1, pad_id=0) for _ in range(2)]
    learners = [
        RewardLearner(scorers[0], every_token=True),
        RewardLearner(scorers[1], every_token=False),
        dpo_learner(from_folder(tiny.first), torch.zeros(0, 2), beta=0.1, label_smoothing=0.1),
    ]
    for learner in learners:
        loss = learner(no_pairs)
        loss.backward()
        assert loss.item() == 0
        assert all(p.grad is not None and not p.grad.any() for p in learner.parameters())
