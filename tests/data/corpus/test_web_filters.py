"""The published filters of web text: decisions as datatrove's, and the same for a text in either language."""

from __future__ import annotations

import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.corpus.filters import FILTERS, KEEP, PRESETS, Filters, Verdict, apply_filters, reasons_of
from pipelines.data.corpus.filters.c4 import C4
from pipelines.data.corpus.filters.verdicts import Verdicts
from pipelines.data.text.document_stats import document_stats
from pipelines.data.text.measures import hash_texts
from pipelines.data.text.normalise import normalise
from pipelines.data.text.web_words import words
from tests.data.corpus.test_filters import CHINESE, ENGLISH

DECISIONS = Path(__file__).parent / "datatrove_decisions.json"  # recorded with datatrove 0.10.1, by tests.benchmarks
MORE_ENGLISH = (
    "A path leads up from the harbour to the old light. Nobody has kept it since the war, but the lamp is still there, "
    "and on clear nights the boys of the village light a fire beside it. Their mothers see the fire and say nothing. "
    "In autumn the birds rest on the wall for a day or two before they cross the sea. Then the rain comes."
)
MORE_CHINESE = (
    "一条小路从港口通到旧灯塔。打仗以后，就没有人看管它了，但是灯还在那里，晴朗的夜里，村里的男孩子们在旁边点起一堆火。他们的"
    "母亲看见了火，什么也不说。到了秋天，鸟儿在墙上歇一两天，再飞过大海。然后雨就来了。"
)
BOOKS = (f"{ENGLISH}\n{MORE_ENGLISH}", f"{CHINESE}\n{MORE_CHINESE}")


def verdict(text: str, language: str, /, **filters: object) -> Verdict:
    texts = pa.array([text], pa.string())
    return apply_filters(
        Filters.model_validate(filters).enabled(), document_stats(texts, [language], hash_texts(texts))
    )[0]


def test_a_long_chunk_of_signs_takes_time_in_proportion_to_it() -> None:
    text = "".join("_#*~[]"[number % 6] * (number % 7) for number in range(10_000))
    start = time.process_time()
    assert "".join(words(text, "en")) == text
    assert time.process_time() - start < 4


def test_web_words_are_counted_of_documents_that_were_not_filtered_before() -> None:
    filters = Filters.model_validate({"gopher_quality": {}}).enabled()
    texts = pa.array([*BOOKS, "# " * 300, BOOKS[0]], pa.string())
    expected = apply_filters(filters, document_stats(texts, ["en", "zh", "en", "en"]))
    documents = document_stats(texts, ["en", "zh", "en", "en"])
    for rows in ([0], [3], [1, 2], [0, 1, 2, 3], [2]):
        verdicts = apply_filters(filters, documents, rows=np.array(rows))
        assert [verdicts[row] for row in rows] == [expected[row] for row in rows]
    assert not expected[2].keep


