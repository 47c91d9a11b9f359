"""Decontamination against evaluation sets: which documents have a run of words of one of their rows.

    texts of the sets' rows ──13 words, 21 Chinese characters──► index: hash, set, row ──minus templates──► INDEX
    words of a document ──each run──► hashes in the index ──► Overlap(set, row, number of runs, the first as text)

The length is that of GPT-3 (Brown et al. 2020, appendix C); a Chinese character is a word of measures.py, and 1.6 of
them say as much as an English word. A shorter text of a row is compared as a whole, down to NGRAM of measures.py: what
is shorter still, prose has by chance. Answers to tell rows apart, not texts: paraphrases are not recognised.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from pipelines.data.corpus.checks import Candidates, CheckResult
from pipelines.data.corpus.filters.verdict import Verdict
from pipelines.data.text.languages import CHARACTERS_PER_WORD
from pipelines.data.text.measures import COUNTS, NGRAM, HashedTexts, hash_texts, ngram_hash
from pipelines.data.text.normalise import normalise

CONTAMINATED = "contaminated"  # the reason
AREA = "decontamination/"  # of its facts
COUNTED = f"{AREA}documents_"  # and the set's name: documents that were dropped for it
# A run of words that more rows of a set have than these, and more than this part of them, is that of its prompts'
# template. One that fewer have may be a passage that a set has questions about, each with the passage: no template.
TEMPLATE_ROWS, TEMPLATE_SHARE = 10, 0.5
QUOTED_CHARACTERS = 200  # of a run, in messages
# No word goes from one piece into the next: blanks and Chinese characters end the word before them. The latter are so
# few in a piece that a page without blanks has many pieces, too.
PIECE = re.compile(r"[\u3400-\u9fff]{1,64}|[^\s\u3400-\u9fff]+\s*|\s+")
NAMES = pa.dictionary(pa.int32(), pa.string())
INDEX = pa.schema(
    [
        ("hash", pa.uint64()),  # of a run of words; sorted
        ("words", pa.int32()),  # length of the run
        ("set", NAMES),
        ("where", NAMES),  # the file
        ("row", pa.int64()),  # the line, where lines are rows: the first that has it
    ]
)
OVERLAPS = pa.schema(
    [
        ("id", pa.string()),  # of the document
        ("set", pa.string()),  # name of the evaluation set, and its row
        ("set_where", pa.string()),
        ("set_row", pa.int64()),
        ("num_ngrams", pa.int64()),  # that the document has of the row
        ("ngram", pa.string()),  # the first of them, as the document spells it
    ]
)


@dataclass(frozen=True)
class EvaluationRow:
    """The texts of one row of an evaluation set: prompts, answers, choices."""

    set: str
    where: str
    row: int
    texts: Sequence[str]


def texts_of(value: Any) -> Iterator[str]:
    """Yields all texts of a record, however deep they are. Keys that have numbers alone are answers with scores.

    >>> list(texts_of({"question": "Why?", "choices": ["a", "b"], "target_scores": {"So.": 1}}))
    ['Why?', 'a', 'b', 'So.']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        are_scores = all(isinstance(inner, int | float) for inner in value.values())
        yield from map(str, value) if are_scores else (text for inner in value.values() for text in texts_of(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner)


def ngram_index(rows: Iterable[EvaluationRow], ngram_words: int) -> tuple[pa.RecordBatch, Counter[str]]:
    """Returns INDEX of the rows' runs of words, and counts by set: rows_, short_rows_, template_ngrams_<set>.

    ngram_words: length of a run in English; 1.6 times as many Chinese characters. short_rows: those of which no text is
    long enough to be compared. template_ngrams: left out, since most rows of the set have them."""
    rows = list(rows)
    owners = [number for number, row in enumerate(rows) for _ in row.texts]
    hashed = hash_texts(pa.array([normalise(text) for row in rows for text in row.texts], pa.string()))
    hashes, lengths, texts = _all_ngrams(hashed, ngram_words)
    row_of = np.array(owners, np.int64)[texts] if len(owners) else np.empty(0, np.int64)
    sets = sorted({row.set for row in rows})
    numbers = {name: number for number, name in enumerate(sets)}
    set_of_row = np.array([numbers[row.set] for row in rows], np.int64)
    counts = Counter({f"rows_{row.set}": 0 for row in rows})
    counts.update(f"rows_{row.set}" for row in rows)
    with_ngrams = np.bincount(row_of, minlength=len(rows)) > 0
    counts.update({f"short_rows_{name}": 0 for name in sets})
    counts.update(f"short_rows_{row.set}" for row, long in zip(rows, with_ngrams, strict=True) if not long)
    order = np.lexsort((row_of, set_of_row[row_of], hashes))
    hashes, lengths, row_of = hashes[order], lengths[order], row_of[order]
    first, num_rows = _first_of_set(hashes, set_of_row[row_of], row_of)
    set_sizes = np.bincount(set_of_row, minlength=len(sets))[set_of_row[row_of[first]]]
    is_template = num_rows > np.maximum(TEMPLATE_ROWS, TEMPLATE_SHARE * set_sizes)
    for name in sets:
        left_out = is_template & (set_of_row[row_of[first]] == numbers[name])
        counts[f"template_ngrams_{name}"] = int(left_out.sum())
    kept = first[~is_template]
    chosen = [rows[number] for number in row_of[kept]]
    columns = [hashes[kept], lengths[kept], [row.set for row in chosen], [row.where for row in chosen],
               [row.row for row in chosen]]  # fmt: skip
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, INDEX, strict=True)], schema=INDEX), counts


