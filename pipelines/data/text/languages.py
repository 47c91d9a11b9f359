"""The languages of texts: those of a corpus, detected by script, and all others, identified by py3langid.

    text ──characters──► Chinese, Japanese, Korean
      └──alphabets──► frequent words ──► English   ──otherwise──► py3langid (naive Bayes on bytes) ──► 110 languages

Light imports only: recipes are read with this module. The identifier's model is inside its package; it is loaded when
the first text needs it, which takes half a second and 80 MB.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from pipelines.data.text.language_names import CODES, LANGUAGE_NAMES

LANGUAGES = ("en", "zh")  # that a corpus may have
UNDECIDED = "und"  # ISO 639's code of a language that cannot be told
BY_SCRIPT = ("ja", "ko", "zh")
NUMBERS = "zxx"  # py3langid's class of numbers and markup
NO_LANGUAGES = (NUMBERS, "la")  # lists of species, of elements, of identifiers look like Latin
LETTERS_PER_CHARACTER = 3  # equal content: an English word of about five letters, and 1.6 Chinese characters
LETTERS_PER_SYLLABLE = 2  # of Korean
CHARACTERS_PER_WORD = 1.6  # of Chinese, for the content of an English word
CHINESE_CHARACTER = re.compile("[\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
KANA = re.compile("[\u3041-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff]")  # not ・ and ー: Chinese has them in names
# Letters of scripts that write neither English nor Chinese, but for Greek, in which formulas are: Cyrillic, Armenian,
# Hebrew, Arabic, those of India, Thai, Lao, Burmese, Georgian, kana, Hangul.
OTHER_SCRIPTS = re.compile("[\u0400-\u11ff\u1780-\u17ff\u3041-\u30ff\u3130-\u318f\uac00-\ud7af]")
HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
# Characters of Japanese alone: simplified as neither part of China does it, or made in Japan. Of the first level of
# JIS X 0208 those that neither GB 2312 nor Big5 has, but for variants that Chinese editions write too (顔, 衆 …).
JAPANESE_FORMS = (
    "働込畑辻峠枠榊匂搾腺塀経済円広気対応発団図圧塩売変実専戦択検権歩歴毎県駅総続絵縄薬蔵譲豊転軽逓釈鉄鋳険隣雑霊"
    "顕騒験髄麺黙齢労営厳単桜沢浜渋焼獣畳穂竜粛繊覚観訳読説"
    "亜唖穐悪鯵鮎囲壱稲鰯欝栄頴鋭焔縁艶薗汚鴬鴎仮価菓壊懐拡撹楽樫梶椛竃噛苅勧巻歓潅諌関陥舘巌贋帰亀犠拠挙郷尭暁倶"
    "駆駈喰粂恵掲渓継繋蛍頚鶏撃倹剣圏鹸戸呉娯効鉱砿麹黒狛査砕斎剤冴堺咲笹皐桟讃賛姉歯児鴫宍雫舎呪収繍従縦処奨渉醤"
    "乗剰壌嬢穣醸靭粋酔椙瀬斉摂絶賎銭曽惣捜挿掻巣痩窓聡荘増臓楕駄騨帯滝凧竪弾値遅庁聴勅栂壷兎嶋梼闘徳涜栃瀞呑凪弐"
    "韮悩脳廃拝楳蝿硲畠溌醗抜噺晩樋姫氷鋲冨払仏箆辺舗頬柾桝侭麿満杢戻籾匁鑓謡覧両猟瑠塁涙隷暦錬篭蝋録脇鰐"
)
JAPANESE_FORM = re.compile(f"[{JAPANESE_FORMS}]")
GB_2312 = (bytes((first, second)).decode("gb2312", errors="ignore") for first in range(0xB0, 0xF8)
           for second in range(0xA1, 0xFF))  # fmt: skip
# Characters that Japanese cannot write, of which nearly every simplified Chinese sentence has some: 们, 说, 这, 你 …
SIMPLIFIED = re.compile(f"[{''.join(one for one in GB_2312 if one and not one.encode('shift_jis', errors='ignore'))}]")
MIN_KANA_SHARE = 0.15  # of the characters of Japanese; headlines and addresses have fewer, and are told by their forms
MIN_JAPANESE_SHARE = 0.08  # of kana and, counted twice, of Japanese forms, in a text that has both or several forms
# Frequent in English and hardly in any other language: not "in", "was" (German), "is", "of" (Dutch), "to" (Polish) …
ENGLISH_WORDS = frozenset(
    ("the", "and", "that", "with", "this", "it", "from", "have", "you", "which", "not", "they", "their", "there",
     "been", "has", "would", "can", "what", "when", "who", "if", "your", "our", "its", "than", "then", "these", "into",
     "about", "more", "other", "should", "must", "only", "each", "given", "does", "such", "some", "where", "whether",
     "between", "through", "after", "before", "because", "how", "she", "his", "were", "could", "those", "without",
     "used", "every", "being", "made", "one")
)  # fmt: skip
MIN_ENGLISH_WORD_SHARE = 0.06  # of the words of a text that is in English; prose has 15%
MIN_PROSE_WORD_SHARE = 0.1  # of a text that is neither code nor a list: code has "from", "not", "if" …
FIRST_CHARACTERS = 100  # for a first look from the middle of a text: 40 are enough for nearly every text
MAX_CHARACTERS = 2000  # for the final word, from several places
MIN_LETTERS = 20  # a Chinese character counting as three: fewer may be a name
CANDIDATE, CONFIDENT, CERTAIN = 0.3, 0.6, 0.85  # of py3langid: to look again; to name a language; to set a text aside


def language_code(value: Any) -> str | None:
    """Converts a value of a language column (a code of ISO 639, or an English name) to a code. None if it is neither.

    >>> language_code("zh-Hans"), language_code("English"), language_code("jpn_Jpan"), language_code("?")
    ('zh', 'en', 'ja', None)
    """
    name = str(value).strip().lower().replace("_", "-")
    return CODES.get(name) or CODES.get(name.split("-")[0])


def language_name(code: str) -> str:
    """The English name of a language, for messages.

    >>> language_name("ja"), language_name("xx")
    ('Japanese', 'xx')
    """
    return LANGUAGE_NAMES.get(code, code)


def language_by_counts(*, chinese: int, letters: int) -> str:
    """Returns zh if a text has more content in its Chinese characters than in its letters of other scripts, else en."""
    return "zh" if chinese and LETTERS_PER_CHARACTER * chinese >= letters else "en"


def language_of(text: str) -> str:
    """The language of a text that is in English or Chinese, by its characters.

    >>> language_of("床前明月光"), language_of("The word 月 means moon.")
    ('zh', 'en')
    """
    chinese = len(CHINESE_CHARACTER.findall(text))
    return language_by_counts(chinese=chinese, letters=sum(map(str.isalpha, text)) - chinese)


def document_language(text: str, named: str) -> str:
    """The language of a document whose source names one (en, zh, or auto to detect it), by a sample of its text.

    >>> document_language("朝の市場は港のすぐ隣にあって、魚を売る。", "auto"), document_language("A lamp.", "zh")
    ('ja', 'zh')
    """
    language = language_of(spread_sample(text, MAX_CHARACTERS)) if named == "auto" else named
    return other_language(text, language) or language


def identify(text: str) -> str:
    """Identifies the language of a text: its code in ISO 639-1, or UNDECIDED (numbers, code, a single word).

    >>> identify("朝の市場は港の隣にある。"), identify("Où est la gare, s'il vous plaît ?"), identify("x = 3.14")
    ('ja', 'fr', 'und')
    """
    return _identify(spread_sample(text, MAX_CHARACTERS), CONFIDENT)


def other_language(text: str, language: str) -> str:
    """The language in which a text is that was taken to be in `language` (en or zh); empty where it may well be.

    Careful: a text is in another language only where this is certain, and where less than a quarter of it is in
    `language`. So code, formulas, lists of names and texts in two languages stay.

    >>> other_language("خانه‌ی ما نزدیک بندر بود و ماهی می‌خریدیم.", "en"), other_language("def f(): ...", "en")
    ('fa', '')
    """
    sample = spread_sample(text, MAX_CHARACTERS)
    if _is_other_script(text):  # nothing of it can be English or Chinese, however short it is
        code = _by_script(sample) or _ranking()(sample)[0][0]
        return "" if code in LANGUAGES else code
    start = max(0, (len(text) - FIRST_CHARACTERS) // 2)
    if _identify(text[start : start + FIRST_CHARACTERS], CANDIDATE) in (language, UNDECIDED):
        return ""
    code = _identify(sample, CERTAIN)
    english_words, words = _english_words(sample)
    if code == "en" and english_words < MIN_PROSE_WORD_SHARE * words:
        return ""  # code in a Chinese text
    if code in (language, UNDECIDED) or _has_quarter(text, language, code):
        return ""
    return code if _letters(sample) >= MIN_LETTERS else ""


def spread_sample(text: str, characters: int, pieces: int = 5) -> str:
    """Pieces of a text from its beginning to its end, together at most so many characters; a short text as a whole."""
    if len(text) <= characters:
        return text
    length = characters // pieces
    starts = [number * (len(text) - length) // (pieces - 1) for number in range(pieces)]
    return "\n".join(text[start : start + length] for start in starts)


def _identify(sample: str, min_confidence: float) -> str:
    if not sample.isascii() and (code := _by_script(sample)):
        return code
    if is_english(*_english_words(sample)):
        return "en"
    if not any(map(str.isalpha, sample)):
        return UNDECIDED
    first_three = _ranking()(sample)[:3]
    code = first_three[0][0]
    # Close languages, such as Indonesian and Malay, share the confidence; English in second place counts against it.
    # Code and numbers give none to any language.
    confidence = sum(-share if other == "en" != code else share for other, share in first_three)
    return UNDECIDED if confidence < min_confidence or code in NO_LANGUAGES else code


def _by_script(sample: str) -> str:
    """zh, ja or ko for a text with more content in their scripts than in other letters; otherwise empty."""
    chinese, hangul = len(CHINESE_CHARACTER.findall(sample)), len(HANGUL.findall(sample))
    if not chinese and not hangul:
        return ""
    letters = sum(map(str.isalpha, sample)) - chinese - hangul
    chinese_letters, korean_letters = LETTERS_PER_CHARACTER * chinese, LETTERS_PER_SYLLABLE * hangul
    if chinese_letters + korean_letters < letters:
        return ""
    if korean_letters > chinese_letters:
        return "ko"
    found = JAPANESE_FORM.findall(sample)
    kana, forms = len(KANA.findall(sample)), len(found)
    if kana >= MIN_KANA_SHARE * chinese:
        return "ja"
    has_several = (kana and forms) or len(set(found)) > 1
    # Chinese has forms in names of Japan's people and places, and characters of its own around them.
    is_written_so = 2 * len(SIMPLIFIED.findall(sample)) < kana + forms
    return "ja" if has_several and is_written_so and kana + 2 * forms >= MIN_JAPANESE_SHARE * chinese else "zh"


def is_english(english_words: int, words: int) -> bool:
    """Whether a text with so many ENGLISH_WORDS among its words is in English. One without any may be, too."""
    return english_words > 0 and english_words >= MIN_ENGLISH_WORD_SHARE * words


def _english_words(sample: str) -> tuple[int, int]:
    """Number of a text's words that are among ENGLISH_WORDS, and of all its words."""
    words = sample.lower().split()
    return sum(map(ENGLISH_WORDS.__contains__, words)), len(words)