# ---- against datatrove -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_decisions_on_english_text_are_those_of_datatrove(data_dir: Path, preset: str) -> None:
    """On every eighth text of a real corpus: "k" for kept, "d" for dropped, as datatrove decided."""
    recorded = json.loads(DECISIONS.read_text())[preset]
    with gzip.open(data_dir / "corpus_en.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [normalise(json.loads(line)["text"]) for number, line in enumerate(lines) if number % 8 == 0]
    decisions = ["k" if verdict(text, "en", preset=preset, language=None).keep else "d" for text in texts]
    equal = sum(ours == theirs for ours, theirs in zip(decisions, recorded, strict=True))
    assert equal >= 0.99 * len(recorded)
    assert recorded.count("d") > 0.1 * len(recorded)  # they could differ


def test_words_are_those_of_spacy() -> None:
    """Recorded with spaCy 3.8's blank English pipeline."""
    text = "Mr. O'Neil's well-known 3.14% e-mail (sent at 10:30 a.m.) didn't cost $5,000; see https://a.org/b-c... "
    assert words(text, "en") == [
        "Mr.", "O'Neil", "'s", "well", "-", "known", "3.14", "%", "e", "-", "mail", "(", "sent", "at", "10:30",
        "a.m.", ")", "did", "n't", "cost", "$", "5,000", ";", "see", "https://a.org/b-c", "...",
    ]  # fmt: skip


# ---- the same in both languages --------------------------------------------------------------------------------------

PAIRS = {
    "a book": (*BOOKS, True),
    "a sentence": ("The name of the file.", "文件的名字。", False),
    "a paragraph many times": ("\n".join([BOOKS[0]] * 6), "\n".join([BOOKS[1]] * 6), False),
    "a list": (
        "\n".join(f"- item number {n}" for n in range(200)),
        "\n".join(f"- 第{n}个项目" for n in range(200)),
        False,
    ),
    "teasers": (
        "\n".join(f"Read more about the {n} and its many uses in the house..." for n in "abcdefghijklmnop"),
        "\n".join(f"在这里阅读更多关于{n}的消息和它的许多用处……" for n in "abcdefghijklmnop"),
        False,
    ),
    "numbers": ("3.14 2.71 1.41 " * 60, "三 3.14 2.71 1.41 " * 60, False),
}


@pytest.mark.parametrize("preset", ["gopher", "fineweb"])
@pytest.mark.parametrize(("english", "chinese", "keep"), PAIRS.values(), ids=PAIRS.keys())
def test_a_text_and_its_translation_are_kept_or_dropped_alike(
    preset: str, english: str, chinese: str, keep: bool
) -> None:
    assert verdict(english, "en", preset=preset).keep is keep
    assert verdict(chinese, "zh", preset=preset).keep is keep


def test_c4_drops_lines_and_pages_with_few_sentences_in_both_languages() -> None:
    menus = {"en": "Home\nOur privacy policy has changed for all of you.", "zh": "首页\n我们的隐私政策已经改变了。"}
    for text, language in zip(BOOKS, menus, strict=True):
        found = verdict(f"{menus[language]}\n{text}", language, preset="c4")
        assert found.keep and found.text == text
        assert verdict(text, language, preset="c4").text is None  # nothing to drop
        assert verdict(menus[language], language, preset="c4").reason == "c4_few_sentences"
        assert verdict(f"{text}\nvar x = {{1: 2}}; 好 好 好.", language, preset="c4").reason == "c4_curly_bracket"
    assert verdict(f"{BOOKS[0]}\nLorem ipsum dolor sit amet.", "en", preset="c4").reason == "c4_lorem_ipsum"
    assert verdict(f"{BOOKS[0]}\nA lorem[1] ipsum dolor sit.", "en", preset="c4").reason == "c4_lorem_ipsum"


@pytest.mark.parametrize("options", [{}, {"lines_end_in_punctuation": False}, {"min_words_per_line": 0},
                                     {"min_sentences": 0, "max_word_characters": 6}])  # fmt: skip
def test_c4_decides_of_many_texts_as_of_each_line_by_line(options: dict[str, Any]) -> None:
    rng = random.Random(4)
    pieces = (
        *(
            "The boys",
            " light ",
            "a fire.",
            "Nobody",
            "came",
            "!",
            "...",
            "…",
            "7",
            "[1]",
            "javascript",
            "uninterrupted",
        ),
        *("\n", "\n\n", "\r\n", "\x85", "\u2028", "\u3000", "\t", " ", "é", "\u0301", "渔夫", "回家了。", "好”", "𠀀"),
    )
    texts = ["".join(rng.choices(pieces, k=rng.randrange(30))) for _ in range(4000)] + ["", "\n", " \n a. \n"]
    languages = [rng.choice(("en", "zh")) for _ in texts]
    documents, rows = document_stats(pa.array(texts, pa.string()), languages), np.arange(1, len(texts), 2)
    documents.plan_web_words(rows)
    c4, web = C4.model_validate(options), documents.web(rows)
    expected: dict[int, Verdict] = {}
    for place, row in enumerate(rows.tolist()):
        line_words = web.line_words(place) if languages[row] == "zh" else []
        found = c4._verdict(texts[row], languages[row], web.sentences(place), line_words)
        if found is not KEEP:
            expected[row] = found
    verdicts = Verdicts(len(texts))
    c4.decide(documents, rows, verdicts)
    assert {row: verdict for row, verdict in enumerate(verdicts) if verdict is not KEEP} == expected
    assert any(found.text for found in expected.values())


# ---- options ---------------------------------------------------------------------------------------------------------


def test_a_preset_is_changed_by_the_keys_beside_it() -> None:
    short = "The name of the file that is opened at the start of the program and the one that is closed at its end."
    found = verdict(short, "en", preset="gopher")
    assert found.problem == "23 < 50 (filters.gopher_quality.en.min_words)"
    assert verdict(short, "en", preset="gopher", gopher_quality={"en": {"min_words": 20}}).keep
    assert verdict(short, "en", preset="gopher", gopher_quality=None).keep
    assert verdict(short, "en", preset="gopher", length={"min_words": 30}).reason == "too_short"


def test_the_filters_of_a_source_are_laid_over_the_stages() -> None:
    stage = Filters.model_validate({"length": {"min_words": 3}, "repetition": {"min_words_for_ngrams": 5}})
    source = Filters.model_validate({"quality": None, "repetition": {"max_top_ngram_fraction": 0.4}})
    both = source.over(stage)
    assert both.quality is None and both.length == stage.length and both.language is not None
    assert both.repetition is not None
    assert (both.repetition.max_top_ngram_fraction, both.repetition.min_words_for_ngrams) == (0.4, 5)
    assert Filters.model_validate({"quality": {}}).over(Filters(quality=None)).quality is not None
    preset = Filters.model_validate({"preset": "gopher"})
    assert preset.over(stage) == preset


def test_published_filters_have_no_part_in_earlier_identities() -> None:
    assert list(Filters().identity()) == ["length", "language", "repetition", "quality"]
    gopher = Filters.model_validate({"preset": "gopher"}).identity()
    spelled = {name: getattr(Filters.model_validate(PRESETS["gopher"]), name) for name in FILTERS}
    assert gopher == Filters.model_validate(spelled).identity()  # a preset is an abbreviation


def test_every_filter_has_reasons_of_its_own() -> None:
    reasons = [reason for name in FILTERS for reason in reasons_of(name)]
    assert len(reasons) == len(set(reasons)) > 30
    assert reasons_of("preset") == reasons_of("custom") == reasons_of("nothing") == ()
