"""Compiled counts of words equal those of plain loops over the words of each text by itself."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.text import document_stats as document_stats_module
from pipelines.data.text import web_table
from pipelines.data.text.document_stats import document_stats
from pipelines.data.text.measures import buffers
from pipelines.data.text.web_counts import WebCounts, web_texts
from pipelines.data.text.web_ngrams import first_above
from pipelines.data.text.web_words import is_sign, ngram_length, num_sentences, num_words, words

PIECES = [
    *("the", "and", "cannot", "gonna", "don't", "O'Neil's", "e.g.", "Mr.", "3.14%", "$5,000;", "https://a.org/b-c..."),
    *("他来了。", "用Python写", "·", "的", "是", "…", "...", "•", "-", "\u3000", "\x85", "\u2028", "\r\n", "\n"),
    *("𠀀", "𝒜bc", "😀", "\u00a0", "ſ", "İ", "ß", "１２", "〇", "々", "カナ", "한글", "{", "!", "？", "(or", "so)."),
    *("x" * 30, "_#*~[]" * 400, "foo,bar", "A.B.", "cannot.", "e\u0301", "\n\n", "\x1c"),
]  # fmt: skip


def texts_of(seed: int, number: int = 200) -> list[str]:
    rng = random.Random(seed)
    sizes = [rng.choice((0, 1, 3, 10, 100)) for _ in range(number)]
    return [rng.choice(("", " ", " ", "\n")).join(rng.choices(PIECES, k=size)) for size in sizes]


def counts_of(texts: list[str], language: str) -> WebCounts:
    return web_texts(pa.array(texts, pa.string()), [language] * len(texts))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_counts_equal_those_of_plain_loops(language: str) -> None:
    texts = texts_of(1)
    counts = counts_of(texts, language)
    for place, text in enumerate(texts):
        of_text, lines = words(text, language), text.splitlines()
        real = [word for word in of_text if not is_sign(word)]
        first, stop = counts.word_bounds_D[place]
        assert counts.words(language)[place] == num_words(text, language)
        assert counts.real_characters[place] == len("".join(real))
        assert counts.lengths_N[first:stop].tolist() == [len(word) for word in of_text]
        assert len(set(counts.hashes_N[first:stop].tolist())) == len(set(of_text))
        assert counts.sentences(place) == [num_sentences(line, language) for line in lines]
        if language == "zh":
            assert counts.line_words(place) == [num_words(line, "zh") for line in lines]
        else:
            stop_words = {"the", "be", "to", "of", "and", "that", "have", "with"} & set(of_text)
            assert counts.real_words(language)[place] == len(real)
            assert counts.lettered_words(language)[place] == sum(any(map(str.isalpha, word)) for word in real)
            assert counts.stop_words[place] == len(stop_words)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_of_the_lines_that_are_left_are_known_without_counting_again(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text for text in texts_of(3) if "[" not in text]
    rng = random.Random(3)
    documents = document_stats(pa.array(texts, pa.string()), [language] * len(texts))
    rows = np.arange(len(texts))
    documents.plan_web_words(rows)
    assert len(documents.web(rows).words(language)) == len(rows)
    lines, left = {}, {}
    for row in range(0, len(texts), 2):  # the others stay as they are
        of_text = texts[row].splitlines()
        lines[row] = tuple(sorted(rng.sample(range(len(of_text)), len(of_text) // 2)))
        left[row] = "\n".join(of_text[number].strip() for number in lines[row]).strip()
    expected = [num_words(left.get(row, text), language) for row, text in enumerate(texts)]
    assert documents.with_texts(left).num_words(rows, language).tolist() == expected  # counted
    monkeypatch.delattr(document_stats_module, "web_texts")
    assert documents.with_texts(left, lines).num_words(rows, language).tolist() == expected  # known


def test_counts_do_not_depend_on_the_texts_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(counts: WebCounts, place: int) -> list[object]:
        bounds = counts.word_bounds_D[place]
        of_text = [column[slice(*bounds)].tolist() for column in (counts.hashes_N, counts.lengths_N)]
        return [counts.counts_D[place].tolist(), counts.sentences(place), *of_text]

    texts = texts_of(2)
    counts = counts_of(texts, "en")
    monkeypatch.setattr(web_table, "MAX_CHUNKS", 40)  # the table is emptied before nearly every text
    for place, text in enumerate(texts):
        assert plain(counts_of([text], "en"), 0) == plain(counts, place)


def test_the_table_grows_with_its_chunks() -> None:
    chunks = ["".join(letters) for letters in itertools.product("abcdefghijklmnopqrstuvwxyz", repeat=4)][:100_000]
    table, texts = web_table.Table(), buffers(pa.array([" ".join([*chunks, *chunks])], pa.string()))
    numbers_C, starts_C, _ = table.cut(*texts, np.zeros(1, np.bool_))
    assert numbers_C.tolist() == [*numbers_C[: len(chunks)].tolist()] * 2 and len(set(numbers_C)) == len(chunks)
    assert starts_C.tolist() == list(range(0, 5 * len(numbers_C), 5))
    again_C, _, _ = table.cut(*texts, np.zeros(1, np.bool_))
    assert np.array_equal(again_C, numbers_C)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_characters_in_repeated_ngrams_equal_those_of_a_plain_loop(language: str) -> None:
    rng = random.Random(3)
    texts = [
        " ".join(rng.choices(["one", "two", "three", "four", "好"], k=rng.choice((0, 2, 5, 40)))) for _ in range(100)
    ]
    top, duplicate = (2, 3, 4), (5, 6, 8)
    counts = counts_of(texts, language)
    expected_D = [repeated_ngrams(words(text, language), language, top, duplicate) for text in texts]
    assert any(map(any, expected_D))
    for place, n in enumerate((*top, *duplicate)):
        limits = [{other: 0.5 if other == n else 1e9 for other in numbers} for numbers in (top, duplicate)]
        characters_D = np.array([expected[place] for expected in expected_D])
        places_D, _ = first_above(counts, language, limits[0], limits[1], 2 * characters_D)
        assert (places_D == -1).all()
        places_D, found_D = first_above(counts, language, limits[0], limits[1], np.maximum(2 * characters_D - 1, 0))
        assert np.array_equal(places_D, np.where(characters_D > 0, place, -1))
        assert np.array_equal(found_D, characters_D)


def repeated_ngrams(of_text: list[str], language: str, top: Sequence[int], duplicate: Sequence[int]) -> list[int]:
    """Characters of n-grams: of all occurrences of the most frequent one, then of those that repeat an earlier one."""
    expected: list[int] = []
    for n in top:
        length = ngram_length(n, language)
        ngrams = [tuple(of_text[first : first + length]) for first in range(len(of_text) - length + 1)]
        best, number = Counter(ngrams).most_common(1)[0] if ngrams else ((), 0)
        expected.append((len("".join(best)) + n - 1) * number)
    for n in duplicate:
        length, first, characters = ngram_length(n, language), 0, 0
        seen: set[tuple[str, ...]] = set()
        while first + length <= len(of_text):
            ngram = tuple(of_text[first : first + length])
            if ngram in seen:
                characters, first = characters + len("".join(ngram)), first + length
            else:
                seen.add(ngram)
                first += 1
        expected.append(characters)
    return expected
