"""Many texts are normalised at once as each is by itself."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa

from pipelines.data.text.normalise import mojibake, normalise
from pipelines.data.text.plain_texts import are_plain, normalised, plain_characters

PIECES = [
    "word", "字", "。", "\u3000", " ", "\t", "\n", "\n\n", "\r\n", "\r", "\x0b", "\x85", "\u2028", "\ufeff",
    "\u200b", "e\u0301", "é", "\u0301", "가", "\u1100\u1161", "\u1161", "가\u11a8", "\u09c7\u09be", "カ\u3099",
    "ｶﾞ", "ﬁ", "①", "Ã©", "â€™", "ä½", "锟斤拷", "鈥檚", "café", "😀", "𠀀", "\U0002f800", "\ue000", "\u200d", "\xa0",
    "\xad", "\0",
]  # fmt: skip


def test_texts_are_normalised_and_traces_counted_as_one_by_one() -> None:
    rng = random.Random(1)
    texts = ["", *PIECES, *("".join(rng.choices(PIECES, k=rng.choice((1, 2, 3, 8)))) for _ in range(20_000))]
    result, garbled = normalised(pa.array(texts, pa.string()))
    assert result.to_pylist() == [normalise(text) for text in texts]
    assert garbled.tolist() == [mojibake(text) for text in texts]


def test_no_character_that_is_plain_is_changed_beside_any_other() -> None:
    """Each of them between letters, after each combining mark that Unicode composes, and all of them in a row."""
    signs = [chr(code) for code in np.flatnonzero(plain_characters()).tolist()]
    words = [f"a{sign}a" for sign in signs if not sign.isspace()]
    assert len(words) > 40_000
    assert [word for word in words if normalise(word) != word or mojibake(word)] == []
    row = "".join(sign for sign in signs if not sign.isspace())
    assert normalise(row) == row


def test_nearly_all_texts_are_plain() -> None:
    texts = ["A line.\n\n    code = 1\n\tx", "一行字，“引文”……", "１２３", "naïve", "a ", "\na", "a \nb", "a\n\n\nb"]
    assert are_plain(pa.array(texts, pa.string())).tolist() == [True, True, True, False, False, False, False, False]
    assert are_plain(pa.array([], pa.string())).tolist() == []
