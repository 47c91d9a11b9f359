"""What chat templates do to system turns and thoughts: training's tokens are those of sampling."""

from __future__ import annotations

import shutil
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from pipelines.data.tokens import chat_format
from pipelines.data.tokens.chat import Chat, Rendered, TemplateRefusal
from pipelines.data.tokens.chat_messages import Message, text_of_parts
from pipelines.data.tokens.chat_refusals import TemplateRows
from pipelines.data.tokens.chat_system import fold_system
from pipelines.data.tokens.chat_thoughts import ALL_VISIBLE, GrowingReply, visible
from pipelines.errors import UserError
from tests.data.tokens.test_chat import TEMPLATES
from tests.tiny_models import Tiny

EMPTY_THOUGHT = chat_format.TEMPLATE.replace(
    "message['role'] + '\\n' + message['content'] | trim",
    "message['role'] + '\\n' + ('<think>\\n\\n</think>\\n\\n' if loop.last and message['role'] == 'assistant' else '')"
    " + message['content']",
)
NO_SYSTEM = "{%- if messages[0].role == 'system' -%}{{ raise_exception('no system') }}{%- endif -%}" + (
    chat_format.TEMPLATE
)
SILENT_ON_SYSTEM = chat_format.TEMPLATE.replace(
    "for message in messages", "for message in messages if message.role != 'system'"
)
WITH_TOOLS = chat_format.TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}{%- for tool in tools or [] -%}"
                                          "{{ '<|im_start|>system\n' + tool.function.name + '<|im_end|>\n' }}"
                                          "{%- endfor -%}")  # fmt: skip
TIDE_TOOL = '[{"type": "function", "function": {"name": "tide"}}]'
THOUGHT = "<think>\nThe tide turns at six.\n</think>\n\nAt six."
ASK, AGAIN = {"role": "user", "content": "When?"}, {"role": "user", "content": "Sure?"}
SYSTEM = {"role": "system", "content": "Answer like a pilot."}


def published(name: str) -> str:
    """A published template, with the tiny tokenizer's end of turn in place of its own."""
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    for end in ("<｜end▁of▁sentence｜>", "<end_of_turn>"):
        text = text.replace(end, "<|im_end|>")
    return text


def chat_with(tiny: Tiny, folder: Path, template: str) -> Chat:
    for file in tiny.first.iterdir():
        if "token" in file.name:
            shutil.copy(file, folder / file.name)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return Chat.open(folder)


def with_special_thoughts(tiny: Tiny, folder: Path, template: str) -> Chat:
    """A model whose tokenizer has <think> and </think> as special tokens."""
    chat = chat_with(tiny, folder, template)
    chat.encoder.tokenizer.add_special_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    chat.encoder.tokenizer.save(str(folder / "tokenizer.json"))
    return Chat.open(folder)


def reply(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def learnt(chat: Chat, messages: list[dict[str, str]]) -> list[str]:
    """The texts in the loss mask of a conversation, each of which follows a prompt as sampling has it."""
    rendered = chat.conversation(messages)
    texts, position = [], 0
    prompts = {tuple(chat.prompt(messages[:n])) for n, message in enumerate(messages) if message["role"] == "assistant"}
    for is_learnt, run in groupby(rendered.loss_mask.tolist()):
        length = len(list(run))
        if is_learnt:
            assert tuple(rendered.ids[:position].tolist()) in prompts
            ids = rendered.ids[position : position + length].tolist()
            texts.append(chat.encoder.tokenizer.decode(ids, skip_special_tokens=False))
        position += length
    return texts


# ---- thoughts --------------------------------------------------------------------------------------------------------

LEARNT = {  # by template: what is learnt of a reply without a thought, and of one with a thought
    "empty": ("<think>\n\n</think>\n\nAt six.", f"<think>\n\n</think>\n\n{THOUGHT}"),
    "qwen3": ("<think>\n\n</think>\n\nAt six.", THOUGHT),
    "qwen3_5_think": ("\n</think>\n\nAt six.", "The tide turns at six.\n</think>\n\nAt six."),  # after <think>
    "deepseek_r1_distill": ("\n</think>\n\nAt six.", "The tide turns at six.\n</think>\n\nAt six."),
}


@pytest.mark.parametrize("name", LEARNT)
def test_a_reply_is_learnt_as_it_has_to_be_sampled(tiny: Tiny, tmp_path: Path, name: str) -> None:
    chat = chat_with(tiny, tmp_path, EMPTY_THOUGHT if name == "empty" else published(name))
    plain, with_thought = (f"{text}<|im_end|>" for text in LEARNT[name])
    assert learnt(chat, [ASK, reply("At six.")]) == [plain]
    assert learnt(chat, [ASK, reply(THOUGHT)]) == [with_thought]
    for text in (plain, with_thought):
        ids = chat.encoder.tokenizer.encode(text.removesuffix("<|im_end|>"), add_special_tokens=False).ids
        expected = THOUGHT if name == "empty" and text == with_thought else "At six."
        assert chat.text([*ids, chat.stop_ids[0]]) == expected


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "deepseek_r1_distill"])
def test_an_earlier_turn_that_loses_its_thought_is_context(tiny: Tiny, tmp_path: Path, name: str) -> None:
    """Learnt, it would teach the model to answer without a thought."""
    chat = chat_with(tiny, tmp_path, published(name))
    messages = [ASK, reply(THOUGHT), AGAIN, reply(THOUGHT)]
    assert learnt(chat, messages) == [f"{LEARNT[name][1]}<|im_end|>"]
    rendered = chat.conversation(messages)
    assert (rendered.unlearnt, rendered.thoughts_left_out) == (1, 1)


