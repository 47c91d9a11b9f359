"""The measurement of retrieval: its questions do not give their answers away, and nine in ten find their passage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.knowledge import NUM_MANUALS, NUM_QUESTIONS, TOP, build, hit_rate, holds
from tests.benchmarks.knowledge_manuals import manual, questions


@pytest.mark.parametrize("language", ["en", "zh"])
def test_only_the_right_section_holds_the_answer(language: str) -> None:
    for question in questions(NUM_MANUALS, language, NUM_QUESTIONS):
        text = manual(int(question.manual[3:9]), language)[2]
        sections = [section for section in text.split("\n## ") if holds(section, question.answer)]
        assert [section.partition("\n")[0] for section in sections] == [question.heading]
        assert not holds(question.text, question.answer)


def test_a_number_within_a_longer_one_is_no_answer() -> None:
    assert holds("It takes 1,234 minutes.", "1234") and holds("充满需要1234分钟。", "1234")
    assert not holds("Number 12345, 91234 or 1,234,567.", "1234")


def test_nine_in_ten_questions_find_their_section_among_the_first_five(tmp_path: Path) -> None:
    index, _, _ = build(tmp_path, NUM_MANUALS, embeddings=False)
    assert len(index) == 2 * NUM_MANUALS * 12
    for language in ("en", "zh"):
        assert hit_rate(index, questions(NUM_MANUALS, language, NUM_QUESTIONS), ("keywords",)) >= 0.9, (language, TOP)
