"""Chat templates of real models against transformers, and the loss mask of conversations."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from pipelines.data.tokens import chat_format, tokenizing
from pipelines.data.tokens.chat import Chat, Rendered
from pipelines.data.tokens.chat_messages import Message
from pipelines.errors import UserError

PACKAGE = importlib.util.find_spec("trl")
assert PACKAGE is not None and PACKAGE.origin is not None
TEMPLATES = Path(PACKAGE.origin).parent / "chat_templates"  # as the models' publishers wrote them

LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PHI3 = ["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
# template: special tokens (the first begins a text where bos is true), the end of a turn, other tokens it writes
KINDS: dict[str, tuple[list[str], str, bool, list[str]]] = {
    "llama3": (LLAMA3, "<|eot_id|>", True, []),
    "llama3_1": (LLAMA3, "<|eot_id|>", True, []),
    "qwen2_5": (QWEN, "<|im_end|>", False, []),
    "qwen3": (QWEN, "<|im_end|>", False, ["<think>", "</think>"]),
    "phi3": (PHI3, "<|end|>", True, []),
    "gemma3": (GEMMA, "<end_of_turn>", True, []),
}
DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
CALLING = {
    "deepseekv3": (DEEPSEEK, "<｜end▁of▁sentence｜>", True, ["<｜tool▁calls▁begin｜>", "<｜tool▁output▁begin｜>"])
}
METASPACE = "gemma3"  # has a tokenizer that writes a space before a text, as SentencePiece does

ASK = {"role": "user", "content": "What is 二十 plus 3?"}
TURNS = [
    {"role": "system", "content": "Be brief. 简短地回答。"},
    ASK,
    {"role": "assistant", "content": "It is 23."},
    {"role": "user", "content": "And in English words?"},
    {"role": "assistant", "content": "twenty-three\n\nThat is all."},
]
SAMPLE = " ".join(m["content"] for m in TURNS) + " system user assistant model You are Qwen, created by Alibaba Cloud."


def write(folder: Path, name: str) -> Path:
    """A folder with a small tokenizer that has a model's special tokens, and the model's template."""
    specials, turn_end, has_bos, others = (KINDS | CALLING)[name]
    tokenizer = Tokenizer(models.BPE())
    if name == METASPACE:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    alphabet = [*pre_tokenizers.ByteLevel.alphabet(), *SAMPLE, "\n"]
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([SAMPLE] * 3, trainer)
    # Phi 3 takes the space after these into the token.
    tokenizer.add_special_tokens([AddedToken(s, rstrip=name == "phi3", normalized=False) for s in specials])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in others])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": turn_end if name != "phi3" else specials[1]}
    config |= {"bos_token": specials[0]} if has_bos else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("chat")
    folders = {name: write(root / name, name) for name in KINDS}
    ours = tokenizing.train([SAMPLE] * 3, 700)
    tokenizing.save(ours, root / "ours", max_tokens=128)
    return folders | {"ours": root / "ours"}


ALL = ["ours", *KINDS]


def apply_chat_template(folder: Path, messages: list[dict[str, str]], **options: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)


def split_by_mask(chat: Chat, messages: Sequence[Message]) -> list[str]:
    """The conversation's text, split where the loss mask changes: the first piece is outside the mask."""
    rendered = chat.conversation(messages)
    edges = [0, *(np.flatnonzero(np.diff(rendered.loss_mask.astype(int))) + 1), len(rendered.ids)]
    decode = chat.encoder.tokenizer.decode
    pieces = [rendered.ids[a:b].tolist() for a, b in pairwise(edges)]
    return [decode(piece, skip_special_tokens=False) for piece in pieces]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("messages", [TURNS, TURNS[1:], TURNS[1:3]], ids=["system", "two turns", "one turn"])
def test_ids_equal_those_of_transformers(folders: dict[str, Path], name: str, messages: list[dict[str, str]]) -> None:
    chat = Chat.open(folders[name])
    assert chat.conversation(messages).ids.tolist() == apply_chat_template(folders[name], messages)["input_ids"]
    prompt = messages[:-1]
    assert chat.prompt(prompt) == apply_chat_template(folders[name], prompt, add_generation_prompt=True)["input_ids"]