def test_a_template_that_keeps_messages_as_they_are_keeps_thoughts(tiny: Tiny) -> None:
    chat = Chat.open(tiny.first)
    assert learnt(chat, [ASK, reply(THOUGHT), AGAIN, reply("At six.")]) == [f"{THOUGHT}<|im_end|>", "At six.<|im_end|>"]
    assert chat.concealment == ALL_VISIBLE


def test_half_a_thought_is_refused_where_the_template_knows_thoughts(tiny: Tiny, tmp_path: Path) -> None:
    chat = chat_with(tiny, tmp_path, published("qwen3"))
    half = [ASK, reply("<think>\nThe tide")]
    with pytest.raises(TemplateRefusal, match=r"turn 2 opens a thought \(<think>\) and does not close it"):
        chat.conversation(half)
    assert learnt(Chat.open(tiny.first), half) == ["<think>\nThe tide<|im_end|>"]


REPLIES = ["<think>\n\n</think>\n\nAt six.", THOUGHT, "The tide\n</think>\nAt six.", "At six.", " <b>At</b> six", "",
           "<th", "<think>\nThe tide", "<think>\n\n</think>", "\n\n", "The tide\n</think>\nAt</think> six. </th",
           "<think>\na\n</think>\n\nAt</thi</think>nk> six</think>", "<think>\n\n<think>\n\n</think>\n\nAt six.",
           "<think>\n\nAt six.", "<think>\n\n<think>\n\n</thi", f"<think>\n\n{THOUGHT}<think>",
           "Write `<think>` first.", f"{THOUGHT} `</think>`",
           "<think>\n\n</think>\n\n<think> opens a thought.", "<think>a</think>\n<think> b</think>At six.",
           "<think>a</think><think>b"]  # fmt: skip


@pytest.mark.parametrize("name", ["empty", "qwen3", "deepseek_r1_distill", "ours"])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("text", REPLIES)
def test_a_growing_reply_shows_what_the_whole_one_shows(
    tiny: Tiny, tmp_path: Path, name: str, size: int, text: str
) -> None:
    templates = {"empty": EMPTY_THOUGHT, "ours": chat_format.TEMPLATE}
    chat = chat_with(tiny, tmp_path, templates.get(name) or published(name))
    growing, shown = GrowingReply(chat.concealment), ""
    chunks = [text[start : start + size] for start in range(0, len(text), size)] or [""]
    for number, chunk in enumerate(chunks):
        shown += growing.append(chunk, last=number == len(chunks) - 1)
    assert shown == visible(text, chat.concealment)
    ids = chat.encoder.tokenizer.encode(text, add_special_tokens=False).ids
    assert chat.text(ids) == shown.strip()


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1_distill"])
def test_a_second_end_of_a_thought_is_not_visible(tiny: Tiny, tmp_path: Path, name: str) -> None:
    chat = chat_with(tiny, tmp_path, published(name))
    twice = THOUGHT.replace("</think>", "</think>\n\n</think>")
    assert chat.text(chat.encoder.tokenizer.encode(twice, add_special_tokens=False).ids) == "At six."
    assert visible("Why</think> not", ALL_VISIBLE) == "Why</think> not"


