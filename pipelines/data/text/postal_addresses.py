"""Postal addresses with a street and a number, by pattern, in English and Chinese.

    12 Main Street, Springfield, IL 62704 · 北京市海淀区中关村大街27号 ──► from the first to the last part

Not found: addresses without a number, in other forms ("the yellow house by the church") or orders (Rua Augusta 24).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

HAN = "\u4e00-\u9fff"
# Court, Close and Row are words of too many other lines: "12 The Court held", "4 Press Close", "1 Insert Row".
STREET = (
    r"(?:(?:Street|Avenue|Road|Boulevard|Lane|Drive|Square|Place|Way|Terrace|Parkway|Highway|Crescent|Gardens"
    r"|Grove|Mews|Broadway)\b|(?:St|Ave|Rd|Blvd|Ln|Dr|Ct|Sq|Pl|Pkwy|Hwy)\b\.?)"
)
WORD = r"(?:[A-Z][a-z'’]+|[A-Z]\.|[0-9]{1,3}(?:st|nd|rd|th)|St\.|of|the)"
CITY = r"[A-Z][a-z]+(?:[ -](?:[A-Z][a-z]+|on|upon|le|de))*"
POSTCODE = r"(?:[A-Z]{2}[ ][0-9]{5}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][0-9A-Z]?[ ][0-9][A-Z]{2})"
ENGLISH_ADDRESS = re.compile(
    r"(?<![0-9A-Za-z.,$£€-])(?<![0-9] )[0-9]{1,5}[A-Za-z]?,?[ ](?:[NSEW]\.?[ ])?"
    rf"(?:{WORD}[ ]){{1,4}}{STREET}(?:[ ](?:NW|NE|SW|SE|North|South|East|West)\b)?"
    r"(?:,?[ ](?:Apt|Apartment|Suite|Unit|Flat|Room|Floor)\.?[ ]?#?[0-9]*[A-Za-z]?\b|,?[ ]#[0-9]+[A-Za-z]?)?"
    rf"(?:,[ \n]{CITY}(?=,[ ]|[ ]{POSTCODE}|[.;)\n]|$)(?:,?[ ]{POSTCODE}|,[ ][A-Z]{{2}}\b)?|,?[ ]{POSTCODE})?"
)
# Words before a number that is a year, a page, a quantity: "in 1990 Main Street was", "the 5 Wall Street banks".
NO_HOUSE = re.compile(
    r"\b(?:in|since|until|by|before|after|from|of|the|about|over|and|page|chapter|section|part|volume|route|figure|table)"
    r"\s$",
    re.IGNORECASE,
)
AT = re.compile(r"(?:\b(?:at|to|is|on|near|lives?|lived|address|deliver)[ :]+|[:：(]\s*|^\s*|\n\s*)$", re.IGNORECASE)
ENDED = re.compile(r"\s*(?:[,.;:)!?\n]|$)")

NUMBER = "[0-9０-９零〇一二三四五六七八九十百]{1,5}"
ROOM = "[0-9A-Z一二三四五六七八九十]{1,4}(?:号楼|栋|幢|座|单元|层|室|楼|号|户)"
CHINESE_ADDRESS = re.compile(
    rf"[{HAN}]{{1,22}}?(?:大街|大道|(?<![铁公线道电马套思走一条鐵線電馬])路|街|胡同|巷|弄)(?:[东南西北中]?[一二三四五六七八九十]?段)?"
    rf"(?:[0-9]{{1,4}}弄)?{NUMBER}[号號](?![线楼院線樓])?(?:院|大院)?"
    rf"(?:[{HAN}]{{2,8}}(?=[0-9]{{1,4}}(?:号楼|栋|幢|座)))?(?:{ROOM}){{0,4}}"
)
# Words before an address that a run of Chinese characters begins with.
LEAD = re.compile(r".*(?:地址是|地址为|住址|来自|改为|[在到是往于於至从住去])")
MIN_CHINESE_ADDRESS = 5  # characters


def addresses(text: str) -> Iterator[tuple[int, int]]:
    """Where postal addresses with a street and a number begin and end.

    >>> [text[a:b] for text in ("at 9 Main Street, Troy, OH 45373.", "我住在中山路27号") for a, b in addresses(text)]
    ['9 Main Street, Troy, OH 45373', '中山路27号']
    """
    for match in ENGLISH_ADDRESS.finditer(text):
        before = text[max(0, match.start() - 24) : match.start()]
        if not NO_HOUSE.search(before) and (ENDED.match(text, match.end()) or AT.search(before)):
            yield match.span()
    if "号" in text or "號" in text:
        for match in CHINESE_ADDRESS.finditer(text):
            lead = LEAD.match(match[0])
            start = match.start() + (lead.end() if lead else 0)
            if match.end() - start >= MIN_CHINESE_ADDRESS:
                yield start, match.end()
