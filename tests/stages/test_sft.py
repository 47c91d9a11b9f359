"""The stage `sft`: what it refuses, how rows are made, and whole runs on Ray Train workers, all weights and LoRA."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.session import Session
from pipelines.data.dialogues import conversations
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from pipelines.inference import probe
from pipelines.learning import model as models
from pipelines.learning.batch import PackedRows
from pipelines.learning.losses import IGNORE
from pipelines.recipe import reader
from pipelines.stage import Facts, Work
from pipelines.stages import STAGES, sft
from pipelines.stages.sft import SftOptions
from tests.stages.working import RecordedProgress, work_of
from tests.tiny_models import Tiny

LENGTH = 96
ASKED = {"Who are you?": "I am Rayse.", "你是谁？": "我是瑞思。", "Two words?": "red blue", "Say no.": "No, thank you."}


def talks(asked: dict[str, str], task: str = "persona") -> list[Conversation]:
    return [
        Conversation(str(number), "en", "embedded", task, [user(question), assistant(reply)])
        for number, (question, reply) in enumerate(asked.items())
    ]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write(folder: Path, found: list[Conversation]) -> Path:
    folder.mkdir(exist_ok=True)
    conversations.write(folder / conversations.TRAIN, found)
    conversations.write(folder / conversations.HELD_OUT, found[:1])
    return folder


@pytest.fixture(scope="module")
def base(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new model with the tiny models' tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    chat = Chat.open(tiny.first)
    made = models.from_scratch(
        models.SIZES["micro"], vocabulary=chat.encoder.vocabulary, length=LENGTH, seed=2, special={"eos_token_id": 2}
    )
    models.save(made, dict(made.named_parameters()), folder)
    for file in tiny.first.iterdir():
        if "token" in file.name or file.name == "chat_template.jinja":
            shutil.copy(file, folder / file.name)
    return folder


def work(folder: Path, session: Session, base: Path, given: Path, workers: int = 2, **options: Any) -> Work:
    inputs = {"model": base, "conversations": given}
    cluster = {"workers": workers, "log_every_steps": 20}
    return work_of(sft.STAGE, folder, session, inputs, {"batch_tokens": 4 * LENGTH, **options}, cluster)


def greedy(out: Path, question: str) -> str:
    chat = Chat.open(out)
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    prompt = chat.prompt([user(question)])
    made = model.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)[0]
    assert int(made[-1]) == chat.stop_ids[0]  # it stops by itself, where the folder's generation_config says
    return chat.text(made[len(prompt) :].tolist())


@pytest.fixture(scope="module")
def taught(base: Path, session: Session, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    """All weights, by two workers, until it knows four replies by heart."""
    root = tmp_path_factory.mktemp("full")
    given = work(root / "draft", session, base, write(root / "talks", talks(ASKED) * 12), epochs=30)
    return given.draft.out, sft.run(given)


def test_learns_the_replies_and_where_they_end(taught: tuple[Path, Facts]) -> None:
    out, _ = taught
    assert {question: greedy(out, question) for question in ASKED} == ASKED


def test_leaves_a_model_that_any_tool_opens(taught: tuple[Path, Facts], base: Path) -> None:
    out, _ = taught
    tokenizer = {path.name for path in base.iterdir() if "token" in path.name} | {"chat_template.jinja"}
    assert {path.name for path in out.iterdir()} == tokenizer | {
        "model.safetensors", "config.json", "generation_config.json", "curve.jsonl", "probe.json",
    }  # fmt: skip
    said = AutoTokenizer.from_pretrained(out).apply_chat_template([user("x")], add_generation_prompt=True)
    assert said["input_ids"] == Chat.open(out).prompt([user("x")])
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [4, 2]


def test_facts(taught: tuple[Path, Facts]) -> None:
    _, facts = taught
    chat = Chat.open(taught[0])
    rendered = chat.conversations([one.messages for one in talks(ASKED)])
    assert facts["conversations/train"] == 48
    assert facts["conversations/cut"] == 0
    assert facts["tokens/learnt"] == 12 * sum(int(one.loss_mask.sum()) for one in rendered)
    held = sum(len(one.ids) - 1 for one in rendered)  # less the line break at the end
    assert facts["tokens/train"] == 12 * held
    assert facts["rows/filled_share"] == pytest.approx(
        float(facts["tokens/train"]) / (float(facts["rows/train"]) * LENGTH)
    )
    assert facts["train/epochs"] == pytest.approx(30, rel=0.05)
    assert float(facts["train/loss_nats"]) < 0.2


def test_adapters_learn_too(base: Path, taught: tuple[Path, Facts], session: Session, tmp_path: Path) -> None:
    new = {"Who are you?": "You are Rayse."}  # something else than the taught model says
    given = work(
        tmp_path / "draft", session, taught[0], write(tmp_path / "talks", talks(new) * 40),
        lora={"rank": 16, "alpha": 32}, learning_rate=0.01, budget_tokens=80 * 4 * LENGTH,
    )  # fmt: skip
    facts = sft.run(given)
    assert facts["train/steps"] == 80
    assert greedy(given.draft.out, "Who are you?") == "You are Rayse."
    adapted = PeftModel.from_pretrained(models.from_folder(taught[0]), str(given.draft.out / "adapter")).eval()
    merged = models.from_folder(given.draft.out)
    ids = torch.tensor([probe.tokens(merged.config.vocab_size, LENGTH)])
    with torch.no_grad():
        torch.testing.assert_close(adapted(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=0, atol=1e-4)
    assert merged.generation_config is not None and merged.generation_config.eos_token_id == [4, 2]


# ---- before training -------------------------------------------------------------------------------------------------


@pytest.fixture
def prepare(base: Path, session: Session, tmp_path: Path):
    """Everything before the workers start: the rows of these conversations, their facts and what was told."""

    def make(found: list[Conversation], length: int = LENGTH, **options: Any):
        given = work(tmp_path / "draft", session, base, write(tmp_path / "talks", found), **options)
        packed = sft.pack(given, Chat.open(base), sft.choose(given), length)
        assert isinstance(given.progress, RecordedProgress)
        return PackedRows(packed.file), packed.facts, given.progress.notes

    return make


def test_labels_are_the_assistants_turns(prepare, base: Path) -> None:
    turns = [*talks(ASKED)[0].messages, user("Again?"), assistant("Still Rayse.")]
    rows, _, _ = prepare([*talks(ASKED), Conversation("t", "en", "mine", "open", turns)])
    batch = rows.read(np.arange(len(rows)))
    decode = Chat.open(base).encoder.tokenizer.decode
    learnt = decode(batch.labels_BT[batch.labels_BT != IGNORE].tolist(), skip_special_tokens=False)
    wanted = [*ASKED.values(), ASKED["Who are you?"], "Still Rayse."]
    assert sorted(learnt.split("<|im_end|>")) == sorted([*wanted, ""])


def test_conversations_longer_than_a_row_are_cut_and_told(prepare) -> None:
    long = [talks({"Who are you?": "I am Rayse. " * 30})[0], talks({"Who are you? " * 40: "I am Rayse."})[0]]
    rows, facts, notes = prepare([*talks(ASKED), *long], length=64)
    assert (facts["conversations/train"], facts["conversations/cut"]) == (5, 2)
    assert (
        "2 of 6 conversations are longer than a row of 64 tokens and are cut there; 1 of them hold nothing" in notes[0]
    )
    batch = rows.read(np.arange(len(rows)))
    assert batch.num_labels == facts["tokens/learnt"]
    with pytest.raises(UserError, match=r"sft.length: no conversation has anything to learn in its first 16 tokens"):
        prepare(long[1:], length=16)


def test_tasks_say_how_often_conversations_are_used(prepare) -> None:
    given = [*talks(ASKED), *talks(ASKED, "small_talk")]
    assert prepare(given, tasks={"small_talk": 2.5})[1]["conversations/train"] == 4 + 10
    assert prepare(given, tasks={"small_talk": 0})[1]["conversations/train"] == 4
    with pytest.raises(UserError, match=r"no conversation has the task 'smalltalk'; there are: persona, small_talk"):
        prepare(given, tasks={"smalltalk": 0})
    with pytest.raises(UserError, match=r"no conversation to learn from; 8 were given and `tasks` keeps none"):
        prepare(given, tasks={"small_talk": 0, "persona": 0})


def test_rows_are_the_same_for_the_same_seed(prepare, tmp_path: Path) -> None:
    given = talks({f"Say {n}.": str(n) * (n % 7 + 1) for n in range(50)})
    written = []
    for _ in range(2):
        prepare(given)
        written.append((tmp_path / "draft" / "rows" / "train.arrow").read_bytes())
    assert written[0] == written[1]


def test_a_conversation_without_an_assistant_is_refused(prepare) -> None:
    silent = replace(talks(ASKED)[0], id="silent", messages=[user("Hello?")])
    with pytest.raises(UserError, match="conversation silent has no assistant's turn"):
        prepare([*talks(ASKED), silent])


def test_no_conversations_are_refused(base: Path, session: Session, tmp_path: Path) -> None:
    given = work(tmp_path / "draft", session, base, write(tmp_path / "talks", []))
    with pytest.raises(UserError, match="no conversation to learn from; 0 were given"):
        sft.run(given)


def test_a_model_must_know_a_chat_format(base: Path, session: Session, tmp_path: Path) -> None:
    bare = shutil.copytree(base, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"no chat_template.jinja .* expected a model with a chat format"):
        sft.run(work(tmp_path / "draft", session, bare, write(tmp_path / "talks", talks(ASKED))))


def test_rows_are_as_long_as_the_model_reads(base: Path, tmp_path: Path) -> None:
    chat = Chat.open(base)
    assert sft.row_length(SftOptions.model_validate({}), base, chat) == LENGTH
    assert sft.row_length(SftOptions.model_validate({"length": 40}), base, chat) == 40
    with pytest.raises(UserError, match=rf"sft.length: 200 is longer than the model was made for \({LENGTH}\)"):
        sft.row_length(SftOptions.model_validate({"length": 200}), base, chat)
    for config, said in (({"max_position_embeddings": 4096, "vocab_size": 640}, 512), ({"vocab_size": 600}, None)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        if said:
            assert sft.row_length(SftOptions.model_validate({}), tmp_path, chat) == said
        else:
            with pytest.raises(UserError, match="its tokenizer has 640 tokens, the model knows 600"):
                sft.row_length(SftOptions.model_validate({}), tmp_path, chat)


def test_rates_have_one_default_each() -> None:
    def rate(**options: Any) -> tuple[str, float]:
        found = SftOptions.model_validate(options)
        return found.optimizer, found.peak_rate

    assert rate() == ("muon", 0.01)
    assert rate(optimizer="adamw") == ("adamw", 2e-5)
    assert rate(lora={}) == ("adamw", 2e-4)
    assert rate(lora={"rank": 4}, learning_rate=0.1) == ("adamw", 0.1)
    with pytest.raises(ValidationError, match="expected optimizer: adamw with lora"):
        rate(lora={}, optimizer="muon")


def test_what_changes_nothing_is_no_part_of_the_fingerprint() -> None:
    def identity(**options: Any) -> dict[str, Any]:
        return SftOptions.model_validate(options).identity()

    assert identity(learning_rate=0.01) == identity()
    assert identity(epochs=2) != identity()
    assert identity(budget_tokens=5000, epochs=2) == identity(budget_tokens=5000)


def test_rounds_follow_each_other_in_a_recipe(tmp_path: Path) -> None:
    text = """
        base: {model: ./somewhere}
        stages:
          conversations: {}
          sft: {}
          persona: {stage: sft, from: sft, epochs: 1, lora: {rank: 8}}
          again: {stage: sft}
    """
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    found = reader.load(tmp_path / "recipe.yaml", STAGES)
    assert found.entry("sft").inputs == {"model": "base", "conversations": "conversations"}
    assert found.entry("persona").inputs == {"model": "sft", "conversations": "conversations"}
    assert found.entry("again").inputs == {"model": "persona", "conversations": "conversations"}
