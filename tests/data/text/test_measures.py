"""Words, lines and counts, against slow and obvious reference loops."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.text.document_stats import DocumentStats, document_stats
from pipelines.data.text.measures import LONG_LINE_WIDTH, NGRAM, TOP_NGRAM, hash_texts

CHINESE = "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
TEXTS = [
    "",
    " \n\t ",
    "Hello, World!",
    "It's a well-known fact: x_1 = 3.14 (e.g. in `code`).",
    "床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。",
    "用Python写的程序，版本3.11，真好！OK？",
    "- one\n- two\n• three\n  * four\nplain",
    "wait...\nwhat…\nyes. . .\n..",
    "=====\n-----\ntitle\n=====",
    "한국어 문장 입니다",
    "naïve café ÀÉ",
    "\ufffd\ue000 broken 😀 emoji",
    "aaaaaaaa 哈哈哈哈哈哈哈 ------------ 11111",
    "the cat sat on the mat " * 6,
    "重要的事情说三遍。" * 5,
    "same line here\nother\nsame line  here\nsame line here",
    "tail\u3000full\u3000width",
]


def stats_of(text: str) -> DocumentStats:
    texts = pa.array([text], pa.string())
    return document_stats(texts, ["en"], hash_texts(texts))[0]


def words_of(text: str) -> list[str]:
    """Chinese characters, and the runs between blanks, full-width signs and Chinese, lower-case without signs."""
    words = []
    pattern = rf"[{CHINESE}]|[^\s{CHINESE}]+"
    for piece in re.findall(pattern, text):
        if re.fullmatch(rf"[{CHINESE}]", piece):
            words.append(piece)
            continue
        parts = [""]
        for character in piece:
            alphanumeric = unicodedata.category(character)[0] in "LMN"
            if ord(character) >= 0x2E80 and not alphanumeric:
                parts.append("")
            elif alphanumeric:
                parts[-1] += character.lower() if character.isascii() else character
        words += [part for part in parts if part]
    return words


def width_of(text: str) -> int:
    return sum(2 if ord(c) >= 0x2E80 else 1 for c in text if not c.isspace())


def lines_with_words(text: str) -> list[str]:
    lines = ["".join(line.split()) for line in text.split("\n")]
    return [line for line in lines if any(unicodedata.category(c)[0] in "LMN" for c in line)]


@pytest.mark.parametrize("text", TEXTS)
def test_counts_equal_those_of_a_plain_loop(text: str) -> None:
    stats = stats_of(text)
    words, lines = words_of(text), lines_with_words(text)
    assert stats.words == len(words)
    assert stats.characters == len("".join(text.split()))
    assert stats.chinese == len(re.findall(rf"[{CHINESE}]", text))
    assert stats.letters == sum(unicodedata.category(c)[0] in "LM" for c in text) - stats.chinese
    assert stats.width == width_of(text)
    assert stats.lines == len(lines)
    assert stats.duplicate_line_width == sum(width_of(x) for n, x in enumerate(lines) if x in lines[:n])
    assert stats.ellipsis_lines == sum(line.endswith(("...", "…")) for line in lines)
    assert stats.bullet_lines == sum(line[0] in "-*+•" for line in lines)
    assert stats.repeated_characters == sum(len(m[0]) for m in re.finditer(r"([^\W_])\1{5,}", text))


@pytest.mark.parametrize("text", TEXTS)
def test_repeated_ngrams_equal_those_of_a_plain_loop(text: str) -> None:
    words = words_of(text)
    script = sum(bool(re.fullmatch(f"[{CHINESE}]", word)) for word in words) > len(words) / 2
    length, top_length = NGRAM[script], TOP_NGRAM[script]
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for first in range(len(words) - length + 1):
        ngram = tuple(words[first : first + length])
        if ngram in seen:
            covered.update(range(first, first + length))
        seen.add(ngram)
    top = Counter(tuple(words[n : n + top_length]) for n in range(len(words) - top_length + 1))
    max_occurrences = max(top.values(), default=0)
    stats = stats_of(text)
    assert stats.duplicate_ngram_words == len(covered)
    assert stats.top_ngram_words == (min(max_occurrences * top_length, len(words)) if max_occurrences > 1 else 0)


def test_equal_words_have_equal_hashes_and_different_ones_different() -> None:
    texts = [text for text in TEXTS if text.strip()]
    hashed = hash_texts(pa.array(texts, pa.string()))
    words = [word for text in texts for word in words_of(text)]
    assert len(words) == len(hashed.words)
    assert len(set(words)) == len(set(hashed.words.tolist()))
    assert len(set(zip(words, hashed.words.tolist(), strict=True))) == len(set(words))


def test_statistics_of_a_batch_equal_those_of_its_documents_alone() -> None:
    mixed = [random.Random(n).choice(TEXTS) for n in range(200)]
    together = pa.chunked_array([mixed[:3], mixed[3:]]).combine_chunks()
    alone = [stats_of(text) for text in mixed]
    assert list(document_stats(together, ["en"] * 200, hash_texts(together))) == alone
    sliced = together.slice(50, 100)
    assert list(document_stats(sliced, ["en"] * 100, hash_texts(sliced))) == alone[50:150]


def test_long_lines_have_at_least_the_minimum_width() -> None:
    english, chinese = "x" * (LONG_LINE_WIDTH - 1), "字" * (LONG_LINE_WIDTH // 2 - 1)
    texts = [f"{english}\n{english}x\n  {english} x", f"{chinese}\n{chinese}字", "", "=" * 80, "- - -"]
    lists = hash_texts(pa.array(texts, pa.string())).long_lines().to_pylist()
    assert [len(hashes) for hashes in lists] == [2, 1, 0, 1, 0]
    assert lists[0][0] == lists[0][1]  # blanks do not matter


def test_no_documents_give_empty_arrays() -> None:
    hashed = hash_texts(pa.array([], pa.string()))
    assert hashed.counts.shape[0] == 0
    assert np.array_equal(hashed.word_starts, [0])
