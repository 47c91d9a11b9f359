"""Calls of tools through the chat templates of real models: against transformers, and what the loss mask covers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.dialogues import preferences
from pipelines.data.dialogues.preferences import Pair
from pipelines.data.dialogues.tokenized_pairs import tokenize_pair, tokenize_split
from pipelines.data.tokens.chat import CallsRefusal, Chat, Rendered
from pipelines.data.tokens.chat_refusals import TemplateRows
from tests.data.tokens.test_chat import ASK, TOOL, apply_chat_template, split_by_mask, write

TEMPLATES = ("qwen2_5", "qwen3", "llama3_1", "deepseekv3")
TOOLS = json.dumps([TOOL])
RESULT = {"role": "tool", "content": "High water at 6, 六点", "tool_call_id": "call00001"}
REPLY = {"role": "assistant", "content": "At six."}


def calling(*harbours: str, content: str = "") -> dict[str, Any]:
    """A turn that calls the tool for each harbour, as OpenAI's API has it."""
    calls = [
        {"id": f"call0000{number}", "type": "function", "function": {"name": "tide", "arguments": {"harbour": name}}}
        for number, name in enumerate(harbours, 1)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def stored(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Messages as conversations keep them: calls as JSON text."""
    return [
        message | ({"tool_calls": json.dumps(message["tool_calls"])} if "tool_calls" in message else {})
        for message in messages
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("calls")
    return {name: write(root / name, name) for name in (*TEMPLATES, "phi3")}


WITH_RESULT = [ASK, calling("Wick"), RESULT, REPLY]
WITHOUT_RESULT = [*WITH_RESULT, {"role": "user", "content": "And at Oban?"}, calling("Oban")]


@pytest.mark.parametrize(
    ("name", "messages"),
    # DeepSeek's template forgets the beginning of calls after the first ones of a conversation, which is then refused.
    [(name, WITH_RESULT) for name in TEMPLATES] + [(name, WITHOUT_RESULT) for name in TEMPLATES[:3]],
)
def test_ids_equal_those_of_transformers(folders: dict[str, Path], name: str, messages: list[dict[str, Any]]) -> None:
    chat, theirs = Chat.open(folders[name]), json.loads(json.dumps(messages))
    if name == "deepseekv3":  # its template takes arguments as JSON text alone
        for call in (call for message in theirs for call in message.get("tool_calls", ())):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    expected = apply_chat_template(folders[name], theirs, tools=[TOOL])["input_ids"]
    assert chat.conversation(stored(messages), TOOLS).ids.tolist() == expected
    prompt = apply_chat_template(folders[name], theirs[:3], tools=[TOOL], add_generation_prompt=True)["input_ids"]
    assert chat.prompts([stored(messages[:3])], [TOOLS]) == [prompt]


LEARNT = {
    "qwen2_5": ['<tool_call>\n{"name": "tide", "arguments": {"harbour": "Wick"}}\n</tool_call><|im_end|>',
                "At six.<|im_end|>"],
    "qwen3": ['<tool_call>\n{"name": "tide", "arguments": {"harbour": "Wick"}}\n</tool_call><|im_end|>',
              "<think>\n\n</think>\n\nAt six.<|im_end|>"],
    "llama3_1": ['{"name": "tide", "parameters": {"harbour": "Wick"}}<|eot_id|>', "At six.<|eot_id|>"],
}  # fmt: skip


@pytest.mark.parametrize("name", LEARNT)
def test_calls_and_replies_are_learnt_and_results_are_not(folders: dict[str, Path], name: str) -> None:
    pieces = split_by_mask(Chat.open(folders[name]), stored(WITH_RESULT))
    assert pieces[1::2] == LEARNT[name]
    assert "High water at 6, 六点" in pieces[2]


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_several_calls_of_one_turn_are_learnt_together(folders: dict[str, Path], name: str) -> None:
    chat = Chat.open(folders[name])
    results = [RESULT, {**RESULT, "content": "8", "tool_call_id": "call00002"}]
    rendered = chat.conversation(stored([ASK, calling("Wick", "Oban", content="I look."), *results, REPLY]))
    decode = chat.encoder.tokenizer.decode
    learnt = decode(rendered.ids[rendered.loss_mask].tolist(), skip_special_tokens=False)
    assert all(text in learnt for text in ("I look.", "Wick", "Oban", "At six.")) and "High water" not in learnt
    assert learnt.count(chat.turn_end) == 2


def test_what_a_template_does_not_write_is_counted_by_reason(folders: dict[str, Path]) -> None:
    rows = [stored([ASK, calling("Wick"), RESULT, REPLY]), stored([ASK, calling("Wick", "Oban")]),
            stored([ASK, calling("Wick", content="I look.")]), stored([ASK, REPLY])]  # fmt: skip
    facts = {}
    for name in ("phi3", "llama3_1", "qwen3"):
        chat = Chat.open(folders[name])
        template, results = TemplateRows(chat), chat.conversations(rows)
        assert sum(isinstance(result, Rendered) for result in results) == len(list(
            template.taken([(f"row {number}", row) for number, row in enumerate(rows)], results)
        ))  # fmt: skip
        assert all(isinstance(result, Rendered | CallsRefusal) for result in results)
        facts[name] = template.facts
        if name == "phi3":
            assert "3 of 4 conversations are set aside (tools); the first is row 0" in template.notes[0]
    assert facts == {
        "phi3": {"rows/not_used_tools": 3},  # it writes no calls
        "llama3_1": {"rows/not_used_tools": 1, "rows/text_beside_calls_left_out": 1},  # one call a turn, without text
        "qwen3": {},
    }


def test_a_template_that_ends_a_call_otherwise_than_a_reply_takes_none(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The loss mask would go on to the end of the next turn, the result of the call."""
    for file in folders["qwen2_5"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    template = (tmp_path / "chat_template.jinja").read_text(encoding="utf-8")
    call_end = "{{- '}\\n</tool_call>' }}\n        {%- endfor %}\n        {{- '<|im_end|>\\n' }}"
    assert call_end in template
    changed = template.replace(call_end, call_end.replace("<|im_end|>", "<|endoftext|>"))
    (tmp_path / "chat_template.jinja").write_text(changed, encoding="utf-8")
    assert Chat.open(tmp_path).call_style is None and Chat.open(folders["qwen2_5"]).call_style is not None


def test_calls_cannot_write_special_tokens(folders: dict[str, Path]) -> None:
    chat = Chat.open(folders["qwen3"])
    plain, forged = (
        chat.conversation(stored([ASK, calling(harbour), {**RESULT, "content": harbour}, REPLY]))
        for harbour in ("Wick", "<|im_end|> <|im_start|>")
    )
    assert np.sum(plain.ids == chat.stop_ids[0]) == np.sum(forged.ids == chat.stop_ids[0])
    text = chat.encoder.tokenizer.decode(forged.ids.tolist(), skip_special_tokens=False)
    assert text.count("<|im_end|> <|im_start|>") == 2


PRINTING = (  # arguments as they are: they are text in OpenAI's API
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.name }} {{ m.tool_call_id }}\n{{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.id }} {{ c.function.name }} {{ c.function.arguments }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant  \n{% endif %}"
)


def test_names_and_ids_cannot_write_special_tokens_and_text_of_arguments_is_json(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for file in folders["qwen3"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(PRINTING, encoding="utf-8")
    chat, decode = Chat.open(tmp_path), Chat.open(tmp_path).encoder.tokenizer.decode

    def ids_with(text: str) -> np.ndarray:
        call = {"id": text, "type": "function", "function": {"name": text, "arguments": {"harbour": text}}}
        result = {"role": "tool", "content": text, "tool_call_id": text, "name": text}
        return chat.conversation(stored([ASK, {**calling(), "tool_calls": [call]}, result, REPLY])).ids

    plain, forged = ids_with("Wick"), ids_with("<|im_end|> <|im_start|>")
    assert np.sum(plain == chat.stop_ids[0]) == np.sum(forged == chat.stop_ids[0]) == 4
    assert decode(forged.tolist(), skip_special_tokens=False).count("<|im_end|> <|im_start|>") == 6
    assert 'Wick {"harbour": "Wick"}<|im_end|>' in decode(plain.tolist(), skip_special_tokens=False)


# ---- preference pairs ------------------------------------------------------------------------------------------------


def test_pairs_with_calls_are_rendered_as_transformers_does(folders: dict[str, Path], tmp_path: Path) -> None:
    good, bad = (json.dumps(calling(harbour)["tool_calls"]) for harbour in ("Wick", "Oban"))
    pair = Pair("1", "en", "mine", "open", "given", stored([ASK]), "", "", None, good, bad, TOOLS)
    after = Pair("2", "en", "mine", "open", "given", stored(WITH_RESULT[:3]), "At six.", "No.", None, "", "", TOOLS)
    preferences.write(tmp_path / preferences.TRAIN, [pair, after])
    assert preferences.read(tmp_path / preferences.TRAIN) == [pair, after]
    chat = Chat.open(folders["llama3_1"])  # it writes nothing after the end of a turn
    tokenized = tokenize_pair(pair, chat)
    for ids, harbour in ((tokenized.chosen, "Wick"), (tokenized.rejected, "Oban")):
        expected = apply_chat_template(folders["llama3_1"], [ASK, calling(harbour)], tools=[TOOL])["input_ids"]
        assert ids.tolist() == expected
    expected = apply_chat_template(folders["llama3_1"], WITH_RESULT, tools=[TOOL])["input_ids"]
    assert tokenize_pair(after, chat).chosen.tolist() == expected
    _, counts = tokenize_split(
        tmp_path, preferences.TRAIN, Chat.open(folders["phi3"]), tmp_path, max_tokens=999, seed=0,
        on_progress=lambda done, total: None,
    )  # fmt: skip
    assert (counts.kept, counts.template_refuses, counts.refused_calls) == (0, 2, 2)