ABOUT_MARKS = ["You open `<think>` and close it with `</think>`.", "You open <think> and close it with </think>.",
               "```\n<think>\nWhy?\n</think>\n```", "`<think>` opens a thought, </think> closes it."]  # fmt: skip


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "deepseek_r1_distill"])
def test_all_thoughts_that_open_a_message_are_its_thought(tiny: Tiny, tmp_path: Path, name: str, special: bool) -> None:
    chat = (with_special_thoughts if special else chat_with)(tiny, tmp_path, published(name))
    several = "<think>\nThe tide turns.</think>\n<think>At six.\n</think>\n\nAt six."
    (text,) = learnt(chat, [ASK, reply(several)])
    assert text.removeprefix("<think>\n") == f"{several.removeprefix('<think>').lstrip()}<|im_end|>"
    assert visible(text.removesuffix("<|im_end|>"), chat.concealment) == "At six."
    prompt = chat.encoder.tokenizer.decode(chat.prompt([ASK, reply(several), AGAIN]), skip_special_tokens=False)
    assert "The tide turns." not in prompt and "At six.<|im_end|>" in prompt


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["empty", "qwen3", "qwen3_5_think", "deepseek_r1_distill", "ours"])
@pytest.mark.parametrize("text", ABOUT_MARKS)
def test_a_reply_about_the_marks_of_thoughts_is_learnt_and_read_whole(
    tiny: Tiny, tmp_path: Path, name: str, special: bool, text: str
) -> None:
    templates = {"empty": EMPTY_THOUGHT, "ours": chat_format.TEMPLATE}
    open_chat = with_special_thoughts if special else chat_with
    chat = open_chat(tiny, tmp_path, templates.get(name) or published(name))
    thoughts = ["<think>\nAbout `</think>` and <think>.\n</think>\n\n"]
    for thought in thoughts if text.startswith("<think>") else ["", *thoughts]:
        messages = [ASK, reply(thought + text), AGAIN, reply(thought + text)]
        texts = learnt(chat, messages)
        assert texts[-1].removesuffix("<|im_end|>").endswith(text) and thought.removeprefix("<think>\n") in texts[-1]
        rendered = chat.conversation(messages)
        end = int(np.flatnonzero(rendered.loss_mask)[-1]) + 1
        reply_ids = rendered.ids[int(np.flatnonzero(~rendered.loss_mask[:end])[-1]) + 1 : end].tolist()
        assert chat.text(reply_ids) == (thought + text if name in ("empty", "ours") else text)
        prompt = chat.encoder.tokenizer.decode(chat.prompt(messages[:3]), skip_special_tokens=False)
        assert f"{text}<|im_end|>" in prompt  # of an earlier turn too


def test_text_about_marks_has_the_tokens_that_a_model_writes(tiny: Tiny, tmp_path: Path) -> None:
    chat = chat_with(tiny, tmp_path, published("qwen3"))
    rendered = chat.conversation([ASK, reply(ABOUT_MARKS[0])])
    ids = rendered.ids[rendered.loss_mask].tolist()
    written = f"<think>\n\n</think>\n\n{ABOUT_MARKS[0]}"
    assert ids[:-1] == chat.encoder.tokenizer.encode(written, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("name", "text", "thought"),
    [
        ("qwen3", "<think>\nThe tide", "The tide"),
        ("qwen3", "The tide", ""),
        ("qwen3", THOUGHT, ""),
        ("deepseek_r1_distill", "The tide", "The tide"),
        ("deepseek_r1_distill", "The tide</think>", ""),
    ],
)
def test_a_thought_that_is_never_closed_is_known(
    tiny: Tiny, tmp_path: Path, name: str, text: str, thought: str
) -> None:
    growing = GrowingReply(chat_with(tiny, tmp_path, published(name)).concealment)
    growing.append(text, last=True)
    assert growing.thought == thought


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "deepseek_r1_distill", "ours"])
def test_thoughts_of_special_tokens_are_learnt_and_read_like_others(tiny: Tiny, tmp_path: Path, name: str) -> None:
    chat = with_special_thoughts(tiny, tmp_path, chat_format.TEMPLATE if name == "ours" else published(name))
    expected = {"ours": THOUGHT}.get(name) or LEARNT[name][1]
    assert learnt(chat, [ASK, reply(THOUGHT)]) == [f"{expected}<|im_end|>"]
    special_ids = {int(chat.encoder.tokenizer.token_to_id(tag) or 0) for tag in ("<think>", "</think>")}
    rendered = chat.conversation([ASK, reply(THOUGHT)])
    assert special_ids <= set(rendered.ids.tolist())
    learnt_ids = rendered.ids[rendered.loss_mask].tolist()
    assert chat.text([*learnt_ids[:-1], chat.encoder.pad_id, learnt_ids[-1]]) == (
        THOUGHT if name == "ours" else "At six."
    )
    of_users = chat.prompt([{"role": "user", "content": THOUGHT}])  # a user's text cannot write special tokens
    assert [of_users.count(i) for i in special_ids] == [chat.prompt([ASK]).count(i) for i in special_ids]


