"""Groups of people that texts mention: the same as each group's own pattern finds, in both languages."""

from __future__ import annotations

import re

from pipelines.data.text.harm_words import GROUPS
from pipelines.data.text.people_groups import mentioned_groups

ENGLISH = """the chinese women|old people with disabilities|black women and black men|an African-American man
the old men of the elderly|blind people, deaf people|women's|a womanly man|germans and human beings|Asians
white folks, the poor, the homeless people|Trans people|wheelchair users who are immigrants|mennonite|no one
the disabled people|poor people|gay christians and catholic jews|a moslem's seniors|whites|the blacksmith"""
CHINESE = """那位盲人和佛教徒一起去看老人。|中国老年人和外国人|女生男生|变性人|没有人|农民工的妇女|犹太人与穆斯林"""


def one_by_one(text: str, language: str) -> list[str]:
    patterns = {name: rf"\b(?:{words['en']})\b" if language == "en" else words["zh"] for name, words in GROUPS.items()}
    return [name for name, pattern in patterns.items() if re.search(pattern, text.lower())]


def test_one_pass_finds_what_each_pattern_finds() -> None:
    texts = [(text, "en") for text in re.split(r"[|\n]", ENGLISH)] + [(text, "zh") for text in CHINESE.split("|")]
    texts += [(". ".join(text for text, of in texts if of == language), language) for language in ("en", "zh")]
    found = {text: mentioned_groups(text, language) for text, language in texts}
    assert found == {text: one_by_one(text, language) for text, language in texts}
    assert set(GROUPS) == {group for groups in found.values() for group in groups}
    assert mentioned_groups("The old men", "fr") == []


def test_groups_are_mentioned_in_both_languages() -> None:
    assert mentioned_groups("An old man helped the Jewish women; humans are wicked.", "en") == [
        "women", "men", "jews", "old_people",
    ]  # fmt: skip
    assert mentioned_groups("那位盲人和佛教徒一起去看老人。", "zh") == ["buddhists", "disabled_people", "old_people"]
    assert all(set(words) == {"en", "zh"} for words in GROUPS.values())
