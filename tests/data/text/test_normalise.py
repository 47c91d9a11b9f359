"""Normalisation: what it removes, what it keeps, and that it is idempotent."""

from __future__ import annotations

import pytest

from pipelines.data.text.normalise import normalise

CASES = {
    "line ends": ("one\r\ntwo\rthree\u2028four\x85five", "one\ntwo\nthree\nfour\nfive"),
    "composition": ("cafe\u0301", "café"),
    "controls": ("a\x00b\x07c\x1bd", "abcd"),
    "controls beside Chinese": ("月\x00亮\x9f", "月亮"),
    "zero width": ("zero\u200bwidth\ufeff, 零\u200b宽", "zerowidth, 零宽"),
    "joiners stay": ("👩\u200d👧", "👩\u200d👧"),
    "soft hyphen": ("hyphen\xadation", "hyphenation"),
    "no-break space": ("a\xa0b\u2009c", "a b c"),
    "trailing space": ("one  \ntwo\t\n三\u3000\nfour ", "one\ntwo\n三\nfour"),
    "piled blank lines": ("one\n\n\n\n\ntwo", "one\n\ntwo"),
    "blank lines of spaces": ("one\n  \n \t\n\ntwo", "one\n\ntwo"),
    "edges": ("\n\n  indented start\nend\n\n", "  indented start\nend"),
    "code": ("def f():\n    if x:\n\t\treturn 1", "def f():\n    if x:\n\t\treturn 1"),
    "Chinese punctuation": ("「你好」，世界……（一）！", "「你好」，世界……（一）！"),
    "full-width": ("ＡＢＣ１２３　全角", "ＡＢＣ１２３　全角"),
    "Chinese indentation": ("　　第一段。\n　　第二段。", "　　第一段。\n　　第二段。"),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_normalised_text(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize("text", [text for text, _ in CASES.values()] + ["", "\n", " \u200b \n", "a \x00\n\n \nb"])
def test_normalising_is_idempotent(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