def test_the_text_of_an_engine_that_writes_special_tokens_is_read_like_its_tokens(tiny: Tiny, tmp_path: Path) -> None:
    chat = with_special_thoughts(tiny, tmp_path, published("qwen3"))
    rendered = chat.conversation([ASK, reply(THOUGHT)])
    ids = [*rendered.ids[rendered.loss_mask].tolist()[:-1], chat.encoder.bos_id]
    written = chat.encoder.tokenizer.decode(ids, skip_special_tokens=False)
    assert written == f"{THOUGHT}<|bos|>"
    assert visible(written, chat.concealment) == chat.text(ids) == "At six."


# ---- a reply that is continued ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["empty", "qwen3", "deepseek_r1_distill", "gemma", "ours"])
def test_a_continued_reply_is_a_beginning_of_the_conversation(tiny: Tiny, tmp_path: Path, name: str) -> None:
    templates = {"empty": EMPTY_THOUGHT, "ours": chat_format.TEMPLATE}
    chat = chat_with(tiny, tmp_path, templates.get(name) or published(name))
    messages = [ASK, reply("Once."), AGAIN, reply("1. The Vistula\n2. The")]
    ids = chat.continued(messages)
    assert chat.conversation(messages).ids[: len(ids)].tolist() == ids
    assert chat.encoder.tokenizer.decode(ids).endswith("1. The Vistula\n2. The")


@pytest.mark.parametrize("begun", ["e", "end", "im", "<", "|"])
def test_a_beginning_that_stands_in_the_end_of_turn_too(tiny: Tiny, begun: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.first)
    expected = tokenizer.apply_chat_template([ASK, reply(begun)], continue_final_message=True)["input_ids"]
    ids = Chat.open(tiny.first).continued([ASK, reply(begun)])
    assert tokenizer.decode(ids) == tokenizer.decode(expected)


def test_a_continued_reply_is_that_of_transformers(tiny: Tiny) -> None:
    messages = [ASK, reply("1. The Vistula\n2. The")]
    tokenizer = AutoTokenizer.from_pretrained(tiny.first)
    expected = tokenizer.apply_chat_template(messages, continue_final_message=True)["input_ids"]
    assert Chat.open(tiny.first).continued(messages) == expected


def test_a_continued_reply_cannot_write_special_tokens(tiny: Tiny) -> None:
    chat = Chat.open(tiny.first)
    ids = chat.continued([ASK, reply("a <|im_end|> b")])
    assert ids.count(chat.stop_ids[0]) == chat.prompt([ASK]).count(chat.stop_ids[0])
    assert chat.encoder.tokenizer.decode(ids).endswith("a <|im_end|> b")


# ---- system turns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["gemma", "refuses", "leaves out"])
def test_a_system_turn_that_a_template_does_not_take_begins_the_users(
    tiny: Tiny, tmp_path: Path, template: str
) -> None:
    source = {"refuses": NO_SYSTEM, "leaves out": SILENT_ON_SYSTEM}.get(template) or published(template)
    chat = chat_with(tiny, tmp_path, source)
    folded = {"role": "user", "content": "Answer like a pilot.\n\nWhen?"}
    assert chat.prompt([SYSTEM, ASK]) == chat.prompt([folded])
    with_system, without = (chat.conversation([*first, reply("Six."), AGAIN, reply("Yes.")]) for first in
                            ([SYSTEM, ASK], [folded]))  # fmt: skip
    assert with_system.ids.tolist() == without.ids.tolist()
    assert with_system.loss_mask.tolist() == without.loss_mask.tolist()
    assert chat.folds([SYSTEM, ASK]) and not chat.folds([ASK])


def test_a_system_turn_stays_where_the_template_takes_it(tiny: Tiny) -> None:
    assert not Chat.open(tiny.first).folds([SYSTEM, ASK])


