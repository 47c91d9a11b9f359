"""Filters: each rule drops its target, keeps what resembles it, and treats Chinese and English alike."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipelines.data.corpus.filters import Filters, Verdict, apply_filters, reasons_of
from pipelines.data.corpus.filters.length import Length
from pipelines.data.corpus.filters.quality import Quality
from pipelines.data.corpus.filters.repetition import Repetition
from pipelines.data.text.document_stats import document_stats
from pipelines.data.text.measures import hash_texts

ENGLISH = (
    "The moon turns once about its own axis while it goes once around the earth, and so it always shows us the same "
    "face. Long ago it turned faster; the tides that the earth raised in its rock slowed it down until both times were "
    "equal. Most large moons of other planets have come to rest in this way as well, and if you could stand on one of "
    "them you would see its planet hang in the same place of the sky for as long as you cared to watch."
)
CHINESE = (
    "月亮绕地球转一圈的时间，正好等于它自转一圈的时间，所以它总是以同一面朝向我们。很久以前，它转得比现在快；地球在它的岩石里"
    "掀起的潮汐拖慢了它，直到两个周期相等。别的行星的大卫星，多半也是这样停下来的。假如你能站在其中一颗上面，你会看见它的行星"
    "一直挂在天空的同一个地方，无论你愿意看多久。"
)
STEMS = "甲乙丙丁戊己庚辛壬癸子丑寅卯"
NAMES = [f"{first}{last}" for first in ("North", "West", "Old", "High", "Long", "Red", "Ash", "Elm", "Oak", "Mill")
         for last in ("ham", "port", "ford", "field", "bury", "ton", "mouth", "wick", "ley", "stead")]  # fmt: skip
PLACES = (
    "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼港澳台深圳广州杭州宁波温州绍兴湖州嘉兴金华衢州舟山台州"
    "丽水合肥芜湖蚌埠淮南马鞍山淮北铜陵安庆黄山滁州阜阳宿州六安亳州池州宣城福州厦门莆田三明泉州漳州南平龙岩"
)
# The same text in two languages, and the reason for dropping both.
PAIRS = {
    "prose": (ENGLISH, CHINESE, ""),
    "a sentence": ("The name of the file that is opened at the start.", "程序启动时所打开的文件的名字。", ""),
    "a word": ("Yes.", "是。", "too_short"),
    "a paragraph many times": (f"{ENGLISH}\n" * 4, f"{CHINESE}\n" * 4, "duplicate_lines"),
    "a phrase many times": (
        "buy it now at our shop and save " * 30,
        "现在就到我们店里来买东西吧省钱" * 30,
        "duplicate_ngrams",
    ),
    "one letter": (
        f"No{'o' * 60} that is not what we said to them at all",
        f"不{'啊' * 60}这不是我们说过的话吧",
        "repeated_characters",
    ),
    "numbers": ("Table 1 " + "3.14 2.71 1.41 " * 9, "表一 " + "3.14 2.71 1.41 " * 9, "few_letters"),
    "signs": (
        "a = b ** c ## {x} == [y] && {z} // a + b + c + d + e <>",
        "甲 = 乙 ** 丙 ## {丁} == [戊] && {己} // 庚 + 辛 + 壬 + 癸 <> ==",
        "symbols",
    ),
    "a list of names": (
        "\n".join(f"- item number {n} of it" for n in "abcdefghijklmn"),
        "\n".join(f"- 第{n}个项目" for n in STEMS),
        "bullets",
    ),
    "teasers": (
        "\n".join(f"Read more about {n} and its uses..." for n in "abcdefghijklmn"),
        "\n".join(f"关于{n}的消息……" for n in STEMS),
        "ellipses",
    ),
    "names only": (" ".join(NAMES), PLACES, "stop_words"),
    "lost bytes": (
        "The caf\ufffd of the\ufffd town \ufffd\ufffd and so on it goes for us",
        "那家咖啡\ufffd的\ufffd镇上\ufffd\ufffd就这样继续下去",
        "mojibake",
    ),
}
QUATRAIN = "野艇千錢買，明當泛渺茫。\n但能容一榼，家具不須將。"
CODE = """Return the sum of squares of a list.

Parameters
----------
values : list of float
    The numbers to square.

