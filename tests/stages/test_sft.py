"""The stage `sft`: refused inputs, packing of rows, and complete runs on Ray Train workers, all weights and LoRA."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.session import Session
from pipelines.chat_rows import choose, pack, row_length
from pipelines.data.dialogues import conversations
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from pipelines.inference import probe
from pipelines.learning import model as models
from pipelines.learning.batch import PackedRows
from pipelines.learning.losses import IGNORE
from pipelines.learning.saving import save
from pipelines.learning.shapes import SIZES
from pipelines.recipe import reader
from pipelines.stage import Facts, Work
from pipelines.stages import STAGES, sft
from pipelines.stages.sft import SftOptions
from tests.data.tokens.test_chat import TEMPLATES
from tests.data.tokens.test_chat_templates import TIDE_TOOL, WITH_TOOLS, chat_with
from tests.stages.working import RecordedProgress, work_of
from tests.tiny_models import Tiny

LENGTH = 96
REPLIES = {
    "Who are you?": "I am Rayse.",
    "你是谁？": "我是瑞思。",
    "Two words?": "red blue",
    "Say no.": "No, thank you.",
}


def talks(replies: dict[str, str], task: str = "persona") -> list[Conversation]:
    """Single-turn conversations. replies: by prompt."""
    return [
        Conversation(str(number), "en", "embedded", task, [user(prompt), assistant(reply)])
        for number, (prompt, reply) in enumerate(replies.items())
    ]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write(folder: Path, rows: list[Conversation]) -> Path:
    """Writes a conversations artifact; returns its folder."""
    folder.mkdir(exist_ok=True)
    conversations.write(folder / conversations.TRAIN, rows)
    conversations.write(folder / conversations.HELD_OUT, rows[:1])
    return folder


@pytest.fixture(scope="module")
def base(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with the tiny models' tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    chat = Chat.open(tiny.first)
    model = models.from_scratch(
        SIZES["micro"], vocabulary=chat.encoder.vocabulary, length=LENGTH, seed=2, special={"eos_token_id": 2}
    )
    save(model, model.named_parameters(), folder)
    for file in tiny.first.iterdir():
        if "token" in file.name or file.name == "chat_template.jinja":
            shutil.copy(file, folder / file.name)
    return folder


def work(
    folder: Path, session: Session, base: Path, conversations_folder: Path, workers: int = 2, **options: Any
) -> Work:
    inputs = {"model": base, "conversations": conversations_folder}
    cluster = {"workers": workers, "log_every_steps": 20, "dtype": "float32"}
    return work_of(sft.STAGE, folder, session, inputs, {"batch_tokens": 4 * LENGTH, **options}, cluster)


def greedy(out: Path, prompt: str) -> str:
    """The reply that transformers generates greedily; it ends by itself, by the folder's generation_config."""
    chat = Chat.open(out)
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    prompt_ids = chat.prompt([user(prompt)])
    ids = model.generate(torch.tensor([prompt_ids]), max_new_tokens=30, do_sample=False)[0]
    assert int(ids[-1]) == chat.stop_ids[0]
    return chat.text(ids[len(prompt_ids) :].tolist())


