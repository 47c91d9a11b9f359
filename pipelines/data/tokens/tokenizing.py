"""Tokenizers: training one, opening one from a Hugging Face folder, encoding text in batches.

Only the Rust library `tokenizers` is used: it opens in 0.1 s, while transformers' wrapper costs seconds per process.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pipelines.data.tokens import chat_format
from pipelines.errors import UserError

# Words with the space before them, contractions, single digits, punctuation, line breaks. Chinese has no spaces: runs
# of CJK characters are words here, and BPE merges the frequent ones. Kana, Hangul and Latin stay apart from them.
WORDS = (
    r"'(?i:[sdmt]|ll|ve|re)"
    r"|\p{Han}+"
    r"|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{L}\p{M}])+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


ROLE_REPEATS = 10_000  # more than nearly any word of a sample: the chat template writes a role in every turn


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Trains byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2) with single digits and the chat tokens.

    vocabulary: target size, special tokens and the 256 bytes included; too little text gives a smaller one. The same
    texts in the same order give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(chat_format.SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
        max_token_length=24,  # bytes: eight Chinese characters; longer tokens are memorised phrases
    )
    roles = list(chat_format.ROLES) * ROLE_REPEATS
    tokenizer.train_from_iterator(itertools.chain(roles, texts), trainer)
    bos = tokenizer.token_to_id(chat_format.BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{chat_format.BOS} $A", pair=f"{chat_format.BOS} $A $B", special_tokens=[(chat_format.BOS, bos)]
            ),
        ]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, *, max_tokens: int) -> None:
    """Writes a folder that transformers and vLLM open: tokenizer.json, tokenizer_config.json, chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": chat_format.BOS,
        "eos_token": chat_format.EOS,
        "pad_token": chat_format.PAD,
        "additional_special_tokens": [chat_format.TURN_START, chat_format.TURN_END],
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat_format.TEMPLATE, encoding="utf-8")


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""The files of a tokenizer in a Hugging Face folder; those that exist are copied with every model."""


def same_tokenizer(first: Path, second: Path) -> bool:
    """Whether the tokenizers of two Hugging Face folders have the same token ids and merges."""
    first_json, second_json = ((folder / "tokenizer.json").read_bytes() for folder in (first, second))
    return first_json == second_json or _tokens_and_merges(first_json) == _tokens_and_merges(second_json)


def _tokens_and_merges(tokenizer_json: bytes) -> tuple[Any, ...]:
    """The parts of a tokenizer.json that decide the ids of a text; libraries write the rest differently."""
    tokenizer = json.loads(tokenizer_json)
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    return added, tokenizer["model"].get("vocab"), tokenizer["model"].get("merges")


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and the ids that frame a document: [bos?] text [eos].

    Where a document's text contains <|im_end|> or another special token, it gets the tokens of those characters, never
    the special token: only framing and the chat template write these."""

    tokenizer: Tokenizer
    bos_id: int | None
    eos_id: int
    pad_id: int

    @classmethod
    def open(cls, folder: Path) -> Encoder:
        """Opens a Hugging Face folder. Raises UserError if its tokenizer cannot be read or has no eos_token."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"{folder}: no tokenizer.json; expected a Hugging Face folder with a fast tokenizer")
        config_file = folder / "tokenizer_config.json"
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises no more specific type
            raise UserError(f"{file}: not readable as a tokenizer ({error})") from None
        config = _json_object(config_file)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # as plain text
        ids = {name: _token_id(tokenizer, config.get(f"{name}_token")) for name in ("bos", "eos", "pad")}
        eos_id = ids["eos"] if ids["eos"] is not None else _model_eos_id(folder)
        if eos_id is None:
            raise UserError(
                f"{config_file}: names no eos_token that is in the vocabulary, nor does generation_config.json beside "
                f"it name an eos_token_id; documents need an end"
            )
        return cls(tokenizer, ids["bos"], eos_id, eos_id if ids["pad"] is None else ids["pad"])

    @property
    def vocabulary(self) -> int:
        """Number of token ids, special tokens included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    @cached_property
    def num_ids(self) -> int:
        """One more than the largest token id: more than `vocabulary` where ids have gaps."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the token ids of each text, without framing. int32 [T] each."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def frame(self, ids: np.ndarray) -> np.ndarray:
        """Frames a document for models: bos token (if the tokenizer has one), text, eos token. int32 [T]."""
        bos = [] if self.bos_id is None else [self.bos_id]
        return np.concatenate([np.asarray(bos, np.int32), ids, np.asarray([self.eos_id], np.int32)])


def _json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file. Raises UserError if it cannot be read."""
    try:
        value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: not readable as JSON (it holds no object)")
    return value


def _model_eos_id(folder: Path) -> int | None:
    """The first eos_token_id of a model's own files, for a tokenizer that names none."""
    for name in ("generation_config.json", "config.json"):
        eos_id = _json_object(folder / name).get("eos_token_id")
        eos_id = eos_id[0] if isinstance(eos_id, list) and eos_id else eos_id
        if isinstance(eos_id, int):
            return eos_id
    return None


def _token_id(tokenizer: Tokenizer, token: str | dict[str, Any] | None) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return None if text is None else tokenizer.token_to_id(text)


def balanced_repeats(sizes: Mapping[str, float], *, total_bytes: int, exponent: float) -> dict[str, float]:
    """Returns how often each language's text repeats in the tokenizer's training sample: 0.3 means 30% of the text.

    sizes: bytes of text by language; total_bytes: size of the sample, at most all text. A language's fraction of the
    sample is proportional to size^exponent (Conneau & Lample 2019, eq. 1: 1 keeps the sizes, 0 makes all languages
    equal), so that a small language gets tokens for its words."""
    weights = {language: size**exponent for language, size in sizes.items() if size > 0}
    total_weight = sum(weights.values())
    sample_bytes = min(total_bytes, sum(sizes.values()))
    return {language: sample_bytes * weight / total_weight / sizes[language] for language, weight in weights.items()}
