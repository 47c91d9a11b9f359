"""Long documents: nothing is lost, no part is too long, cuts are at the best places, alike in two editions."""

from __future__ import annotations

import random
import time

import pyarrow as pa
import pytest

from pipelines.data.corpus.filters.filter import MaxWords
from pipelines.data.corpus.long_documents import content_words, split, split_beyond
from pipelines.data.text.web_counts import web_texts

WORDS = (
    "harbour",
    "morning",
    "ladder",
    "the",
    "of",
    "letter",
    "walked",
    "slowly",
    "and",
    "window",
    "a",
    "stone",
    "rain",
)
CHARACTERS = "天地人山水火木土日月星雲雨風花草鳥魚馬牛羊手足目口心言行食衣住學書文字詩歌酒茶路門城國家父母子女兄弟友"


def paragraph(rng: random.Random, language: str) -> str:
    if language == "zh":
        return "".join("".join(rng.choices(CHARACTERS, k=rng.randint(8, 24))) + "。" for _ in range(6))
    return " ".join(" ".join(rng.choices(WORDS, k=rng.randint(6, 15))).capitalize() + "." for _ in range(6))


def book(chapters: int, language: str = "en", seed: int = 0) -> str:
    rng = random.Random(seed)
    titles = [f"Chapter {n}" if language == "en" else f"第{n}章" for n in range(1, chapters + 1)]
    return "\n\n".join("\n\n".join([title, *(paragraph(rng, language) for _ in range(20))]) for title in titles)


def without_blanks(text: str) -> str:
    return "".join(text.split())


def test_a_text_that_is_not_too_long_stays_whole() -> None:
    text = book(3)
    assert split(text, 100_000) == [text]
    assert split(text, int(content_words([text])[0]) + 1) == [text]
    assert split("", 10) == [""]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("max_words", [300, 3000, 12_000])
def test_parts_are_the_text_and_none_is_too_long(language: str, max_words: int) -> None:
    text = book(20, language)
    parts = split(text, max_words)
    sizes = content_words(parts)
    assert without_blanks("".join(parts)) == without_blanks(text)
    assert sizes.max() <= max_words
    assert sizes.min() > 0.5 * sizes.mean()
    assert len(parts) <= 1.5 * sizes.sum() / max_words + 1


@pytest.mark.parametrize(("language", "heading"), [("en", "Chapter "), ("zh", "第")])
def test_books_are_cut_at_chapters(language: str, heading: str) -> None:
    text = book(60, language)
    parts = split(text, int(content_words([text])[0] / 4))
    assert len(parts) > 4
    assert all(part.startswith(heading) for part in parts)


def test_parts_have_no_more_words_than_a_published_filter_allows() -> None:
    """Its words are other ones: spaCy cuts contractions and what hyphens join."""
    spoken = "\n\n".join("I don't think we've seen it, they'd say; it's what she'll wear." for _ in range(200))
    text = f"{book(4)}\n\n{spoken}"
    limits = MaxWords(en=3000, zh=4000)
    for language in ("en", ""):
        of_text = split_beyond(text, language, limits)
        words = web_texts(pa.array(of_text), ["en"] * len(of_text)).real_words("en")
        assert 2 < len(of_text) < 8 and max(words) <= 3000
        assert without_blanks("".join(of_text)) == without_blanks(text)
    total = int(web_texts(pa.array([spoken]), ["en"]).real_words("en")[0])
    assert content_words([spoken])[0] < total
    assert len(split_beyond(spoken, "en", MaxWords(en=total - 1, zh=1))) == 2
    assert split_beyond(spoken, "en", MaxWords(en=total, zh=1)) == split_beyond(spoken, "en", MaxWords()) == [spoken]
    assert split_beyond("\u2603 " * 200, "en", MaxWords(en=10, zh=10)) == [
        "\u2603 " * 200
    ]  # of no words that a cut could count


def test_without_chapters_a_text_is_cut_at_paragraphs_lines_or_sentences() -> None:
    rng = random.Random(1)
    paragraphs = [paragraph(rng, "en") for _ in range(100)]
    assert set("\n\n".join(split("\n\n".join(paragraphs), 1500)).split("\n\n")) == set(paragraphs)
    assert set("\n".join(split("\n".join(paragraphs), 1500)).split("\n")) == set(paragraphs)
    for language, ends in (("en", "."), ("zh", "。")):
        line = (" " if language == "en" else "").join(paragraph(rng, language) for _ in range(100))
        parts = split(line, 1500)
        assert len(parts) > 3
        assert all(part.endswith(ends) for part in parts)


def test_what_has_no_boundaries_is_cut_anywhere_and_quickly() -> None:
    for text in ("字" * 5_000_000, "x" * 5_000_000, "word " * 1_000_000):
        start = time.process_time()
        parts = split(text, 10_000)
        assert time.process_time() - start < 30
        assert without_blanks("".join(parts)) == without_blanks(text)
        assert content_words(parts).max() <= 10_000


def test_editions_that_differ_in_a_paragraph_are_cut_alike() -> None:
    text = book(60)
    other = text.replace(
        "Chapter 2\n", f"A preface of this edition.\n\n{paragraph(random.Random(9), 'en')}\n\nChapter 2\n"
    )
    max_words = int(content_words([text])[0] / 4)
    assert split(text, max_words)[1:] == split(other, max_words)[1:]