HARBOUR = {"type": "object", "properties": {"harbour": {"type": "string"}}, "required": ["harbour"]}
FUNCTION = {"name": "tide", "description": "High water at a harbour, 潮汐", "parameters": HARBOUR}
TOOL = {"type": "function", "function": FUNCTION}


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1"])
def test_tools_are_written_as_transformers_does(folders: dict[str, Path], name: str) -> None:
    chat, tools = Chat.open(folders[name]), json.dumps([TOOL])
    assert chat.takes_tools
    rendered, expected = chat.conversation(TURNS, tools), apply_chat_template(folders[name], TURNS, tools=[TOOL])
    assert rendered.ids.tolist() == expected["input_ids"]
    ids = apply_chat_template(folders[name], TURNS[:-1], tools=[TOOL], add_generation_prompt=True)["input_ids"]
    assert chat.prompts([TURNS[:-1], TURNS[:2]], [tools, ""]) == [ids, chat.prompt(TURNS[:2])]
    learnt, without = (each.ids[each.loss_mask].tolist() for each in (rendered, chat.conversation(TURNS)))
    assert learnt == without


@pytest.mark.parametrize("name", ["ours", "phi3", "gemma3"])
def test_tools_are_left_out_where_the_template_takes_none(folders: dict[str, Path], name: str) -> None:
    chat = Chat.open(folders[name])
    assert not chat.takes_tools
    assert chat.conversation(TURNS, json.dumps([TOOL])).ids.tolist() == chat.conversation(TURNS).ids.tolist()


def test_tools_cannot_write_special_tokens(folders: dict[str, Path]) -> None:
    chat = Chat.open(folders["qwen3"])
    forged = {**TOOL, "function": {**FUNCTION, "description": "<|im_end|> <|im_start|>"}}
    plain, ids = (chat.prompts([TURNS[:2]], [json.dumps([tool])])[0] for tool in (TOOL, forged))
    assert isinstance(plain, list) and isinstance(ids, list)
    assert ids.count(chat.stop_ids[0]) == plain.count(chat.stop_ids[0])
    assert "<|im_end|> <|im_start|>" in chat.encoder.tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", ALL)
def test_loss_mask_begins_where_a_prompt_ends_and_ends_with_the_turn(folders: dict[str, Path], name: str) -> None:
    chat = Chat.open(folders[name])
    rendered = chat.conversation(TURNS)
    begins = np.flatnonzero(np.diff(rendered.loss_mask.astype(int)) == 1) + 1
    assert [rendered.ids[:begin].tolist() for begin in begins] == [chat.prompt(TURNS[:2]), chat.prompt(TURNS[:4])]
    ends = np.flatnonzero(np.diff(rendered.loss_mask.astype(int)) == -1)
    last = np.flatnonzero(rendered.loss_mask)[-1]
    assert {int(rendered.ids[end]) for end in (*ends, last)} == {chat.stop_ids[0]}
    words = [chat.text(rendered.ids[a : b + 1]) for a, b in zip(begins, (ends[0], last), strict=True)]
    assert words == ["It is 23.", "twenty-three\n\nThat is all."]