def _is_other_script(text: str) -> bool:
    """Whether all letters of a text are of OTHER_SCRIPTS, and no fewer than its signs and more than its digits: this is
    not so of "5 м" and of faces made of signs."""
    if not all(map(OTHER_SCRIPTS.match, filter(str.isalpha, text))):
        return False
    rest = OTHER_SCRIPTS.sub("", text)
    digits = sum(map(str.isdigit, rest))
    signs = sum(map(len, rest.split())) - digits
    letters = len(text) - len(rest)  # vowel signs among them
    return letters > digits and letters >= signs


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text)) + (LETTERS_PER_CHARACTER - 1) * len(CHINESE_CHARACTER.findall(text))


def _has_quarter(text: str, language: str, other: str) -> bool:
    """Whether at least a quarter of a text in another language is in `language` after all."""
    chinese = LETTERS_PER_CHARACTER * len(CHINESE_CHARACTER.findall(text))
    if language == "zh":
        return other != "ja" and 4 * chinese >= _letters(text)
    return is_english(*_english_words(text)) and 4 * (_letters(text) - chinese) >= _letters(text)


@functools.cache
def _ranking() -> Callable[[str], list[tuple[str, float]]]:
    """py3langid's function that ranks the languages of a text: (code, confidence from 0 to 1)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([code for code in LANGUAGE_NAMES if code not in BY_SCRIPT] + [NUMBERS])
    return identifier.rank