@pytest.fixture(scope="module")
def tuned(base: Path, session: Session, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    """All weights trained by two workers until the model memorises four replies."""
    root = tmp_path_factory.mktemp("full")
    stage_work = work(root / "draft", session, base, write(root / "talks", talks(REPLIES) * 12), epochs=30)
    return stage_work.draft.out, sft.run(stage_work)


def test_model_learns_the_replies_and_where_they_end(tuned: tuple[Path, Facts]) -> None:
    out, _ = tuned
    assert {prompt: greedy(out, prompt) for prompt in REPLIES} == REPLIES


def test_artifact_is_a_complete_hugging_face_model(tuned: tuple[Path, Facts], base: Path) -> None:
    out, _ = tuned
    tokenizer = {path.name for path in base.iterdir() if "token" in path.name} | {"chat_template.jinja"}
    assert {path.name for path in out.iterdir()} == tokenizer | {
        "model.safetensors", "config.json", "generation_config.json", "curve.jsonl", "probe.json",
    }  # fmt: skip
    rendered = AutoTokenizer.from_pretrained(out).apply_chat_template([user("x")], add_generation_prompt=True)
    assert rendered["input_ids"] == Chat.open(out).prompt([user("x")])
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [4, 2]


def test_facts_count_conversations_tokens_and_rows(tuned: tuple[Path, Facts]) -> None:
    _, facts = tuned
    chat = Chat.open(tuned[0])
    rendered = [chat.conversation(conversation.messages) for conversation in talks(REPLIES)]
    assert facts["conversations/train"] == 48
    assert facts["conversations/cut"] == 0
    assert facts["tokens/learnt"] == 12 * sum(int(conversation.loss_mask.sum()) for conversation in rendered)
    num_tokens = sum(len(conversation.ids) - 1 for conversation in rendered)  # without the line break at the end
    assert facts["tokens/train"] == 12 * num_tokens
    assert facts["rows/filled_fraction"] == pytest.approx(
        float(facts["tokens/train"]) / (float(facts["rows/train"]) * LENGTH)
    )
    assert facts["train/epochs"] == pytest.approx(30, rel=0.05)
    assert float(facts["train/loss_nats"]) < 0.2


def test_lora_adapters_learn_and_are_merged(
    base: Path, tuned: tuple[Path, Facts], session: Session, tmp_path: Path
) -> None:
    new = {"Who are you?": "You are Rayse."}  # differs from the base model's reply
    stage_work = work(
        tmp_path / "draft", session, tuned[0], write(tmp_path / "talks", talks(new) * 40), workers=1,
        lora={"rank": 16, "alpha": 32}, learning_rate=0.01, budget_tokens=80 * 4 * LENGTH,
    )  # fmt: skip
    facts = sft.run(stage_work)
    assert facts["train/steps"] == 80
    assert greedy(stage_work.draft.out, "Who are you?") == "You are Rayse."
    adapted = PeftModel.from_pretrained(models.from_folder(tuned[0]), str(stage_work.draft.out / "adapter")).eval()
    merged = models.from_folder(stage_work.draft.out)
    ids = torch.tensor([probe.tokens(merged.config.vocab_size, LENGTH)])
    with torch.no_grad():
        torch.testing.assert_close(adapted(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=0, atol=1e-4)
    assert merged.generation_config is not None and merged.generation_config.eos_token_id == [4, 2]


# ---- before the workers start ---------------------------------------------------------------------------------------


class Prepare(Protocol):
    """The function that the fixture `prepare` returns."""

    def __call__(
        self, rows: list[Conversation], length: int = LENGTH, **options: Any
    ) -> tuple[PackedRows, Facts, list[str]]: ...


@pytest.fixture
def prepare(base: Path, session: Session, tmp_path: Path) -> Prepare:
    """Runs the stage up to the start of the workers: the rows of conversations, their facts and the notes."""

    def make(rows: list[Conversation], length: int = LENGTH, **options: Any) -> tuple[PackedRows, Facts, list[str]]:
        stage_work = work(tmp_path / "draft", session, base, write(tmp_path / "talks", rows), **options)
        packed = pack(stage_work, Chat.open(base), choose(stage_work), length)
        assert isinstance(stage_work.progress, RecordedProgress)
        return PackedRows(packed.file), packed.facts, stage_work.progress.notes

    return make


def test_labels_are_the_assistants_turns(prepare: Prepare, base: Path) -> None:
    turns = [*talks(REPLIES)[0].messages, user("Again?"), assistant("Still Rayse.")]
    rows, _, _ = prepare([*talks(REPLIES), Conversation("t", "en", "mine", "open", turns)])
    batch = rows.read(np.arange(len(rows)))
    decode = Chat.open(base).encoder.tokenizer.decode
    learnt = decode(batch.labels_BT[batch.labels_BT != IGNORE].tolist(), skip_special_tokens=False)
    expected = [*REPLIES.values(), REPLIES["Who are you?"], "Still Rayse."]
    assert sorted(learnt.split("<|im_end|>")) == sorted([*expected, ""])
    assert batch.weights_BT is None


def test_labels_have_the_weights_of_their_turns(prepare: Prepare, base: Path) -> None:
    plain = talks(REPLIES)[2]
    turns = [user("a"), assistant("One."), user("b"), assistant("Two."), user("c"), assistant("Three.")]
    weighted = Conversation("w", "en", "mine", "open", turns, not_learnt=(3,), weights=(0.5, 0, 2))
    rows, _, _ = prepare([plain, weighted])
    batch = rows.read(np.arange(len(rows)))
    assert batch.weights_BT is not None
    decode = Chat.open(base).encoder.tokenizer.decode
    is_label = batch.labels_BT != IGNORE
    texts = {weight: decode(batch.labels_BT[is_label & (batch.weights_BT == weight)].tolist(), skip_special_tokens=True)
             for weight in batch.weights_BT[is_label].unique().tolist()}  # fmt: skip
    assert texts == {0.5: "One.", 1: plain.reply, 2: "Three."}


def test_conversations_longer_than_a_row_are_cut_and_reported(prepare: Prepare) -> None:
    long = [talks({"Who are you?": "I am Rayse. " * 30})[0], talks({"Who are you? " * 40: "I am Rayse."})[0]]
    rows, facts, notes = prepare([*talks(REPLIES), *long], length=64)
    assert (facts["conversations/train"], facts["conversations/cut"]) == (5, 2)
    assert (
        "2 of 6 conversations are longer than a row of 64 tokens and are cut there; 1 of them have no assistant's turn"
        in notes[0]
    )
    batch = rows.read(np.arange(len(rows)))
    assert batch.num_labels == facts["tokens/learnt"]
    with pytest.raises(UserError, match=r"sft.length: no conversation has an assistant's turn in its first 16 tokens"):
        prepare(long[1:], length=16)


def test_conversations_are_repeated_by_task(prepare: Prepare) -> None:
    rows = [*talks(REPLIES), *talks(REPLIES, "small_talk")]
    assert prepare(rows, tasks={"small_talk": 2.5})[1]["conversations/train"] == 4 + 10
    assert prepare(rows, tasks={"small_talk": 0})[1]["conversations/train"] == 4
    with pytest.raises(UserError, match=r"no conversation has the task 'smalltalk'; expected persona, small_talk"):
        prepare(rows, tasks={"smalltalk": 0})
    with pytest.raises(UserError, match=r"no conversation to train on; the input has 8 and `tasks` keeps none"):
        prepare(rows, tasks={"small_talk": 0, "persona": 0})


def test_rows_are_the_same_for_the_same_seed(prepare: Prepare, tmp_path: Path) -> None:
    rows = talks({f"Say {n}.": str(n) * (n % 7 + 1) for n in range(50)})
    files = []
    for _ in range(2):
        prepare(rows)
        files.append((tmp_path / "draft" / "rows" / "train.arrow").read_bytes())
    assert files[0] == files[1]


def test_conversation_without_an_assistants_turn_is_refused(prepare: Prepare) -> None:
    silent = replace(talks(REPLIES)[0], id="silent", messages=[user("Hello?")])
    with pytest.raises(UserError, match="conversation silent has no assistant's turn"):
        prepare([*talks(REPLIES), silent])


@pytest.fixture
def strict(base: Path, tmp_path: Path) -> Path:
    """The base with a published template that takes no system turn, and user and assistant only by turns."""
    folder = shutil.copytree(base, tmp_path / "strict")
    template = (TEMPLATES / "gemma.jinja").read_text(encoding="utf-8").replace("<end_of_turn>", "<|im_end|>")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def test_rows_that_the_template_refuses_are_set_aside_and_system_turns_folded(
    strict: Path, session: Session, tmp_path: Path
) -> None:
    system = {"role": "system", "content": "Be kind."}
    twice = Conversation("mine/0/7", "en", "mine", "persona", [user("a"), user("b"), assistant("c")])
    with_system = Conversation("mine/0/8", "en", "mine", "persona", [system, user("Who?"), assistant("I.")])
    rows = [*talks(REPLIES), twice, with_system]
    stage_work = work(tmp_path / "draft", session, strict, write(tmp_path / "talks", rows))
    packed = pack(stage_work, Chat.open(strict), choose(stage_work), LENGTH)
    assert packed.facts["conversations/train"] == 5
    assert packed.facts["rows/not_used_template_refuses"] == packed.facts["rows/system_turns_folded"] == 1
    assert isinstance(stage_work.progress, RecordedProgress)
    folded, refused = stage_work.progress.notes[:2]
    assert "1 of 6 conversations have a system turn, which the model's chat template does not take" in folded
    assert "1 of 6 conversations are set aside (template_refuses); the first is conversation mine/0/7" in refused


def test_tools_are_rendered_where_the_template_takes_them_and_else_counted(
    base: Path, session: Session, tmp_path: Path
) -> None:
    rows = [*talks(REPLIES), replace(talks(REPLIES)[0], id="tools", tools=TIDE_TOOL)]
    stage_work = work(tmp_path / "draft", session, base, write(tmp_path / "talks", rows))
    (tmp_path / "with_tools").mkdir()
    without, rendered = (
        pack(stage_work, chat, choose(stage_work), LENGTH)
        for chat in (Chat.open(base), chat_with(Tiny(base, base, base, {}), tmp_path / "with_tools", WITH_TOOLS))
    )
    assert without.facts["rows/tools_left_out"] == 1 and "rows/tools_left_out" not in rendered.facts
    system = {"role": "system", "content": "tide"}
    tide, plain = (len(Chat.open(base).prompt(messages)) for messages in ([system, user("?")], [user("?")]))
    assert int(rendered.facts["tokens/train"]) - int(without.facts["tokens/train"]) == tide - plain > 4
    assert rendered.facts["tokens/learnt"] == without.facts["tokens/learnt"]
    assert isinstance(stage_work.progress, RecordedProgress)
    assert any(note.startswith("1 of 5 conversations have tools") for note in stage_work.progress.notes)


def test_where_no_row_is_left_the_error_names_the_recipes_base(strict: Path, session: Session, tmp_path: Path) -> None:
    twice = [Conversation(f"mine/0/{n}", "en", "mine", "open", [user("a"), user("b"), assistant("c")]) for n in (1, 2)]
    stage_work = work(tmp_path / "draft", session, strict, write(tmp_path / "talks", twice))
    stage_work = replace(stage_work, base="models/strict")
    message = r"^sft: models/strict: .* takes none of 2 conversations; the first is conversation mine/0/\d: .*alternate"
    with pytest.raises(UserError, match=message):
        sft.run(stage_work)


def test_empty_conversations_are_refused(base: Path, session: Session, tmp_path: Path) -> None:
    stage_work = work(tmp_path / "draft", session, base, write(tmp_path / "talks", []))
    with pytest.raises(UserError, match="no conversation to train on; the input has 0"):
        sft.run(stage_work)


def test_model_without_a_chat_template_is_refused(base: Path, session: Session, tmp_path: Path) -> None:
    without_template = shutil.copytree(base, tmp_path / "bare")
    (without_template / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"no chat_template.jinja .* expected a model with a chat format"):
        sft.run(work(tmp_path / "draft", session, without_template, write(tmp_path / "talks", talks(REPLIES))))


def test_row_length_is_bounded_by_the_models_context(base: Path, tmp_path: Path) -> None:
    chat = Chat.open(base)
    assert row_length(SftOptions.model_validate({}), base, chat, stage="sft") == LENGTH
    assert row_length(SftOptions.model_validate({"length": 40}), base, chat, stage="sft") == 40
    with pytest.raises(UserError, match=rf"sft.length: 200 is longer than the model's context \({LENGTH}\)"):
        row_length(SftOptions.model_validate({"length": 200}), base, chat, stage="sft")
    for config, length in (({"max_position_embeddings": 4096, "vocab_size": 640}, 512), ({"vocab_size": 600}, None)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        if length:
            assert row_length(SftOptions.model_validate({}), tmp_path, chat, stage="sft") == length
        else:
            with pytest.raises(UserError, match="its tokenizer has 640 tokens, the model's vocabulary 600"):
                row_length(SftOptions.model_validate({}), tmp_path, chat, stage="sft")


def test_default_learning_rate_depends_on_optimizer_and_lora() -> None:
    def optimizer_and_rate(*, from_base: bool = False, **options: Any) -> tuple[str | None, float | None]:
        settled = SftOptions.model_validate(options).settled(from_base=from_base)
        return settled.optimizer, settled.learning_rate

    assert optimizer_and_rate() == ("muon", 0.01)
    assert optimizer_and_rate(from_base=True) == ("adamw", 1e-5)
    assert optimizer_and_rate(from_base=True, lora={}) == ("adamw", 2e-4)
    assert optimizer_and_rate(optimizer="adamw") == ("adamw", 2e-5)
    assert optimizer_and_rate(lora={}) == ("adamw", 2e-4)
    assert optimizer_and_rate(lora={"rank": 4}, learning_rate=0.1) == ("adamw", 0.1)
    with pytest.raises(ValidationError, match="expected optimizer: adamw with lora"):
        optimizer_and_rate(lora={}, optimizer="muon")


def test_options_without_effect_are_not_part_of_the_fingerprint() -> None:
    def identity(**options: Any) -> dict[str, Any]:
        return SftOptions.model_validate(options).identity()

    assert identity(optimizer="muon", clip_norm=2) == identity(optimizer="muon")
    assert identity(epochs=2) != identity()
    assert identity(budget_tokens=5000, epochs=2) == identity(budget_tokens=5000)


def test_rounds_of_a_recipe_take_the_model_of_the_round_before(tmp_path: Path) -> None:
    text = """
        base: {model: ./somewhere}
        stages:
          conversations: {}
          sft: {}
          persona: {stage: sft, from: sft, epochs: 1, lora: {rank: 8}}
          again: {stage: sft}
    """
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    recipe = reader.load(tmp_path / "recipe.yaml", STAGES)
    assert recipe.entry("sft").inputs == {"model": "base", "conversations": "conversations"}
    assert recipe.entry("persona").inputs == {"model": "sft", "conversations": "conversations"}
    assert recipe.entry("again").inputs == {"model": "persona", "conversations": "conversations"}
