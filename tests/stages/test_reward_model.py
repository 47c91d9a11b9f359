"""The stage `reward_model`: refused inputs, and a complete run of two workers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cluster.session import Session
from pipelines.data.dialogues import preferences, tokenized_pairs
from pipelines.data.dialogues.tokenized_pairs import PairFile, tokenize_pair
from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from pipelines.metrics import pair_figures
from pipelines.stage import Facts
from pipelines.stages import reward_model
from pipelines.stages.reward_model import STAGE, padding_id
from tests.data.tokens.test_chat import TEMPLATES
from tests.data.tokens.test_chat_templates import chat_with
from tests.stages import preference_work
from tests.stages.preference_work import pairs, without_template, work
from tests.stages.working import RecordedProgress
from tests.tiny_models import CONTEXT, Tiny


@pytest.fixture(scope="module")
def preferred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 usable pairs and 40 held out, plus in each split one too long for the tiny models and one of equal replies."""
    train, held_out = pairs(98, split="train"), pairs(42, split="held_out")
    for split in (train, held_out):
        split[3] = replace(split[3], chosen="json " * CONTEXT)
        split[8] = replace(split[8], chosen=split[8].rejected + " ")  # the chat template strips the space
    return preference_work.write(tmp_path_factory.mktemp("pairs") / "preferences", train=train, held_out=held_out)


@pytest.fixture(scope="module")
def trained(
    tiny: Tiny, preferred: Path, session: Session, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Facts, RecordedProgress]:
    stage_work = work(
        STAGE, tmp_path_factory.mktemp("run") / "draft", session, tiny.first, preferred,
        epochs=3, batch_pairs=16, optimizer="adamw", learning_rate=3e-3,
    )  # fmt: skip
    facts = reward_model.run(stage_work)
    assert isinstance(stage_work.progress, RecordedProgress)
    return stage_work.draft.out, facts, stage_work.progress


def test_artifact_is_a_sequence_classifier(trained: tuple[Path, Facts, RecordedProgress], tiny: Tiny) -> None:
    out, _, _ = trained
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors", "config.json", "curve.jsonl", "reliability.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert model.score.weight.shape == (1, 64)
    assert Chat.open(out).turn_end == "<|im_end|>"


def test_held_out_figures_match_scores_by_transformers(
    trained: tuple[Path, Facts, RecordedProgress], preferred: Path
) -> None:
    """In one padded batch, where transformers decides at which token a sequence ends."""
    out, facts, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokenizer.padding_side = "right"
    chat = Chat.open(out)
    held_out = [pair for n, pair in enumerate(preferences.read(preferred / preferences.HELD_OUT)) if n not in (3, 8)]
    tokenized = [tokenize_pair(pair, chat) for pair in held_out]
    sequences = [pair.chosen.tolist() for pair in tokenized] + [pair.rejected.tolist() for pair in tokenized]
    with torch.no_grad():
        scores_2N = (
            model(**tokenizer.pad({"input_ids": sequences}, return_tensors="pt")).logits.view(2, -1).double().numpy()
        )
    margins_N = scores_2N[0] - scores_2N[1]
    assert facts["heldout/pairs"] == len(margins_N) == 40
    assert facts["heldout/margin"] == pytest.approx(margins_N.mean(), abs=1e-5)
    assert facts["heldout/accuracy"] == (margins_N > 0).mean()
    assert sum(interval["pairs"] for interval in json.loads((out / "reliability.json").read_text())) == 40


def test_model_learns_the_preference_and_baselines_are_reported(trained: tuple[Path, Facts, RecordedProgress]) -> None:
    _, facts, progress = trained
    assert float(facts["heldout/accuracy"]) > 0.9
    assert facts["heldout/accuracy_low"] == pair_figures.wilson_low(float(facts["heldout/accuracy"]), 40)
    by_language = [float(facts[f"heldout/accuracy_{name}"]) for name in ("en", "zh")]
    assert sum(by_language) / 2 == pytest.approx(facts["heldout/accuracy"])  # 20 pairs of each
    assert facts["heldout/accuracy_given"] == facts["heldout/accuracy"]
    assert facts["heldout/accuracy_bag_of_characters"] == 1.0  # kind and unkind words differ in their letters
    assert 0.2 < float(facts["heldout/accuracy_length_only"]) < 0.8
    assert 0.8 < float(facts["heldout/length_ratio"]) < 1.25
    assert 0 <= float(facts["heldout/calibration_error"]) < 0.5
    losses = [figures["loss"] for _, _, unit, figures in progress.updates if unit == "steps"]
    assert float(facts["train/loss_nats"]) < 0.3 < losses[0]
    assert (facts["pairs/train"], facts["pairs/too_long"], facts["pairs/equal"]) == (96, 2, 2)
    assert (facts["train/steps"], facts["train/epochs"]) == (18, 3)
    assert progress.notes == ["2 pairs left out: too long", "2 pairs left out: equal"]


