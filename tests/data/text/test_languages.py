"""Languages of texts: told by script, by frequent words, and by the identifier; careful with what cannot be told."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pipelines.data.text.language_names import LANGUAGE_NAMES
from pipelines.data.text.languages import (
    MAX_CHARACTERS,
    UNDECIDED,
    document_language,
    identify,
    language_code,
    other_language,
    spread_sample,
)

TEXTS = {
    "en": "The ferry leaves the island at six, and whoever misses it has to wait until the next morning.",
    "zh": "渡船早上六点离开小岛，错过的人只好等到第二天早晨。",
    "ja": "フェリーは六時に島を出るので、乗り遅れた人は翌朝まで待たなければならない。",
    "ko": "배는 여섯 시에 섬을 떠나고, 놓친 사람은 다음 날 아침까지 기다려야 한다.",
    "fa": "کشتی ساعت شش جزیره را ترک می‌کند و هر که جا بماند باید تا صبح فردا صبر کند.",
    "ar": "تغادر العبارة الجزيرة في الساعة السادسة، ومن يتأخر عنها عليه أن ينتظر حتى صباح الغد.",
    "pt": "A balsa sai da ilha às seis, e quem não chegar a tempo tem de esperar até a manhã seguinte.",
    "es": "El transbordador sale de la isla a las seis, y quien lo pierda tiene que esperar hasta la mañana siguiente.",
    "fr": "Le bac quitte l'île à six heures, et celui qui le manque doit attendre jusqu'au lendemain matin.",
    "de": "Die Fähre verlässt die Insel um sechs, und wer sie verpasst, muss bis zum nächsten Morgen warten.",
    "nl": "De veerboot verlaat het eiland om zes uur, en wie hem mist moet tot de volgende ochtend wachten.",
    "ru": "Паром уходит с острова в шесть, и кто опоздал, тому приходится ждать до следующего утра.",
    "uk": "Пором відходить з острова о шостій, і хто запізнився, мусить чекати до наступного ранку.",
    "tr": "Feribot adadan saat altıda kalkar ve kaçıran kişi ertesi sabaha kadar beklemek zorundadır.",
    "vi": "Chuyến phà rời đảo lúc sáu giờ, ai lỡ chuyến phải đợi đến sáng hôm sau.",
    "hi": "नाव छह बजे द्वीप से निकलती है और जो छूट जाए उसे अगली सुबह तक रुकना पड़ता है।",
}
CHINESE = {
    "traditional": "渡船早上六點離開小島，錯過的人只好等到第二天早晨。",
    "Cantonese": "隻船朝早六點就走㗎喇，搭唔到嘅人要等到聽朝先有船。",
    "classical": "關關雎鳩，在河之洲。窈窕淑女，君子好逑。",
    "classical with variants": "裏巷寛閒峯影隠，歳寒衆鳥髪如霜。",
    "with foreign names": "她读了卡尔・马克思和村上春樹の小说，也听过《さくら》，其余的书都是在县里的图书馆借来看的。",
    "with places": "栃木县的草莓很有名，栃木县在东京以北，坐车一个小时就到。",
    "with a castle": "立花泷和姫路城的关系是什么？姫路城在哪里？",
    "with a figure": "咲夜是女仆长，咲夜能停止时间，她很忠诚。",
    "with an actor": "堺雅人主演的电视剧《半泽直树》非常好看，堺雅人演技很好。",
    "with a family": "他在畠山义就的家里住了三年，后来去了堺市。",
}
JAPANESE_WITH_FEW_KANA = (
    "経済産業省は十二日、半導体関連企業向け補助金総額二千億円の追加支給を発表。",
    "東京駅下車徒歩五分、平日午前九時開館、入場無料、団体要予約。",
    "東京都知事選挙 開票結果 現職当選確実",
    "警察庁長官狙撃事件",
)
NO_PROSE = {
    "Python": "def area(width, height):\n    result = width * height\n    return result\n\nprint(area(3, 4))\n",
    "C": "#include <stdio.h>\nint main(void) { int n = 3; printf(\"%d\\n\", n * n); return 0; }\n",
    "SQL": "SELECT name, SUM(price) FROM orders JOIN items USING (item_id) GROUP BY name LIMIT 20;",
    "mathematics": r"\int_0^1 x^2\,dx = \frac{1}{3}, \quad \sum_{k=1}^{n} k = \frac{n(n+1)}{2}",
    "numbers": "12, 15, 18; 3.14159 = 22/7 - 0.00126",
    "species": "Quercus robur, Fagus sylvatica, Pinus nigra, Acer campestre, Tilia cordata, Ulmus glabra",
    "configuration": '{"retries": 3, "timeout_s": 20, "hosts": ["a.example", "b.example"]}',
    "a word": "Okay.",
}  # fmt: skip


@pytest.mark.parametrize(("language", "text"), TEXTS.items(), ids=TEXTS.keys())
def test_languages_are_identified(language: str, text: str) -> None:
    assert identify(text) == language
    assert identify(f"{text}\n" * 200) == language
    for declared in ("en", "zh"):
        assert other_language(text, declared) == ("" if language == declared else language)


@pytest.mark.parametrize("text", CHINESE.values(), ids=CHINESE.keys())
def test_every_kind_of_chinese_is_chinese(text: str) -> None:
    assert identify(text) == "zh"
    assert other_language(text, "zh") == ""


@pytest.mark.parametrize("text", JAPANESE_WITH_FEW_KANA)
def test_japanese_with_few_kana_is_not_chinese(text: str) -> None:
    assert identify(text) == other_language(text, "zh") == "ja"


@pytest.mark.parametrize("text", ["안녕하세요", "네.", "감사합니다! 1,000"])
def test_a_short_text_in_hangul_is_korean(text: str) -> None:
    assert document_language(text, "auto") == other_language(text, "en") == other_language(text, "zh") == "ko"


@pytest.mark.parametrize(
    ("text", "languages"),
    [
        ("Да, конечно.", ("ru", "bg", "uk")),
        ("はい", ("ja",)),
        ("نعم", ("ar", "fa", "ur")),
        ("כן", ("he",)),
        ("ครับ", ("th",)),
    ],
)
def test_a_short_text_in_a_script_of_its_own_is_in_another_language(text: str, languages: tuple[str, ...]) -> None:
    for named in ("en", "zh"):
        assert other_language(text, named) in languages
    assert other_language(f"{text} (yes)", "en") == ""


@pytest.mark.parametrize("text", ["¯\\_(ツ)_/¯", "5 м", "100 р.", "12 15 18\n20 м 40\n60 80 100", "2 м, 3 м, 4 м"])
def test_signs_and_numbers_with_a_letter_are_in_no_other_language(text: str) -> None:
    assert other_language(text, "en") == other_language(text, "zh") == ""


def test_a_text_is_in_english_whose_sampled_places_are_not() -> None:
    between, russian = (TEXTS["en"] + " ") * 40, (TEXTS["ru"] + " ") * 6
    text = russian + "".join(between + russian for _ in range(4))
    sample = spread_sample(text, MAX_CHARACTERS)
    assert not re.search("[a-z]", sample), "Russian alone"
    assert sum(map(str.isascii, text)) > 0.85 * len(text)
    assert other_language(text, "en") == ""


@pytest.mark.parametrize("text", ["Hello 안녕하세요", "Kim Min-ji (김민지)", "lol ㅋㅋ", "1,000"])
def test_a_short_text_with_a_word_in_hangul_is_not_korean(text: str) -> None:
    assert document_language(text, "auto") == "en"


@pytest.mark.parametrize("text", NO_PROSE.values(), ids=NO_PROSE.keys())
def test_code_mathematics_and_lists_are_in_no_other_language(text: str) -> None:
    assert identify(text) in (UNDECIDED, "en")
    for declared in ("en", "zh"):
        assert other_language(text, declared) == other_language(text * 20, declared) == ""


def test_texts_in_two_languages_stay() -> None:
    both = f"{TEXTS['en']}\n{TEXTS['zh']}\n" * 30
    assert other_language(both, "en") == other_language(both, "zh") == ""
    lesson = f"Read this sentence, and translate it into your own language: {TEXTS['de']}\n" * 10
    assert other_language(lesson, "en") == ""
    foreign_with_terms = f"{TEXTS['ja']} (machine learning)\n" * 10
    assert other_language(foreign_with_terms, "en") == "ja"


def test_codes_and_names_of_language_columns() -> None:
    values = {"zh-Hant": "zh", "zho_Hans": "zh", "cmn": "zh", "EN": "en", "eng_Latn": "en", "English": "en", "ja": "ja",
              "jpn": "ja", "Haitian Creole": "ht", "pt_BR": "pt", "?": None, "": None, "n/a": None}  # fmt: skip
    assert {value: language_code(value) for value in values} == values
    assert language_code(None) is None
    assert len(LANGUAGE_NAMES) >= 100


def test_the_identifier_is_loaded_when_a_text_needs_it() -> None:
    program = (
        "import sys; from pipelines.data.text.languages import identify, other_language; "
        "assert not {'numpy', 'py3langid'} & set(sys.modules); "
        "identify('这是中文。'); other_language('This is the text that we have.', 'en'); "
        "assert 'py3langid' not in sys.modules; identify('Guten Morgen'); assert 'py3langid' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