Examples
--------
>>> sum_of_squares([1, 2, 3])
14
>>> sum_of_squares([])
0
"""


def verdict(text: str, language: str, filters: Filters | None = None) -> str:
    return verdict_of(text, language, filters).reason


def verdict_of(text: str, language: str, filters: Filters | None = None) -> Verdict:
    texts = pa.array([text], pa.string())
    documents = document_stats(texts, [language], hash_texts(texts))
    return apply_filters((filters or Filters()).enabled(), documents)[0]


@pytest.mark.parametrize(("english", "chinese", "reason"), PAIRS.values(), ids=PAIRS.keys())
def test_the_same_text_gets_the_same_verdict_in_both_languages(english: str, chinese: str, reason: str) -> None:
    assert verdict(english, "en") == reason
    assert verdict(chinese, "zh") == reason


def test_the_defaults_keep_a_classical_quatrain_and_a_docstring() -> None:
    assert verdict(QUATRAIN, "zh") == ""
    assert verdict(CODE, "en") == ""


def test_wrongly_decoded_text_is_dropped_in_both_languages() -> None:
    assert verdict("Il dÃ©jÃ  vu du cafÃ© est trÃ¨s franÃ§ais et il le reste Ã  jamais ici.", "en") == "mojibake"
    assert verdict("锟斤拷锟斤拷，烫烫烫烫烫烫，这个文件的内容已经不能读了，请重新打开它。", "zh") == "mojibake"


CODE_LINES = {
    "en": "if (a[i] != {}) {{ b[i] += (c & 0x{:x}) << 2; }}",
    "zh": "若 (甲[乙] != {}) {{ 丙[乙] += (丁 & 0x{:x}) << 2; }}",
}


@pytest.mark.parametrize("language", CODE_LINES)
def test_operators_are_symbols_of_prose_and_words_of_code(language: str) -> None:
    code = "\n".join(CODE_LINES[language].format(n, n * 37 + 11) for n in range(6))
    only_quality = Filters.model_validate({"language": None, "repetition": None, "length": None})
    assert verdict(code, language, only_quality) != "symbols"
    prose = code.replace("\n", " ")  # signs in a line are no code
    assert verdict(prose, language, only_quality) == "symbols"


def test_word_length_rule_applies_to_english_only() -> None:
    paths = "/usr/lib/python/site-packages/something_long " * 12
    only_quality = Filters(length=None, repetition=None)
    assert verdict(paths, "en", only_quality) == "word_length"
    assert verdict(paths, "zh", only_quality) != "word_length"


def test_null_disables_a_filter() -> None:
    assert verdict("Yes.", "en", Filters(length=None)) == ""


@pytest.mark.parametrize("limits", [{0: 0.1}, {-1: 0.1}, {2: 1.5}, {2: -0.1}])
def test_limits_of_ngrams_are_checked(limits: dict[int, float]) -> None:
    for key in ("max_top_ngram_fractions", "max_duplicate_ngram_fractions"):
        with pytest.raises(ValidationError, match=f"gopher_repetition.zh.{key}"):
            Filters.model_validate({"gopher_repetition": {"zh": {key: limits}}})


def test_limits_of_ngrams_replace_those_below_in_a_source_as_in_the_stage() -> None:
    limits: dict[int, float]
    for limits in ({3: 0.5}, {}):
        options = {"gopher_repetition": {"en": {"max_top_ngram_fractions": limits}}}
        of_stage = Filters.model_validate({"preset": "gopher", **options})
        stage = Filters.model_validate(
            {"preset": "gopher", "gopher_repetition": {"en": {"max_duplicate_line_fraction": 1}}}
        )
        for filters in (of_stage, Filters.model_validate(options).over(stage), Filters.model_validate(options)):
            assert filters.gopher_repetition is not None
            assert filters.gopher_repetition.en.max_top_ngram_fractions == limits
        texts = pa.array([ENGLISH], pa.string())
        documents = document_stats(texts, ["en"], hash_texts(texts))
        assert apply_filters(of_stage.enabled()[:2], documents)[0].keep


def test_error_names_the_position_of_an_unknown_option() -> None:
    with pytest.raises(ValidationError) as error:
        Filters.model_validate({"length": {"min_word": 3}})
    assert error.value.errors()[0]["loc"] == ("length", "min_word")
    with pytest.raises(ValidationError):
        Filters.model_validate({"lenght": {}})


def test_every_reason_is_declared_once_and_covered_by_a_pair() -> None:
    declared = [reason for name in Filters().identity() for reason in reasons_of(name)]
    assert len(declared) == len(set(declared))
    covered = {reason for _, _, reason in PAIRS.values()} | {"word_length"}
    assert set(declared) - covered == {"too_long", "top_ngram", "language"}  # tested below


def test_texts_in_other_languages_are_dropped() -> None:
    japanese = "月は地球のまわりを一周するあいだに一回だけ自転するので、いつも同じ面をこちらに向けている。" * 3
    german = "Der Mond dreht sich in der Zeit, in der er einmal um die Erde läuft, genau einmal um sich selbst."
    for text, language in ((japanese, "ja"), (german, "de"), (ENGLISH, "en"), (CHINESE, "zh")):
        for declared in ("en", "zh"):
            found = verdict_of(text, declared)
            expected = ("", "") if declared == language else ("language", language)
            assert (found.reason, found.language) == expected
    assert verdict_of(ENGLISH, "fr").language == "fr"  # the row's own word
    assert verdict(german, "en", Filters(language=None)) != "language"
    assert verdict(german.replace("ä", "Ã¤"), "en") == "mojibake"  # it cannot be told


def test_a_book_and_its_translation_have_the_same_length() -> None:
    english, chinese = 70 * len(ENGLISH.split()), 70 * len(CHINESE)
    assert english < chinese
    for factor, reason in ((1.3, ""), (0.7, "too_long")):
        filters = Filters(length=Length(max_words=int(english * factor)), repetition=None)
        assert verdict(f"{ENGLISH}\n" * 70, "en", filters) == verdict(f"{CHINESE}\n" * 70, "zh", filters) == reason


def test_too_long_and_top_ngram() -> None:
    assert verdict("word " * 11, "en", Filters(length=Length(max_words=10))) == "too_long"
    often = " ".join(f"on the other hand {n} {n * 7} {n * 3} {n * 11} apples" for n in range(100, 130))
    filters = Filters(
        repetition=Repetition(max_duplicate_ngram_fraction=1, max_duplicate_line_fraction=1), quality=None
    )
    assert verdict(often, "en", filters) == "top_ngram"
    quality = Quality(min_alphabetic_word_fraction=0, min_stop_words=0)
    assert verdict(often, "en", Filters(repetition=None, quality=quality)) == ""


def test_the_defaults_keep_nearly_all_classical_poems(data_dir: Path) -> None:
    with gzip.open(data_dir / "corpus_zh.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = pa.array([json.loads(line)["text"] for line in lines], pa.string())
    filters = Filters().enabled()
    documents = document_stats(texts, ["zh"] * len(texts), hash_texts(texts))
    reasons = Counter(verdict.reason for verdict in apply_filters(filters, documents))
    assert reasons[""] > 0.998 * len(texts), reasons
