"""Whole numbers below 1,000 in words: "four hundred twenty-seven", "四百二十七"."""

from __future__ import annotations

ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
DIGITS = "零一二三四五六七八九"


def in_words(number: int, language: str) -> str:
    """A number from 0 to 999 in words.

    >>> in_words(427, "en"), in_words(427, "zh"), in_words(310, "zh"), in_words(12, "zh"), in_words(305, "zh")
    ('four hundred twenty-seven', '四百二十七', '三百一十', '十二', '三百零五')
    """
    if not 0 <= number <= 999:
        raise ValueError(f"{number}: expected 0 to 999")
    return _english(number) if language == "en" else _chinese(number)


def _english(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    if hundreds:
        return f"{ONES[hundreds]} hundred" + (f" {_english(rest)}" if rest else "")
    tens, ones = divmod(number, 10)
    return ONES[number] if number < 20 else TENS[tens] + (f"-{ONES[ones]}" if ones else "")


def _chinese(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    if not hundreds:
        ten = "" if not tens else "十" if tens == 1 else f"{DIGITS[tens]}十"
        return ten + (DIGITS[ones] if ones or not tens else "")
    ten = f"{DIGITS[tens]}十" if tens else "零" if ones else ""
    return f"{DIGITS[hundreds]}百{ten}{DIGITS[ones] if ones else ''}"


def unlike(number: int, low: int, high: int) -> list[int]:
    """Numbers of this range, as long, that have another digit at every place: wrong without a doubt.

    >>> unlike(427, 400, 540)[:3]
    [500, 501, 502]
    """
    text = str(number)
    return [n for n in range(low, high + 1) if len(str(n)) == len(text) and all(map(str.__ne__, str(n), text))]
