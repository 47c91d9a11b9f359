"""Names of people: precision and recall on texts apart from those of the rules, look-alikes, surrogates, time."""

from __future__ import annotations

import re
import time

import pytest

from pipelines.data.text.privacy import Privacy, Span, spans, surrogate
from tests.data.text import name_texts_en, name_texts_zh
from tests.data.text.private_texts import labelled

NAMES = frozenset({"names"})
TEXTS = {"en": name_texts_en.LINES, "zh": name_texts_zh.LINES}


def half(language: str, number: int) -> list[tuple[str, list[Span]]]:
    """The rows to write rules with (0), or those that judge them (1): pairs of lines in turn."""
    lines = TEXTS[language].strip().splitlines()
    return labelled("\n".join(line for place, line in enumerate(lines) if place // 2 % 2 == number))


@pytest.mark.parametrize(
    ("language", "number", "precision", "recall"),
    [("en", 0, 0.97, 0.88), ("zh", 0, 0.97, 0.92), ("en", 1, 0.92, 0.88), ("zh", 1, 0.94, 0.85)],
)
def test_precision_and_recall(language: str, number: int, precision: float, recall: float) -> None:
    rows = half(language, number)
    found = {(text, span) for text, _ in rows for span in spans(text, NAMES)}  # pyright: ignore[reportArgumentType]
    expected = {(text, span) for text, of_text in rows for span in of_text if span.kind == "names"}
    right = found & expected
    assert len(right) >= precision * len(found), [text[span.start : span.stop] for text, span in found - expected]
    assert len(right) >= recall * len(expected), [text[span.start : span.stop] for text, span in expected - found]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_labelled_texts_have_names_and_as_many_look_alikes(language: str) -> None:
    kinds = [str(span.kind) for number in (0, 1) for _, of_text in half(language, number) for span in of_text]
    assert kinds.count("names") >= 150 and kinds.count("not") >= 150


def test_names_are_masked_where_they_stand_again_and_words_are_left() -> None:
    text = "Dear Mark,\nmark my words: Will Smith and Grace will come in May.\nBest regards,\nAnna van Dyk\nVan Dyk Ltd"
    clean, counts = Privacy({"names": "mask"}, seed=7).replace(text)
    assert clean == text.replace("Mark", "[name]").replace("Anna van Dyk", "[name]") and counts == {"names": 2}
    text = "我叫陈思远。陈思远和张经理、高级经理、任何老师都来了；允许医生用于老师。"
    clean, counts = Privacy({"names": "mask"}, seed=7).replace(text)
    assert clean == "我叫[name]。[name]和[name]经理、高级经理、任何老师都来了；允许医生用于老师。"
    assert counts == {"names": 3}
    assert Privacy({"names": "mask"}, seed=7).replace("签到：白雪松、史云")[0] == "签到：[name]、[name]"


def test_a_street_and_a_town_are_no_names() -> None:
    text = "Hi Ann,\nwe moved to Oak Dr. Springfield, not San Diego. King Charles and St. Mary came; Dr. Moss did, too."
    clean, _ = Privacy({"names": "mask"}, seed=7).replace(text)
    assert clean == text.replace("Ann", "[name]").replace("Moss", "[name]")


def test_a_document_with_a_name_is_dropped_and_nothing_is_looked_for_by_default() -> None:
    privacy = Privacy({"names": "drop"}, seed=7)
    assert privacy.drops(privacy.replace("Name: Jane Doe")[1]) and not privacy.drops(privacy.replace("Name: none")[1])
    assert Privacy({"email": "mask"}, seed=7).replace("Dear Jane Doe,")[0] == "Dear Jane Doe,"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Jane van Dyk", r"[A-Z][a-z]+ van [A-Z][a-z]+"),
        ("T. S. Garrett", r"[A-Z]\. [A-Z]\. [A-Z][a-z]+"),
        ("Anne-Sophie O'Neil", r"[A-Z][a-z]+-[A-Z][a-z]+ [A-Z][a-z]+"),
        ("DEBORAH KLINE", r"[A-Z]{4,} [A-Z]{4,}"),
        ("ashley", r"[a-z]{4,}"),
        ("王小明", "[\u4e00-\u9fff]{3}"),
        ("欧阳晓峰", "[\u4e00-\u9fff]{4}"),
        ("小雨", "小[\u4e00-\u9fff]"),
        ("约翰·史密斯", "[\u4e00-\u9fff]{2}·[\u4e00-\u9fff]{3}"),
    ],
)
def test_a_surrogate_has_the_script_and_the_shape_of_the_name(name: str, shape: str) -> None:
    for seed in range(50):
        other = surrogate("names", name, seed)
        assert re.fullmatch(shape, other) and other != name, other


def test_a_family_name_has_one_surrogate_with_a_given_name_and_alone() -> None:
    text = "Dear Ms Okafor,\nAnn Okafor called.\nBest regards,\nJane Doe\nHi Mr Doe, this is Jane Doe."
    clean, _ = Privacy({"names": "surrogate"}, seed=7).replace(text)
    jane, doe, okafor = (surrogate("names", name, 7) for name in ("Jane", "Doe", "Okafor"))
    assert f"Dear Ms {okafor}," in clean and clean.endswith(f"\n{jane} {doe}\nHi Mr {doe}, this is {jane} {doe}.")
    assert surrogate("names", "JANE DOE", 7) == f"{jane} {doe}".upper() and surrogate("names", "Jane", 8) != jane
    assert surrogate("names", "王小明", 7)[0] == surrogate("names", "王", 7) != "王"
    assert surrogate("names", "王小明", 7)[1:] == surrogate("names", "李小明", 7)[1:]
    assert surrogate("names", "诸葛亮", 7)[:2] == surrogate("names", "诸葛", 7)


def test_surrogates_are_many() -> None:
    assert len({surrogate("names", f"Abc{chr(97 + n // 26)}{chr(97 + n % 26)}", 7) for n in range(676)}) > 600
    assert len({surrogate("names", f"王{chr(0x4E00 + n)}海", 7) for n in range(676)}) > 550


@pytest.mark.parametrize(
    "text",
    [
        "A-a" * 5000, "A' " * 5000, "Dear A" * 5000, "Mr. A. " * 5000, ": A" * 5000, "Name: A\n" * 5000,
        "\n" * 20_000 + "A",
        f"Best{' ' * 20_000}regards,\nA", "My name is " * 3000, "A <" * 5000, "先生" * 5000, "王" * 20_000,
        "王·" * 8000,
        "姓名：王" * 5000, f"谢谢{' ' * 20_000}", "谢谢\n" * 5000, "—" * 20_000, "我叫" * 8000,
        "".join(f"联系人：王{chr(0x4E00 + n)}海；" for n in range(3000)),
        "".join(f"Name: Abc{chr(97 + n // 26 % 26)}{chr(97 + n % 26)} Doe\n" for n in range(3000)),
    ],
    ids=lambda text: text[:12].replace("\n", " "),
)  # fmt: skip
def test_a_long_run_of_anything_takes_little_time(text: str) -> None:
    start = time.process_time()
    spans(text, NAMES)  # pyright: ignore[reportArgumentType]
    assert time.process_time() - start < 2
