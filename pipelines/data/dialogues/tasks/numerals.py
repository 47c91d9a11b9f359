"""Integers below 1,000 written in words: "four hundred twenty-seven", "四百二十七"."""

from __future__ import annotations

from itertools import product

ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
DIGITS = "零一二三四五六七八九"


def in_words(number: int, language: str) -> str:
    """Writes a number from 0 to 999 in words. Raises ValueError outside of that range.

    >>> in_words(427, "en"), in_words(427, "zh"), in_words(310, "zh"), in_words(12, "zh"), in_words(305, "zh")
    ('four hundred twenty-seven', '四百二十七', '三百一十', '十二', '三百零五')
    """
    if not 0 <= number <= 999:
        raise ValueError(f"number {number}: expected 0 to 999")
    return _english(number) if language == "en" else _chinese(number)


def _english(number: int) -> str:
    if number < 20:
        return ONES[number]
    hundreds, rest = divmod(number, 100)
    if hundreds:
        return f"{ONES[hundreds]} hundred" + (f" {_english(rest)}" if rest else "")
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{ONES[ones]}" if ones else "")


def _chinese(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    if not hundreds and not tens:
        return DIGITS[ones]
    text = f"{DIGITS[hundreds]}百" if hundreds else ""
    if tens == 1 and not hundreds:
        text += "十"  # 十二, but 三百一十二
    elif tens:
        text += f"{DIGITS[tens]}十"
    elif ones:
        text += "零"  # 三百零五
    return text + (DIGITS[ones] if ones else "")


def differing_numbers(number: int, low: int, high: int) -> list[int]:
    """Numbers from low to high with as many digits, every one of which differs: certainly wrong answers.

    >>> differing_numbers(427, 400, 540)[:3]
    [500, 501, 502]
    """
    text = str(number)
    least = 10 ** (len(text) - 1) if number > 9 else 0
    places = enumerate(reversed(text))
    values = [[digit * 10**place for digit in range(10) if str(digit) != there] for place, there in places]
    return [n for n in map(sum, product(*reversed(values))) if max(low, least) <= n <= high]
