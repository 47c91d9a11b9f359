"""Documents by columns: their texts, languages and counts, as filters and checks read them.

    texts (Arrow) ──when a filter reads them──► counts of measures.py, counts of web_counts.py
    Documents ──one place──► DocumentStats

Nothing is made for a document by itself: a rule is a comparison of two columns, and only the documents that are looked
at one by one become a DocumentStats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.text.languages import language_by_counts
from pipelines.data.text.measures import COUNTS, HashedTexts, hash_texts
from pipelines.data.text.normalise import mojibake
from pipelines.data.text.plain_texts import replaced
from pipelines.data.text.web_counts import WebCounts, web_texts
from pipelines.data.text.web_words import content_words


class DocumentStats(NamedTuple):
    """A document and its counts, the input of filters. COUNTS explains the counts."""

    text: str
    language: str
    characters: int
    words: int
    letters: int
    chinese: int
    digits: int
    symbols: int
    broken: int
    spaced_words: int
    spaced_word_characters: int
    alphabetic_words: int
    lines: int
    bullet_lines: int
    ellipsis_lines: int
    width: int
    duplicate_line_width: int
    duplicate_ngram_words: int
    top_ngram_words: int
    repeated_characters: int
    japanese: int
    english_words: int
    operators: int
    code_lines: int
    garbled: int  # traces of a wrong decoding in the text as it was read: normalising removes some of them


class Documents(Sequence[DocumentStats]):
    """Texts with their languages and counts, which are taken when they are first read.

    garbled: int64[documents]; see DocumentStats. hashed: of the texts. whole: the documents of which these are what is
    left, and which are counted; default: these."""

    def __init__(
        self,
        texts: pa.Array,
        languages: Sequence[str],
        garbled: np.ndarray,
        hashed: HashedTexts | None = None,
        whole: Documents | None = None,
    ) -> None:
        self.texts = texts
        self.languages = languages
        self.garbled = garbled
        self._hashed = hashed
        self._whole = whole
        self._web: WebCounts | None = None
        self._web_rows: np.ndarray | None = None
        self._words_D2 = np.full((len(texts), 2), -1)  # words, Chinese characters among them; -1: not known

    @property
    def is_hashed(self) -> bool:
        """Whether the words and lines of the texts are known already."""
        return self._hashed is not None

    @property
    def hashed(self) -> HashedTexts:
        """Words and lines of the texts."""
        if self._hashed is None:
            self._hashed = hash_texts(self.texts)
        return self._hashed

    @property
    def counts(self) -> np.ndarray:
        """COUNTS of each document, as it was when it was whole. int64[documents, COUNTS]."""
        return self.hashed.counts if self._whole is None else self._whole.counts

    def counted(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One of COUNTS of the documents at some places. int64[rows]."""
        return self.counts[rows, COUNTS.index(name)]

    def plan_web_words(self, rows: np.ndarray) -> None:
        """Says at which ascending places a filter may read `web`: all are counted together, when one is read."""
        if self._web_rows is None or not np.isin(rows, self._web_rows).all():
            self._web, self._web_rows = None, rows

    def web(self, rows: np.ndarray) -> WebCounts:
        """What the published filters count, at some of the places of `plan_web_words`, which `apply_filters` calls
        before a filter that reads it."""
        if self._web_rows is None:
            raise ValueError("it is not known which web words to count: expected plan_web_words before")
        if self._web is None:
            self._web = self._count_web_words(self._web_rows)
            self._words_D2[self._web_rows] = self._web.counts_D[:, :2]
        return self._web.take(np.searchsorted(self._web_rows, rows))

    def _count_web_words(self, rows: np.ndarray) -> WebCounts:
        texts = self.texts if len(rows) == len(self) else self.texts.take(pa.array(rows))
        return web_texts(texts, [self.language(row) for row in rows.tolist()])

    def num_words(self, rows: np.ndarray, language: str) -> np.ndarray:
        """Number of `words` of `web` of each document at some places, all of which are in this language; nothing is
        counted again that is known of what is left of a document."""
        unknown = rows[self._words_D2[rows, 0] < 0]
        if len(unknown):
            self._words_D2[unknown] = self._count_web_words(unknown).counts_D[:, :2]
        return content_words(self._words_D2[rows, 0], self._words_D2[rows, 1], language)

    @cached_property
    def is_zh(self) -> np.ndarray:
        """Whether each is in Chinese. bool[documents]."""
        return np.array([language == "zh" for language in self.languages], np.bool_)

    @cached_property
    def characters(self) -> np.ndarray:
        """Characters of each text, blanks among them. int64[documents]."""
        return pc.call_function("utf8_length", [self.texts]).to_numpy(zero_copy_only=False).astype(np.int64)

    def language(self, row: int) -> str:
        """The language of the document at a place."""
        return self.languages[row]

    def text(self, row: int) -> str:
        """The text of the document at a place."""
        return self.texts[row].as_py()

    def with_texts(
        self, texts: Mapping[int, str], lines: Mapping[int, tuple[int, ...] | None] | None = None
    ) -> Documents:
        """The documents with other texts at some places, and the counts that they had. lines: of the texts that are
        some of the lines that they had, the numbers of these: their words are known then."""
        if not texts:
            return self
        rows = sorted(texts)
        values = replaced(self.texts, np.array(rows), [texts[row] for row in rows])
        documents = Documents(values, self.languages, self.garbled, whole=self)
        documents._words_D2[:] = self._words_D2
        documents._words_D2[rows] = -1
        known = {row: numbers for row, numbers in (lines or {}).items() if numbers is not None}
        if known:
            places = np.array(list(known))
            documents._words_D2[places] = self.web(places).words_of_lines(list(known.values()))
        return documents

    def with_languages(self) -> Documents:
        """The documents with the language of each that has none, by its characters."""
        chinese, letters = (self.counts[:, COUNTS.index(name)].tolist() for name in ("chinese", "letters"))
        languages = [
            self.languages[row] or language_by_counts(chinese=chinese[row], letters=letters[row])
            for row in range(len(self))
        ]
        return Documents(self.texts, languages, self.garbled, self._hashed)

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> DocumentStats: ...
    @overload
    def __getitem__(self, index: slice) -> list[DocumentStats]: ...
    def __getitem__(self, index: int | slice) -> DocumentStats | list[DocumentStats]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        counts = self.counts[index].tolist()
        return DocumentStats._make((self.text(index), self.languages[index], *counts, int(self.garbled[index])))

    def __iter__(self) -> Iterator[DocumentStats]:
        columns = (self.texts.to_pylist(), self.languages, self.counts.tolist(), self.garbled.tolist())
        for text, language, counts, traces in zip(*columns, strict=True):
            yield DocumentStats._make((text, language, *counts, traces))


def document_stats(
    texts: pa.Array, languages: Sequence[str], hashed: HashedTexts | None = None, garbled: Sequence[int] | None = None
) -> Documents:
    """Returns the documents of these texts. garbled: see DocumentStats; by default counted in the texts."""
    traces = [mojibake(text) for text in texts.to_pylist()] if garbled is None else garbled
    return Documents(texts, languages, np.array(traces, np.int64), hashed)