def test_tokenized_pairs_end_with_the_turn_and_count_the_prompts_tokens(tiny: Tiny, tmp_path: Path) -> None:
    chat = Chat.open(tiny.first)
    turns = (("user", "one"), ("assistant", "two"), ("user", "three"))
    messages = [{"role": role, "content": text} for role, text in turns]
    pair = tokenize_pair(replace(pairs(1, split="x")[0], prompt=messages, chosen="four", rejected="fifth five"), chat)
    prompt = chat.prompt(messages)
    assert pair.prompt_tokens == len(prompt)
    for ids, reply in ((pair.chosen, "four"), (pair.rejected, "fifth five")):
        assert ids[: len(prompt)].tolist() == prompt
        assert chat.text(ids[len(prompt) :]) == reply
        assert ids[-1] == chat.stop_ids[0]


def test_pairs_that_the_template_refuses_are_set_aside(tiny: Tiny, tmp_path: Path) -> None:
    template = (TEMPLATES / "gemma.jinja").read_text(encoding="utf-8").replace("<end_of_turn>", "<|im_end|>")
    chat = chat_with(tiny, tmp_path, template)
    user, system = {"role": "user", "content": "one"}, {"role": "system", "content": "Be kind."}
    first, second, third = pairs(3, split="x")
    rows = [replace(first, prompt=[user, user]), replace(second, prompt=[system, user]), replace(third, prompt=[user])]
    folder = preference_work.write(tmp_path / "preferences", train=rows, held_out=[])
    _, counts = tokenized_pairs.tokenize_split(
        folder, preferences.TRAIN, chat, tmp_path, max_tokens=99, seed=1, on_progress=lambda done, total: None
    )
    assert (counts.kept, counts.template_refuses, counts.folded, counts.read) == (2, 1, 1, 3)
    assert counts.first_refused.startswith(f"pair {first.id}: the model's chat template refuses")
    assert "1 of 3 pairs are set aside" in tokenized_pairs.template_rows(chat, [counts]).notes[1]


# ---- refused before training -----------------------------------------------------------------------------------------


def test_model_without_a_chat_template_is_refused(
    tiny: Tiny, preferred: Path, session: Session, tmp_path: Path
) -> None:
    plain = without_template(tiny.first, tmp_path / "plain")
    with pytest.raises(UserError, match=r"no chat_template.jinja"):
        reward_model.run(work(STAGE, tmp_path / "draft", session, plain, preferred))


@pytest.mark.parametrize("num", [0, 2])
def test_no_usable_training_pair_is_refused(num: int, tiny: Tiny, session: Session, tmp_path: Path) -> None:
    long = [replace(pair, rejected="谢" * 700) for pair in pairs(num, split="train")]
    folder = preference_work.write(tmp_path / "preferences", train=long, held_out=[])
    with pytest.raises(UserError, match=rf"none of {num} training pairs .* {num} are longer than 160 tokens"):
        reward_model.run(work(STAGE, tmp_path / "draft", session, tiny.first, folder))


def test_pairs_prepared_by_an_earlier_attempt_are_reused(
    tiny: Tiny, preferred: Path, session: Session, tmp_path: Path
) -> None:
    from pipelines.training import prepare_pairs

    stage_work = work(STAGE, tmp_path / "draft", session, tiny.first, preferred)
    first = prepare_pairs(stage_work)
    file = Path(first.lesson["train"])
    stamp, length = file.stat().st_mtime_ns, len(PairFile(file))
    assert prepare_pairs(stage_work) == first
    assert (file.stat().st_mtime_ns, length) == (stamp, 96)


def test_padding_is_never_the_token_that_ends_a_turn(tiny: Tiny, tmp_path: Path) -> None:
    """Where the tokenizer pads with it, as in Llama 3, transformers would take the score one token too early."""
    assert padding_id(tiny.first) == 0
    folder = without_template(tiny.first, tmp_path / "llama")
    (folder / "chat_template.jinja").write_text((tiny.first / "chat_template.jinja").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"pad_token": "<|im_end|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    turn_end = Chat.open(folder).stop_ids[0]
    assert padding_id(folder) not in (None, turn_end)


def test_rows_of_packed_pairs_index_the_preferences(
    trained: tuple[Path, Facts, RecordedProgress], preferred: Path
) -> None:
    """PairFile.rows maps each packed pair to its row of the preferences' file."""
    out, _, _ = trained
    chat = Chat.open(out)
    for split, count in ((preferences.TRAIN, 98), (preferences.HELD_OUT, 42)):
        kept = PairFile((out.parent / "pairs" / split).with_suffix(".arrow"))
        assert sorted(kept.rows) == [n for n in range(count) if n not in (3, 8)] != kept.rows.tolist()  # shuffled
        source = preferences.read(preferred / split)
        for row, pair in zip(kept.rows, kept, strict=True):
            assert np.array_equal(pair.chosen, tokenize_pair(source[row], chat).chosen)
