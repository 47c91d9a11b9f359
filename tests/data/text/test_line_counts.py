"""Compiled counts of lines and signs equal those of plain Python on each text."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.data.text.line_counts import (
    filled_lines,
    joined_by_spaces,
    line_shapes,
    repeated_pieces,
    signs_and_lines,
)
from pipelines.data.text.web_words import TERMINAL_SIGNS
from pipelines.inference.process_memory import restart_peak, status_bytes

PIECES = [
    "a", "b", "ab.", "字", "字。", "•", "-", "...", ".", "…", "#", " ", "\u3000", "\t", "\n", "\n", "\n\n", "\r\n",
    "\r", "\x85", "\u2028", "\x1c", "😀", "!", "——",
]  # fmt: skip


def texts_of(seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["", *PIECES, *("".join(rng.choices(PIECES, k=rng.choice((2, 5, 12, 40)))) for _ in range(5000))]


def duplicates(pieces: Sequence[str]) -> list[int]:
    """Number of pieces, of those that repeat an earlier one, and the characters of these."""
    repeated = [piece for number, piece in enumerate(pieces) if piece in pieces[:number]]
    return [len(pieces), len(repeated), len("".join(repeated))]


def test_paragraphs_and_lines_that_repeat_earlier_ones() -> None:
    texts = texts_of(1)
    counts = repeated_pieces(pa.array(texts, pa.string()), np.arange(len(texts)))
    for text, count in zip(texts, counts.tolist(), strict=True):
        paragraphs = re.split(r"\n{2,}", text)
        assert count == [*duplicates(paragraphs), *duplicates("\n".join(paragraphs).split("\n"))], repr(text)


def test_lines_of_one_size_with_the_same_ends_and_middle_are_compared_as_a_whole() -> None:
    texts = ["abcdefgh\naXcdefgh", "abcdefgh\naXcdefgh\nabcdefgh", "abcdefgh\n\naXcdefgh\n\nabcdefgh"]
    counts = repeated_pieces(pa.array(texts, pa.string()), np.arange(len(texts)))
    assert counts.tolist() == [[1, 0, 0, 2, 0, 0], [1, 0, 0, 3, 1, 8], [3, 1, 8, 3, 1, 8]]


def test_signs_bullets_and_ellipses() -> None:
    texts = texts_of(2)
    counts = signs_and_lines(pa.array(texts, pa.string()), np.arange(len(texts)))
    for text, count in zip(texts, counts.tolist(), strict=True):
        lines = text.splitlines()
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
        expected = [text.count("#"), text.count("...") + text.count("…"), len(lines), bullets, ellipses]
        assert count == expected, repr(text)


def test_lines_that_are_not_blank() -> None:
    texts = texts_of(4)
    expected = [sum(not line.isspace() for line in text.splitlines() if line) for text in texts]
    assert filled_lines(pa.array(texts, pa.string())).tolist() == expected
    assert filled_lines(pa.array(texts, pa.string())[7:90]).tolist() == expected[7:90]


def test_what_stands_between_blanks_joined_by_spaces() -> None:
    texts = texts_of(5)
    for array, of_array in ((pa.array(texts, pa.string()), texts), (pa.array(texts, pa.string())[7:90], texts[7:90])):
        joined, ends = joined_by_spaces(array)
        expected = [" ".join(text.split()).encode() for text in of_array]
        assert joined.tobytes() == b"".join(expected)
        assert ends.tolist() == np.cumsum([len(text) for text in expected]).tolist()


def test_shapes_of_lines() -> None:
    texts = texts_of(3)
    counts = line_shapes(pa.array(texts, pa.string()), np.arange(len(texts)), 5)
    for text, count in zip(texts, counts.tolist(), strict=True):
        lines = [line for line in text.split("\n") if line.strip()]
        ended, short = sum(line[-1] in TERMINAL_SIGNS for line in lines), sum(len(line) <= 5 for line in lines)
        assert count == [text.count("\n"), len(lines), ended, short, duplicates(lines)[2]], repr(text)


def test_only_the_texts_at_the_places_are_counted() -> None:
    texts, places = pa.array(texts_of(4), pa.string()), np.array([3, 700, 2])
    for count in (repeated_pieces, signs_and_lines, lambda texts, rows: line_shapes(texts, rows, 9)):
        assert np.array_equal(count(texts, places), count(texts, np.arange(len(texts)))[places])
        assert count(texts, places[:0]).shape[0] == 0


def test_memory_is_for_the_lines_of_a_text_and_not_for_its_characters() -> None:
    text = pa.array(["word " * 2_000_000], pa.string())
    for count in (repeated_pieces, lambda texts, rows: line_shapes(texts, rows, 9)):
        count(pa.array(["word"], pa.string()), np.arange(1))  # compiles it
        restart_peak()
        before = status_bytes("VmHWM")
        count(text, np.arange(1))
        assert status_bytes("VmHWM") - before < 50 * 2**20
