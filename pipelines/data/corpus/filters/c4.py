"""C4's rules for web pages, by lines (Raffel et al. 2020, section 2.2), as datatrove applies them.

Lines of menus, notices and scripts are dropped; then the page is dropped if few sentences are left. C4's list of bad
words is not applied. Chinese lines have words that are 1.6 characters long, and end in 。！？…” too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.data.corpus.filters.filter import Filter
from pipelines.data.corpus.filters.verdict import KEEP, Verdict, drop
from pipelines.data.text.web_words import num_sentences, num_words

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.corpus.filters.verdicts import Verdicts
    from pipelines.data.text.document_stats import Documents

CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
LINE_ENDS = (".", "?", "!", '"', "'", "。", "？", "！", "”", "’", "」", "』")
NOTICES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
           "使用条款", "隐私政策", "使用條款", "隱私權政策")  # fmt: skip
DROPPED_FOR = {"lorem ipsum": "c4_lorem_ipsum", "{": "c4_curly_bracket"}  # the whole page
MARKS = ("lorem ipsum", "javascript", "{", *NOTICES)  # in the order in which they are looked for
# What every text with a mark has: fewer to look for.
PARTS_OF_MARKS = tuple(dict.fromkeys("cookie" if "cookie" in mark else mark for mark in MARKS))
MAY_HAVE_MARKS = "|".join(map(re.escape, ("[", *PARTS_OF_MARKS)))  # of a text that is read line by line


class C4(Filter):
    """Drops lines that are not sentences, and pages with few sentences."""

    lines_end_in_punctuation: bool = Field(
        default=True, description="Whether lines are dropped that do not end in a full stop or another terminal mark"
    )
    min_sentences: int = Field(default=5, ge=0, description="Minimum number of sentences in the lines that are left")
    min_words_per_line: int = Field(default=3, ge=0, description="Minimum words of a line; shorter lines are dropped")
    max_word_characters: int = Field(
        default=1000, ge=1, description="Maximum length of a word; lines with a longer one are dropped"
    )
    reasons: ClassVar = ("c4_lorem_ipsum", "c4_curly_bracket", "c4_few_sentences")

    reads_web_words: ClassVar = True

    def decide(self, documents: Documents, rows: np.ndarray, verdicts: Verdicts) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        from pipelines.data.text.sentence_lines import kept_lines  # compiled: not for reading a recipe

        web, texts = documents.web(rows), documents.texts.take(pa.array(rows))
        may_have = pc.MatchSubstringOptions(MAY_HAVE_MARKS, ignore_case=True)
        is_read_D = pc.call_function("match_substring_regex", [texts], may_have).to_pylist()
        lines = kept_lines(
            texts,
            web,
            ends=LINE_ENDS if self.lines_end_in_punctuation else (),
            min_sentences=self.min_sentences,
            min_words=self.min_words_per_line,
            max_characters=self.max_word_characters,
        )
        columns = (rows.tolist(), is_read_D, lines.sentences_D.tolist(), lines.is_whole_D.tolist())
        for place, (row, is_read, sentences, is_whole) in enumerate(zip(*columns, strict=True)):
            if is_read:
                line_words = web.line_words(place) if documents.language(row) == "zh" else []
                verdict = self._verdict(documents.text(row), documents.language(row), web.sentences(place), line_words)
            elif sentences < self.min_sentences:
                verdict = self._few(sentences)
            else:
                verdict = KEEP if is_whole else Verdict(True, text=lines.text(place), lines=lines.lines(place))
            if verdict is not KEEP:
                verdicts[row] = verdict

    def _few(self, sentences: int) -> Verdict:
        return drop("c4_few_sentences", sentences, self.min_sentences, "c4.min_sentences")

    def _verdict(self, document: str, language: str, sentences_L: list[int], line_words_L: list[float]) -> Verdict:
        """What is decided of a text that may have marks or citations."""
        text = document.lower()
        plain = CITATION.sub("", text) if "[" in text else text
        has_marks = any(part in plain for part in PARTS_OF_MARKS)  # few texts have one: only their lines are searched
        kept: list[str] = []
        numbers: list[int] = []  # of the lines that are kept
        sentences = 0
        all_lines = document.splitlines()
        for number, original in enumerate(all_lines):
            line = self._line(original, language, line_words_L[number] if language == "zh" else 0)
            if line is None:
                continue
            if mark := _first_mark(line.lower()) if has_marks else "":
                if mark in DROPPED_FOR:
                    return drop(DROPPED_FOR[mark])
                continue
            if sentences < self.min_sentences:
                sentences += num_sentences(line, language) if "[" in original else sentences_L[number]
            kept.append(line)
            numbers.append(number)
        if sentences < self.min_sentences:
            return self._few(sentences)
        if kept == all_lines:
            return KEEP
        return Verdict(True, text="\n".join(kept).strip(), lines=None if "[" in text else tuple(numbers))

    def _line(self, original: str, language: str, chinese_words: float) -> str | None:
        """The line without blanks around it and marks of citations; None if it is dropped for its words or its end.

        chinese_words: number of words of a Chinese line, with its citations."""
        line = original.strip()
        if len(line) > self.max_word_characters and max(map(len, line.split())) > self.max_word_characters:
            if language != "zh":  # whose lines have no blanks
                return None
        few = len(line.split(None, self.min_words_per_line)) < self.min_words_per_line
        is_cited = "[" in line
        if is_cited:
            line = CITATION.sub("", line)
        if self.lines_end_in_punctuation and (not line.endswith(LINE_ENDS) or line.endswith("...")):
            return None
        if few and language == "zh":
            few = (num_words(line, language) if is_cited else chinese_words) < self.min_words_per_line
        return None if few else line


def _first_mark(line: str) -> str:
    """The first of MARKS in a line in small letters; empty if it has none."""
    return next((mark for mark in MARKS if mark in line), "")
