"""Names of people: precision and recall on texts apart from those of the rules, look-alikes, surrogates, time."""

from __future__ import annotations

import re
import time

import pytest

from pipelines.data.text.name_words import CHINESE_FAMILY
from pipelines.data.text.privacy import Privacy, Span, spans, surrogate
from tests.data.text import name_texts_en, name_texts_zh
from tests.data.text.private_texts import labelled

NAMES = frozenset({"names"})
MASK = Privacy({"names": "mask"}, seed=7)
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
    ("text", "clean"),
    [
        ("Contact: Jane Doe Jane.Doe@corp.com", "Contact: [name] [email]"),
        ("Contact: Jane Doe O'Neil@corp.com", "Contact: [name] [email]"),
        ("Name: Ann Lee-Ann.Lee@corp.com", "Name: [name] [email]"),
        ("My name is jim@corp.com", "My name is [email]"),
        ("Name: Jane Doe 12 Main Street, Springfield", "Name: [name] [address]"),
    ],
)
def test_a_name_ends_before_an_address_of_mail_and_gives_way_to_other_kinds(text: str, clean: str) -> None:
    assert Privacy({"email": "mask", "address": "mask", "names": "mask"}, seed=7).replace(text)[0] == clean
    (alone, _), address = MASK.replace(text), text.split(" ")[-1]
    assert alone.endswith(address) and ("[name]" in alone) == ("[name]" in clean)


@pytest.mark.parametrize(
    "text",
    [
        "我是高三学生。高三学习很累", "用户：查天气\n助手：今天查天气的人很多。", "用户：关机\n助手：已关机。",
        "用户：解锁", "用户：查订单", "患者：高烧\n医生：高烧几天了？", "患者：阳性", "学生：解方程", "司机：左转",
        "帮我看订单，谢谢\n查订单", "客户：王总在吗，我想问一下", "他叫小心，我叫小心。",
        "Name: Banana Bread\nMix it. Bread flour is best.", "name: CI", "Name: Python", "Name: Tomato Soup",
    ],
)  # fmt: skip
def test_words_where_names_may_stand_are_left(text: str) -> None:
    clean = MASK.replace(text)[0]
    assert clean.replace("[name]总", "王总") == text  # 王总 is one before a title


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("- Name: Jane Doe", "Jane Doe"), ("* Name: Jane Doe\n", "Jane Doe"), ("• Contact: Jane Doe", "Jane Doe"),
        ("**Name:** Jane Doe", "Jane Doe"), ("**Name**: Jane Doe", "Jane Doe"), ("1) Name: Jane Doe", "Jane Doe"),
        ("<td>Name: Ann Lee</td>", "Ann Lee"), ('{"name": "Jane Doe", "id": 3}', "Jane Doe"),
        ("{'full_name': 'Okafor'}", "Okafor"), ("My name is jim.", "jim"),
        ("Dear Șerban,", "Șerban"), ("Dear Țara,", "Țara"), ("Dear Ạnh,", "Ạnh"), ("Dear Ňina,", "Ňina"),
        ("**姓名**：李娜", "李娜"), ("**姓名：** 李娜", "李娜"), ('{"姓名": "李娜"}', "李娜"), ("(签字)：李娜", "李娜"),
        ("（签字）：李娜", "李娜"), ("我叫小明，今年十岁。", "小明"), ("客户：李娜\n", "李娜"),
        ("患者：李娜，女，45岁", "李娜"), ("姓名：查良", "查良"), ("此致\n敬礼\n向阳", "向阳"),
        ("姓名：约翰•史密斯", "约翰•史密斯"),
    ],
)  # fmt: skip
def test_names_after_labels_of_lists_markup_and_json(text: str, name: str) -> None:
    assert MASK.replace(text)[0] == text.replace(name, "[name]")


def test_only_known_names_after_name_alone_are_found_again_and_no_rare_chinese_family() -> None:
    assert MASK.replace("Name: Xul Solar\nSolar power")[0] == "Name: [name]\nSolar power"
    assert MASK.replace("Name: Jane Solar\nMs Solar, Solar.")[0] == "Name: [name]\nMs [name], [name]."
    clean = MASK.replace("姓名：查良\n请查良民证。姓名：李娜。李娜好")[0]
    assert clean == "姓名：[name]\n请查良民证。姓名：[name]。[name]好"


def test_a_value_has_the_name_of_its_column_as_its_label_and_a_group_with_a_name_becomes_a_key() -> None:
    for key, value in (("name", "Jane Doe"), ("customer_name", "Okafor"), ("姓名", "李娜")):
        assert MASK.replace(value, label=key) == ("[name]", {"names": 1}) and MASK.replace(value) == (value, {})
    assert MASK.replace("Okafor: see Ann Lee", label="subject")[0] == "Okafor: see Ann Lee"
    families = [f"{family}老师" for family in CHINESE_FAMILY]
    groups = [*families, "Jane Doe", "Ann Lee", "李娜", "Dear Okafor,"]
    disguised = [MASK.disguise(group) for group in groups]
    assert len(set(disguised)) == len(groups) and all(re.fullmatch("group-[0-9a-f]{16}", key) for key in disguised)
    assert MASK.disguise("example.org") == "example.org" and MASK.disguise("Jane Doe") == disguised[len(families)]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Jane van Dyk", r"[A-Z][a-z]+ van [A-Z][a-z]+"),
        ("T. S. Garrett", r"[A-Z]\. [A-Z]\. [A-Z][a-z]+"),
        ("Anne-Sophie O'Neil", r"[A-Z][a-z]+-[A-Z][a-z]+ [A-Z][a-z]+"),
        ("DEBORAH KLINE", r"[A-Z]{4,} [A-Z]{4,}"),
        ("ashley", r"[a-z]{4,}"),
        ("jim", r"[a-z]{4,}"),
        ("Al Le Bon", r"[A-Z][a-z]+ [A-Z][a-z]+ [A-Z][a-z]+"),
        ("王小明", "[\u4e00-\u9fff]{3}"),
        ("欧阳晓峰", "[\u4e00-\u9fff]{4}"),
        ("小雨", "小[\u4e00-\u9fff]"),
        ("约翰·史密斯", "[\u4e00-\u9fff]{2}·[\u4e00-\u9fff]{3}"),
        ("约翰•史密斯", "[\u4e00-\u9fff]{2}•[\u4e00-\u9fff]{3}"),
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


def test_no_initial_stays_what_it_is() -> None:
    initials = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    same = [(letter, seed) for seed in range(50) for letter in initials if surrogate("names", letter, seed) == letter]
    assert not same


def test_surrogates_are_many() -> None:
    assert len({surrogate("names", f"Abc{chr(97 + n // 26)}{chr(97 + n % 26)}", 7) for n in range(676)}) > 600
    assert len({surrogate("names", f"王{chr(0x4E00 + n)}海", 7) for n in range(676)}) > 550


@pytest.mark.parametrize(
    "text",
    [
        "A-a" * 5000, "A' " * 5000, "Dear A" * 5000, "Mr. A. " * 5000, ": A" * 5000, "Name: A\n" * 5000,
        "\n" * 20_000 + "A",
        f"Best{' ' * 20_000}regards,\nA", "My name is " * 3000, "A <" * 5000, "先生" * 5000, "王" * 20_000,
        "王·" * 8000, f"我叫{'王·' * 90_000}", "姓名：王一·" * 30_000, "A.a" * 30_000, "**Name: " * 30_000,
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
