"""The languages of a corpus: their codes, and detection by script. Light imports only: recipes are read with it."""

from __future__ import annotations

import re
from typing import Any

NAMES = {"en": "en", "eng": "en", "english": "en", "zh": "zh", "zho": "zh", "cmn": "zh", "chinese": "zh"}
LETTERS_PER_CHARACTER = 3  # equal content: an English word of about five letters, and 1.6 Chinese characters
CHINESE_CHARACTER = re.compile("[\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def language_code(value: Any) -> str | None:
    """Converts a value of a language column to en or zh. Returns None for any other language.

    >>> language_code("zh-Hans"), language_code("English"), language_code("fr")
    ('zh', 'en', None)
    """
    return NAMES.get(str(value).lower().replace("_", "-").split("-")[0])


def language_by_counts(*, chinese: int, letters: int) -> str:
    """Returns zh if a text has more content in its Chinese characters than in its letters of other scripts, else en."""
    return "zh" if chinese and LETTERS_PER_CHARACTER * chinese >= letters else "en"


def language_of(text: str) -> str:
    """Detects the language of a text, en or zh, by its characters.

    >>> language_of("床前明月光"), language_of("The word 月 means moon.")
    ('zh', 'en')
    """
    chinese = len(CHINESE_CHARACTER.findall(text))
    return language_by_counts(chinese=chinese, letters=sum(map(str.isalpha, text)) - chinese)