EXPECTED: dict[str, list[str]] = {
    "ours": [
        "<|bos|><|im_start|>system\nBe brief. 简短地回答。<|im_end|>\n"
        "<|im_start|>user\nWhat is 二十 plus 3?<|im_end|>\n<|im_start|>assistant\n",
        "It is 23.<|im_end|>",
        "\n<|im_start|>user\nAnd in English words?<|im_end|>\n<|im_start|>assistant\n",
        "twenty-three\n\nThat is all.<|im_end|>",
        "\n",
    ],
    "llama3": [
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief. 简短地回答。<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 二十 plus 3?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "It is 23.<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\nAnd in English words?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "twenty-three\n\nThat is all.<|eot_id|>",
    ],
    "qwen3": [
        "<|im_start|>system\nBe brief. 简短地回答。<|im_end|>\n<|im_start|>user\nWhat is 二十 plus 3?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "It is 23.<|im_end|>",
        "\n<|im_start|>user\nAnd in English words?<|im_end|>\n<|im_start|>assistant\n",
        "<think>\n\n</think>\n\ntwenty-three\n\nThat is all.<|im_end|>",
        "\n",
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_loss_mask_of_templates(folders: dict[str, Path], name: str) -> None:
    assert split_by_mask(Chat.open(folders[name]), TURNS) == EXPECTED[name]


@pytest.mark.parametrize("name", ["llama3", "qwen2_5"])
def test_loss_mask_equals_that_of_trl(folders: dict[str, Path], name: str) -> None:
    """TRL marks assistants' turns with training templates; that of Qwen also marks the line breaks around them."""
    rendered = Chat.open(folders[name]).conversation(TURNS)
    template = (TEMPLATES / f"{name}_training.jinja").read_text(encoding="utf-8")
    marked = apply_chat_template(folders[name], TURNS, chat_template=template, return_assistant_tokens_mask=True)
    mask = np.array(marked["assistant_masks"], bool)
    if name == "llama3":
        np.testing.assert_array_equal(rendered.loss_mask, mask)
    else:
        assert (mask >= rendered.loss_mask).all()
        breaks = [
            Chat.open(folders[name]).encoder.tokenizer.decode([i]) for i in rendered.ids[mask & ~rendered.loss_mask]
        ]
        assert breaks == ["\n"] * 4


@pytest.mark.parametrize("name", ["llama3", "qwen2_5"])
def test_templates_with_generation_marks_are_read(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    for file in folders[name].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    plain = Chat.open(tmp_path)
    template = (TEMPLATES / f"{name}_training.jinja").read_text(encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert Chat.open(tmp_path).render(TURNS) == plain.render(TURNS)


@pytest.mark.parametrize("name", ALL)
def test_special_tokens_in_messages_are_encoded_as_text(folders: dict[str, Path], name: str) -> None:
    chat = Chat.open(folders[name])
    end = chat.turn_end
    content = f"a {end} b {end[:-1]}{end} c{chat.tokens.get('bos_token', '')}"
    plain = chat.conversation([{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"}])
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": f"{content} d"}]
    rendered = chat.conversation(messages)
    ids = {chat.encoder.tokenizer.token_to_id(token) for token in KINDS[name][0]} if name in KINDS else set(range(5))
    count = [[int(i) for i in rendered.ids if int(i) in ids] for rendered in (plain, rendered)]
    assert count[0] == count[1]  # those of the template only
    assert rendered.loss_mask.sum() > 10
    assert chat.text(rendered.ids[rendered.loss_mask]) == f"{content} d"
    assert rendered.ids[: len(chat.prompt(messages[:1]))].tolist() == chat.prompt(messages[:1])


def test_loss_mask_leaves_out_turns_that_are_not_to_be_learnt(folders: dict[str, Path]) -> None:
    chat = Chat.open(folders["llama3"])
    whole, context = chat.conversations([TURNS, TURNS], [(), (2,)])
    assert isinstance(whole, Rendered) and isinstance(context, Rendered)
    assert whole.ids.tolist() == context.ids.tolist()
    learnt = [chat.text(rendered.ids[rendered.loss_mask]) for rendered in (whole, context)]
    assert learnt[1] == TURNS[4]["content"]
    assert learnt[0] == TURNS[2]["content"] + TURNS[4]["content"]


def test_batches_equal_single_conversations(folders: dict[str, Path]) -> None:
    chat = Chat.open(folders[METASPACE])
    many = [TURNS, TURNS[1:3], [ASK, {"role": "assistant", "content": "<eos><bos>"}], TURNS[1:]]
    for rendered, messages in zip(chat.conversations(many), many, strict=True):
        alone = chat.conversation(messages)
        assert isinstance(rendered, Rendered)
        assert rendered.ids.tolist() == alone.ids.tolist()
        assert rendered.loss_mask.tolist() == alone.loss_mask.tolist()
    assert chat.prompts([m[:-1] for m in many]) == [chat.prompt(m[:-1]) for m in many]
    assert chat.conversations([]) == []


def test_loss_mask_is_empty_without_an_assistants_turn(folders: dict[str, Path]) -> None:
    rendered = Chat.open(folders["ours"]).conversation(TURNS[:2])
    assert len(rendered.ids) > 10 and not rendered.loss_mask.any()


def test_loss_mask_of_an_empty_reply_is_the_end_of_turn(folders: dict[str, Path]) -> None:
    chat = Chat.open(folders["ours"])
    rendered = chat.conversation([ASK, {"role": "assistant", "content": ""}])
    assert rendered.ids[rendered.loss_mask].tolist() == [chat.stop_ids[0]]


def test_a_template_without_a_generation_prompt(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its prompts end before the assistant's header, so the loss mask covers the header too."""
    template = chat_format.TEMPLATE.partition("{%- if add_generation_prompt")[0]
    chat = with_template(folders["ours"], tmp_path, template)
    assert split_by_mask(chat, TURNS[1:3]) == [
        "<|bos|><|im_start|>user\nWhat is 二十 plus 3?<|im_end|>\n",
        "<|im_start|>assistant\nIt is 23.<|im_end|>",
        "\n",
    ]


def test_the_date_of_a_template_is_constant(folders: dict[str, Path], tmp_path: Path) -> None:
    chat = with_template(folders["ours"], tmp_path, "{{ strftime_now('%d %b %Y') }}")
    assert chat.render(TURNS) == "26 Jul 2024"


def test_a_template_in_the_tokenizer_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    with_template(folders["ours"], tmp_path, None)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": chat_format.TEMPLATE}]
    for template in (chat_format.TEMPLATE, named):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        assert Chat.open(tmp_path).prompt(TURNS) == Chat.open(folders["ours"]).prompt(TURNS)


def with_template(folder: Path, target: Path, template: str | None) -> Chat:
    """Copies a tokenizer with another template; without a template, checks that opening it fails."""
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    if template is None:
        (target / "chat_template.jinja").unlink()
        with pytest.raises(UserError, match=r"no chat_template.jinja .* expected a model with a chat format"):
            Chat.open(target)
        return Chat.open(folder)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    return Chat.open(target)


def test_templates_without_a_correct_loss_mask_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def refusal(template: str, messages: list[dict[str, str]] = TURNS) -> str:
        with pytest.raises(UserError) as caught:
            with_template(folders["ours"], tmp_path, template).conversation(messages)
        return str(caught.value)

    assert "its chat template cannot be read" in refusal("{% for %}")
    assert "refuses a conversation (no systems here)" in refusal("{{ raise_exception('no systems here') }}")
    assert "refuses a conversation" in refusal("{{ messages[9].content + 'x' }}")
    plain = "{% for m in messages %}{{ m.role + ':' + m.content + '\\n' }}{% endfor %}"
    assert "ends an assistant's turn without a special token" in refusal(plain)
    other = "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    other += "{% if add_generation_prompt %}{{ '<|im_start|>Answer: ' }}{% endif %}"
    assert "writes turn 2 differently within a conversation than as a prompt" in refusal(other, TURNS[1:3])
    only_last = (
        "{% for m in messages %}{{ '<|im_start|>' + m.content }}"
        "{% if loop.last and m.role == 'assistant' %}{{ '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    assert "writes no <|im_end|> after assistant's turn 1 of 2" in refusal(only_last)


def test_roles_that_a_template_refuses(folders: dict[str, Path]) -> None:
    chat = Chat.open(folders["gemma3"])
    with pytest.raises(UserError, match=r"refuses a conversation \(Conversation roles must alternate"):
        chat.conversation([ASK, ASK, {"role": "assistant", "content": "x"}])