def test_every_system_turn_is_folded_where_it_stands() -> None:
    late = {"role": "system", "content": "Be brief."}
    folded = fold_system([SYSTEM, ASK, reply("Six."), late])
    assert [message["content"] for message in folded] == ["Answer like a pilot.\n\nWhen?", "Six.", "Be brief."]
    assert [message["role"] for message in folded] == ["user", "assistant", "user"]
    folded = fold_system([ASK, late, reply("Six."), late, AGAIN])
    assert [message["content"] for message in folded] == ["When?\n\nBe brief.", "Six.", "Be brief.\n\nSure?"]


def test_many_system_turns_are_folded_in_linear_time() -> None:
    begun_s = time.process_time()
    folded = fold_system([{"role": role, "content": "x" * 20} for role in ("user", "system")] * 50_000)
    assert folded == [{"role": "user", "content": "\n\n".join(["x" * 20] * 100_000)}]
    assert time.process_time() - begun_s < 5  # 0.1 s; 30 s where each turn copies all before it


@pytest.mark.parametrize(
    ("template", "takes"),
    [("qwen2_5", (True, True)), ("llama3_1", (True, True)), ("qwen3_5_nothink", (True, False)),
     ("qwen3_vl", (True, False)), ("gptoss", (True, False)), ("deepseekv3", (True, False)), ("gemma3", (True, False)),
     ("gemma", (False, False))],
)  # fmt: skip
def test_a_late_system_turn_is_folded_where_a_template_refuses_drops_or_moves_it(
    tiny: Tiny, tmp_path: Path, template: str, takes: tuple[bool, bool]
) -> None:
    chat = chat_with(tiny, tmp_path, published(template))
    late, messages = {"role": "system", "content": "Be brief."}, [SYSTEM, ASK, reply("Six.")]
    assert (chat.system_turns.first, chat.system_turns.late) == takes
    assert chat.folds([*messages, late, AGAIN]) == (takes != (True, True))
    assert chat.folds(messages) == (not takes[0]) and not chat.folds(messages[1:])
    folded = {"role": "user", "content": "Be brief.\n\nSure?"}
    after = [late, AGAIN] if takes[1] else [folded]
    assert chat.prompt([*messages, late, AGAIN]) == chat.prompt([*messages, *after])
    text = chat.encoder.tokenizer.decode(chat.prompt([*messages, late, AGAIN]))
    assert text.index("Six.") < text.index("Be brief.") < text.index("Sure?")


# ---- rows that a template refuses ------------------------------------------------------------------------------------


def test_refused_rows_are_set_aside_one_by_one(tiny: Tiny, tmp_path: Path) -> None:
    chat = chat_with(tiny, tmp_path, published("gemma"))
    good, bad = [ASK, reply("Six.")], [ASK, AGAIN, reply("Six.")]
    rows: list[tuple[str, list[Message]]] = [
        ("chats/0/1", [SYSTEM, *good]),
        ("chats/0/2", [*bad]),
        ("chats/0/3", [*good]),
    ]
    template = TemplateRows(chat)
    taken = list(template.taken(rows, chat.conversations([messages for _, messages in rows])))
    assert [index for index, _ in taken] == [0, 2] and all(isinstance(rendered, Rendered) for _, rendered in taken)
    assert taken[1][1].ids.tolist() == chat.conversation(good).ids.tolist()
    assert template.facts == {"rows/not_used_template_refuses": 1, "rows/system_turns_folded": 1}
    assert "1 of 3 conversations are set aside (template_refuses); the first is chats/0/2" in template.notes[1]
    template.check("sft")
    prompts = chat.prompts([messages[:-1] for _, messages in rows])
    assert [isinstance(prompt, list) for prompt in prompts] == [True, False, True]


def test_where_all_rows_are_refused_the_error_names_the_model_the_row_and_the_way_out(tiny: Tiny) -> None:
    chat = Chat.open(tiny.first, name="models/odd")
    template = TemplateRows(chat)
    for number in range(3):
        template.count(f"conversation chats/0/{number}", [ASK], TemplateRefusal("roles must alternate"))
    with pytest.raises(UserError, match=r"^sft: models/odd: .* none of 3 conversations; the first is conversation "
                                        r"chats/0/0: roles must alternate. Put a chat_template.jinja"):  # fmt: skip
        template.check("sft")


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_parts_that_are_not_text_have_none() -> None:
    assert text_of_parts([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "b"}}]) is None
    assert text_of_parts([{"type": "text", "text": 1}]) is None
    assert text_of_parts([]) == ""


def test_parts_are_text_of_any_published_spelling() -> None:
    parts = ["a", {"text": "b"}, {"type": "input_text", "text": "c"}, {"type": "output_text", "text": "d"}]
    assert text_of_parts(parts) == "a\nb\nc\nd"
