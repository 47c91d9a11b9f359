"""The languages a corpus tells apart: their names, and which one a text is in. Light, for recipes are read with it."""

from __future__ import annotations

import re
from typing import Any

NAMES = {"en": "en", "eng": "en", "english": "en", "zh": "zh", "zho": "zh", "cmn": "zh", "chinese": "zh"}
LETTERS_A_CHARACTER = 3  # an English word has about five letters and says as much as 1.6 Chinese characters
CHINESE_CHARACTER = re.compile("[\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def language_code(value: Any) -> str | None:
    """en or zh for what people write in a language column; None for anything else.

    >>> language_code("zh-Hans"), language_code("English"), language_code("fr")
    ('zh', 'en', None)
    """
    return NAMES.get(str(value).lower().replace("_", "-").split("-")[0])


def language_by_counts(*, chinese: int, letters: int) -> str:
    """zh if a text says more in its Chinese characters than in its letters of other scripts, else en."""
    return "zh" if chinese and LETTERS_A_CHARACTER * chinese >= letters else "en"


def language_of(text: str) -> str:
    """The same for a text.

    >>> language_of("床前明月光"), language_of("The word 月 means moon.")
    ('zh', 'en')
    """
    chinese = len(CHINESE_CHARACTER.findall(text))
    return language_by_counts(chinese=chinese, letters=sum(map(str.isalpha, text)) - chinese)
