"""Training, opening and encoding with tokenizers, compared with transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jinja2
import numpy as np
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from pipelines.data.tokens import chat_format, tokenizing
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.errors import UserError

ENGLISH = "The tokenizer learns words from text. It's 3 times as long: don't count on it, we'll see what they've got.\n"
CHINESE = "机器学习是人工智能的一个分支，它研究怎样让机器从数据里学会做事。明月幾時有？把酒問青天。\n"
AWKWARD = (
    "Words, 3.14159 and 2,024 — naïve café, ñandú.\n\n\tindented  twice \r\n",
    "机器学习与 machine learning 混排：第12章，ＡＢＣ全角。繁體與简体。",
    "日本語のテキスト、한국어 텍스트, русский, العربية, हिन्दी",
    "😀👩‍👩‍👧‍👦🇨🇳 e\u0301 \u200b zero width, \ufeff mark, \x00 null",
    "",
    " ",
    "a" * 1000,
    "def f(x):\n    return x ** 2  # square\n",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizing.save(tokenizing.train([ENGLISH] * 50 + [CHINESE] * 50, 600), folder, max_tokens=2048)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder.open(folder)


def decoded(encoder: Encoder, ids: np.ndarray) -> str:
    return encoder.tokenizer.decode(ids.tolist(), skip_special_tokens=False)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, *AWKWARD])
def test_any_text_round_trips(encoder: Encoder, text: str) -> None:
    (ids,) = encoder.encode([text])
    assert ids.dtype == np.int32
    assert decoded(encoder, ids) == text


def test_each_digit_is_a_token(encoder: Encoder) -> None:
    (ids,) = encoder.encode(["2024年12月 has 365.25 days"])
    pieces = [decoded(encoder, ids[i : i + 1]) for i in range(len(ids))]
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("20241236525")


def test_frequent_words_of_both_languages_are_single_tokens(encoder: Encoder) -> None:
    for text in ("机器", " tokenizer"):
        assert len(encoder.encode([text])[0]) == 1


def test_ids_with_gaps_are_below_the_number_of_ids(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 7, "</s>": 70_000}, unk_token="a"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    encoder = Encoder.open(tmp_path)
    assert (encoder.vocabulary, encoder.num_ids, encoder.eos_id) == (3, 70_001, 70_000)


def test_special_tokens_have_the_first_ids(encoder: Encoder) -> None:
    assert [encoder.tokenizer.token_to_id(token) for token in chat_format.SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert (encoder.pad_id, encoder.bos_id, encoder.eos_id) == (0, 1, 2)


def test_the_vocabulary_has_the_requested_size_or_what_the_text_gives(encoder: Encoder) -> None:
    assert encoder.vocabulary <= 600
    assert tokenizing.train([ENGLISH + CHINESE] * 50, 280).get_vocab_size() == 280
    assert tokenizing.train(["ab ab"], 5000).get_vocab_size() < 5 + 256 + 10 + sum(map(len, chat_format.ROLES))


def test_the_same_texts_give_the_same_tokenizer() -> None:
    texts = [ENGLISH, CHINESE, *AWKWARD] * 5
    assert tokenizing.train(texts, 500).to_str() == tokenizing.train(texts, 500).to_str()


def test_a_document_is_framed_by_its_start_and_its_end(encoder: Encoder) -> None:
    framed = encoder.frame(encoder.encode(["text"])[0])
    assert framed.dtype == np.int32
    assert framed[0] == encoder.bos_id and framed[-1] == encoder.eos_id
    without = Encoder(encoder.tokenizer, None, encoder.eos_id, encoder.pad_id)
    assert without.frame(np.zeros(0, np.int32)).tolist() == [encoder.eos_id]


def test_special_tokens_in_a_document_are_encoded_as_text(encoder: Encoder) -> None:
    text = "A turn ends with <|im_end|>, a document with <|eos|>; 以<|im_start|>开始。"
    (ids,) = encoder.encode([text])
    assert not set(ids.tolist()) & set(range(5))
    assert decoded(encoder, ids) == text


MESSAGES = [
    {"role": "system", "content": "Be brief. 简短。"},
    {"role": "user", "content": "  What is 12 + 30?\n"},
    {"role": "assistant", "content": "42 🙂"},
    {"role": "user", "content": "为什么？"},
]


@pytest.mark.parametrize("prompt", [False, True])
def test_transformers_renders_and_reads_the_template_as_jinja_does(
    folder: Path, encoder: Encoder, prompt: bool
) -> None:
    from transformers import AutoTokenizer

    hf_tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = jinja2.Environment()
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers and vLLM make it
    expected = "<|bos|>" + "".join(
        f"<|im_start|>{m['role']}\n{m['content'].strip()}<|im_end|>\n" for m in MESSAGES
    ) + "<|im_start|>assistant\n" * prompt  # fmt: skip
    for environment in (plain, sandbox):
        template = environment.from_string((folder / "chat_template.jinja").read_text(encoding="utf-8"))
        assert template.render(messages=MESSAGES, bos_token=chat_format.BOS, add_generation_prompt=prompt) == expected
    assert hf_tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=prompt) == expected

    ids = hf_tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=prompt, return_dict=False)
    assert ids[0] == encoder.bos_id and ids.count(encoder.bos_id) == 1
    assert ids.count(3) == len(MESSAGES) + prompt
    assert ids.count(4) == len(MESSAGES)


def test_transformers_gives_the_same_ids(folder: Path, encoder: Encoder) -> None:
    from transformers import AutoTokenizer

    hf_tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (hf_tokenizer.bos_token_id, hf_tokenizer.eos_token_id, hf_tokenizer.pad_token_id) == (1, 2, 0)
    assert hf_tokenizer.model_max_length == 2048
    for text in (ENGLISH, CHINESE, *AWKWARD):
        (ours,) = encoder.encode([text])
        assert hf_tokenizer(text, add_special_tokens=False)["input_ids"] == ours.tolist()
        assert hf_tokenizer(text)["input_ids"] == [1, *ours.tolist()]  # a prompt begins a document
        assert hf_tokenizer.decode(ours, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json; expected a Hugging Face folder"),
        (
            lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0"'),
            "tokenizer.json: not readable as a tokenizer",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text("{"),
            "tokenizer_config.json: not readable as JSON",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text("{}"),
            "names no eos_token that is in the vocabulary",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}'),
            "names no eos_token that is in",
        ),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "names no eos_token that is in the vocabulary"),
        (
            lambda folder: (
                [(folder / f"{name}_config.json").write_text("{") for name in ("tokenizer", "generation")]
                and (folder / "tokenizer_config.json").write_text("{}")
            ),
            "generation_config.json: not readable as JSON",
        ),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json: not readable as"),
    ],
)
def test_a_folder_without_a_valid_tokenizer_is_a_user_error(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        Encoder.open(tmp_path)


def test_tokens_given_as_objects_are_read_and_padding_falls_back_to_eos(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    config = {"eos_token": {"content": chat_format.EOS, "lstrip": False}, "bos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    encoder = Encoder.open(tmp_path)
    assert (encoder.bos_id, encoder.eos_id, encoder.pad_id) == (None, 2, 2)


def test_truncation_and_padding_of_another_tokenizer_are_disabled(folder: Path, tmp_path: Path) -> None:
    other = Encoder.open(folder).tokenizer
    other.enable_truncation(4)
    other.enable_padding(length=4)
    tokenizing.save(other, tmp_path, max_tokens=4)
    lengths = [len(ids) for ids in Encoder.open(tmp_path).encode(["a", ENGLISH])]
    assert lengths[0] == 1 and lengths[1] > 4


@pytest.mark.parametrize(
    ("sizes", "total", "exponent", "expected"),
    [
        ({"en": 900, "zh": 100}, 1000, 1.0, {"en": 1.0, "zh": 1.0}),
        ({"en": 900, "zh": 100}, 500, 1.0, {"en": 0.5, "zh": 0.5}),
        ({"en": 900, "zh": 100}, 1000, 0.0, {"en": 500 / 900, "zh": 5.0}),
        ({"en": 900, "zh": 100}, 1000, 0.5, {"en": 750 / 900, "zh": 2.5}),  # √900 : √100 = 3 : 1
        ({"en": 900, "zh": 0}, 10_000, 0.5, {"en": 1.0}),
        ({}, 1000, 0.5, {}),
    ],
)
def test_a_balanced_sample_weights_languages_by_size_to_the_exponent(
    sizes: dict[str, int], total: int, exponent: float, expected: dict[str, float]
) -> None:
    repeats = tokenizing.balanced_repeats(sizes, total_bytes=total, exponent=exponent)
    assert repeats == pytest.approx(expected)


def test_the_same_tokens_and_merges_are_the_same_tokenizer_however_they_are_written(
    folder: Path, tmp_path: Path
) -> None:
    other, changed = tmp_path / "other", tmp_path / "changed"
    tokenizing.save(tokenizing.train([ENGLISH] * 50, 600), other, max_tokens=2048)
    assert not tokenizing.same_tokenizer(folder, other)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    changed.mkdir()
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer | {"truncation": None}), encoding="utf-8")
    assert tokenizing.same_tokenizer(folder, changed) and tokenizing.same_tokenizer(folder, folder)
    tokenizer["added_tokens"][0]["content"] = "<|other|>"
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert not tokenizing.same_tokenizer(folder, changed)
