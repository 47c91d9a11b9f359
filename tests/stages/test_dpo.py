"""The stage `dpo`: a complete run, and refused inputs.

Of one worker: test_pairs.py trains by DPO, and scores pairs before and after, on two."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cluster.session import Session
from pipelines.data.dialogues import preferences
from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from pipelines.inference import probe
from pipelines.stage import Facts
from pipelines.stages import dpo
from pipelines.stages.dpo import STAGE, DpoOptions
from tests.stages import preference_work
from tests.stages.preference_work import pairs, without_template, work
from tests.stages.working import RecordedProgress
from tests.tiny_models import Tiny

BETA = 0.2


@pytest.fixture(scope="module")
def preferred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "preferences"
    return preference_work.write(folder, train=pairs(64, split="train"), held_out=pairs(20, split="held_out"))


@pytest.fixture(scope="module")
def trained(
    tiny: Tiny, preferred: Path, session: Session, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Facts, RecordedProgress]:
    stage_work = work(
        STAGE, tmp_path_factory.mktemp("run") / "draft", session, tiny.first, preferred, workers=1,
        epochs=2, batch_pairs=16, optimizer="adamw", learning_rate=1e-3, beta=BETA,
    )  # fmt: skip
    facts = dpo.run(stage_work)
    assert isinstance(stage_work.progress, RecordedProgress)
    return stage_work.draft.out, facts, stage_work.progress


def test_artifact_is_a_complete_hugging_face_model(trained: tuple[Path, Facts, RecordedProgress], tiny: Tiny) -> None:
    out, _, _ = trained
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors", "config.json", "generation_config.json", "curve.jsonl", "probe.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    recorded = probe.read(out)
    assert recorded is not None
    assert probe.gap_nats(recorded, probe.by_transformers(out).logprobs) < 1e-5  # pyright: ignore[reportArgumentType]
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tiny.first, out)]
    assert configs[0] == configs[1]


def reply_logprob(model: Any, chat: Chat, pair: preferences.Pair, reply: str) -> float:
    """Log-probability in nats of a reply and the token that ends it, by transformers."""
    prompt = chat.prompt(pair.prompt)
    ids = chat.conversation([*pair.prompt, {"role": "assistant", "content": reply}]).ids.tolist()
    ids = ids[: len(ids) - ids[::-1].index(chat.stop_ids[0])]
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[position - 1, ids[position]]) for position in range(len(prompt), len(ids)))


def test_held_out_figures_match_implicit_rewards_by_transformers(
    trained: tuple[Path, Facts, RecordedProgress], tiny: Tiny, preferred: Path
) -> None:
    out, facts, _ = trained
    chat = Chat.open(out)
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (out, tiny.first))
    margins = []
    for pair in preferences.read(preferred / preferences.HELD_OUT):
        chosen, rejected = (
            reply_logprob(policy, chat, pair, reply) - reply_logprob(reference, chat, pair, reply)
            for reply in (pair.chosen, pair.rejected)
        )
        margins.append(BETA * (chosen - rejected))
    assert facts["heldout/margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
    assert facts["heldout/accuracy"] == sum(margin > 0 for margin in margins) / len(margins) > 0.9
    assert facts["heldout/pairs"] == 20


def test_training_starts_at_the_reference(trained: tuple[Path, Facts, RecordedProgress]) -> None:
    """Before the first step the policy is the reference, so the loss of every pair is log 2."""
    out, facts, _ = trained
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert curve[0]["train/loss_nats"] == pytest.approx(math.log(2), abs=1e-6)
    assert curve[-1]["train/loss_nats"] < 0.3
    assert (facts["train/steps"], facts["train/epochs"], facts["pairs/train"]) == (8, 2, 64)


def test_model_without_a_chat_template_is_refused(
    tiny: Tiny, preferred: Path, session: Session, tmp_path: Path
) -> None:
    plain = without_template(tiny.first, tmp_path / "plain")
    with pytest.raises(UserError, match=r"no chat_template.jinja"):
        dpo.run(work(STAGE, tmp_path / "draft", session, plain, preferred))


def test_default_learning_rates() -> None:
    def rate(*, from_base: bool, **options: Any) -> float | None:
        return DpoOptions.model_validate(options).settled(from_base=from_base).learning_rate

    assert (rate(from_base=False), rate(from_base=True), rate(from_base=True, lora={})) == (0.002, 5e-7, 5e-6)
    assert rate(from_base=False, optimizer="adamw") == 5e-7