def _first_of_set(hashes: np.ndarray, sets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (positions of the first of equal (hash, set), number of different rows that have it); sorted input."""
    if not len(hashes):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    begins = np.ones(len(hashes), np.bool_)
    begins[1:] = (hashes[1:] != hashes[:-1]) | (sets[1:] != sets[:-1])
    other_row = begins.copy()
    other_row[1:] |= rows[1:] != rows[:-1]
    first = np.flatnonzero(begins)
    return first, np.add.reduceat(other_row.astype(np.int64), first)


def _all_ngrams(hashed: HashedTexts, ngram_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (hashes, lengths in words, numbers of the texts) of the runs of words of all texts."""
    num_words = hashed.counts[:, COUNTS.index("words")]
    chinese = 2 * hashed.counts[:, COUNTS.index("chinese")] > num_words
    longest = np.where(chinese, round(CHARACTERS_PER_WORD * ngram_words), ngram_words)
    shortest = np.minimum(np.where(chinese, NGRAM[1], NGRAM[0]), longest)
    lengths = np.where(num_words < shortest, 0, np.minimum(num_words, longest))  # 0: too short
    sizes = np.where(lengths > 0, num_words - lengths + 1, 0)
    hashes = _fill_ngrams(hashed.words, hashed.word_starts, lengths, int(sizes.sum()))
    return hashes, np.repeat(lengths, sizes).astype(np.int32), np.repeat(np.arange(len(sizes)), sizes)


@dataclass(frozen=True)
class Overlap:
    """What a document has of a row of an evaluation set."""

    set: str
    where: str
    row: int
    num_ngrams: int
    ngram: str  # the first, as the document spells it
    words: int  # of it

    @property
    def verdict(self) -> Verdict:
        quoted = self.ngram if len(self.ngram) <= QUOTED_CHARACTERS else f"{self.ngram[:QUOTED_CHARACTERS]}…"
        return Verdict(False, CONTAMINATED, message=f"has {self.words} words of {self.set} {self.where}:{self.row}: "
                       f"{' '.join(quoted.split())!r}")  # fmt: skip


@dataclass
class EvaluationSets:
    """The check of documents against an INDEX; collects OVERLAPS of the documents that it drops."""

    index: pa.RecordBatch
    overlaps: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hashes = self.index.column("hash").to_numpy()
        self.words = self.index.column("words").to_numpy()
        self.lengths = np.unique(self.words)
        # Where the entries of each value of a hash's upper bits begin: about one entry each, so a search is a look.
        self.shift = 64 - max(1, len(self.hashes).bit_length())
        prefixes = np.arange(1 << (64 - self.shift), dtype=np.uint64) << np.uint64(self.shift)
        self.begins = np.append(np.searchsorted(self.hashes, prefixes), len(self.hashes))

    def apply(self, batch: Candidates) -> CheckResult:
        """Drops the kept documents that have a run of words of a set."""
        result, texts = CheckResult(), [document.text for document in batch.documents]
        for position, overlaps in self.find(texts, batch.hashed, set(batch.kept)).items():
            result.dropped[position] = overlaps[0].verdict
            result.counts.update(f"{COUNTED}{name}" for name in dict.fromkeys(overlap.set for overlap in overlaps))
            for overlap in overlaps:
                self.overlaps.append({"id": batch.ids[position], "set": overlap.set, "set_where": overlap.where,
                                      "set_row": overlap.row, "num_ngrams": overlap.num_ngrams,
                                      "ngram": overlap.ngram})  # fmt: skip
        return result

    def find(
        self, texts: Sequence[str], hashed: HashedTexts, positions: Container[int] | None = None
    ) -> dict[int, list[Overlap]]:
        """The overlaps of texts with the rows of the sets, by the texts' positions, in the order of the text.

        hashed: of the same texts. positions: of the texts to look at; by default all."""
        matches: dict[int, dict[tuple[str, str, int], list[tuple[int, int]]]] = {}
        index = (self.hashes, self.words, self.begins, self.shift)
        entries = _matches(hashed.words, hashed.word_starts, self.lengths, *index)
        for text, first_word, entry in entries[np.lexsort((entries[:, 1], entries[:, 0]))].tolist():
            if positions is not None and text not in positions:
                continue
            set_, where, row = (self.index.column(name)[entry].as_py() for name in ("set", "where", "row"))
            ngrams = matches.setdefault(text, {}).setdefault((set_, where, row), [])
            ngrams.append((first_word, int(self.words[entry])))
        overlaps: dict[int, list[Overlap]] = {}
        for text, rows in matches.items():
            quotes = Quotes(texts[text])
            overlaps[text] = [
                Overlap(*row, len(ngrams), quotes.of(*ngrams[0]), ngrams[0][1]) for row, ngrams in rows.items()
            ]
        return overlaps


class Quotes:
    """Quotes runs of words of one text, which is cut into pieces once: each costs the same in a text of any size."""

    def __init__(self, text: str) -> None:
        self.pieces = PIECE.findall(text)
        self.words_before = hash_texts(pa.array(self.pieces, pa.string())).word_starts  # int64[pieces + 1]

    def of(self, first_word: int, num_words: int) -> str:
        """What ngram_text returns for the whole text."""
        start = int(np.searchsorted(self.words_before, first_word, "right")) - 1
        stop = int(np.searchsorted(self.words_before, first_word + num_words, "right"))  # with the word after the run
        excerpt = "".join(self.pieces[start:stop])
        return ngram_text(excerpt, first_word - int(self.words_before[start]), num_words)


def ngram_text(text: str, first_word: int, num_words: int) -> str:
    """The part of a text from one of its words on, counted from 0 as measures.py cuts them.

    >>> ngram_text("One - two, three four.", 1, 2)
    'two, three'
    """

    def words_before(end: int) -> int:
        return int(hash_texts(pa.array([text[:end]], pa.string())).word_starts[-1])

    ends = range(len(text) + 1)
    start, stop = (
        bisect.bisect_left(ends, word + 1, key=words_before) for word in (first_word, first_word + num_words)
    )
    return text[start - 1 : stop - 1 if stop <= len(text) else None].strip()


def warm_up() -> None:
    """Compiles numba's functions or loads them, so that tasks on this machine load them from its disk cache."""
    index, _ = ngram_index([EvaluationRow("", "", 1, ["a b c d e f g h i"])], 8)
    EvaluationSets(index).find(["a"], hash_texts(pa.array(["a"], pa.string())))


@numba.njit(cache=True)
def _fill_ngrams(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray, num_ngrams: int) -> np.ndarray:
    """Returns uint64: the hashes of all runs of lengths[d] words of each text d; none where it is 0."""
    hashes = np.empty(num_ngrams, np.uint64)
    number = 0
    for text in range(len(starts) - 1):
        if lengths[text] > 0:
            for first in range(starts[text], starts[text + 1] - lengths[text] + 1):
                hashes[number] = ngram_hash(words, first, lengths[text])
                number += 1
    return hashes


@numba.njit(cache=True)
def _matches(
    words: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    hashes: np.ndarray,
    hash_words: np.ndarray,
    begins: np.ndarray,
    shift: int,
) -> np.ndarray:
    """Returns int64[matches, 3]: (text, first word, entry of the index) of the runs of words that are in the index.

    lengths: of the runs in the index. hashes: uint64, sorted, with the length of each. begins: of the entries of each
    hash >> shift."""
    matches = np.empty((16, 3), np.int64)
    number = 0
    for text in range(len(starts) - 1):
        for length in lengths:
            for first in range(starts[text], starts[text + 1] - length + 1):
                value = ngram_hash(words, first, length)
                prefix = np.int64(value >> np.uint64(shift))
                for entry in range(begins[prefix], begins[prefix + 1]):
                    if hashes[entry] == value and hash_words[entry] == length:
                        if number == len(matches):
                            matches = np.concatenate((matches, np.empty_like(matches)))
                        matches[number] = text, first - starts[text], entry
                        number += 1
    return matches[:number]
