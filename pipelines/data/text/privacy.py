"""Personal data in texts: finds it by pattern and checksum, and masks it or replaces it with surrogates.

    text, its full-width forms as ASCII ──patterns──► candidates ──checksums, context──► spans by kind
    spans ──► [email] or a surrogate, or no document

Found: e-mail addresses, telephone numbers (international, Chinese, North American, British), public IP addresses,
cards (Luhn), identity numbers (China's with its checksum, the United States'), passports (a number beside the word).
Postal addresses and names of people have their own files (postal_addresses.py, people_names.py). Not found: what is
spelled to escape patterns ("name at domain dot com").

A surrogate is a function of the seed and the value, so equal values stay equal and can be joined. It belongs to no one:
it is in a range that is reserved or not assigned. Whoever knows the seed can try all telephone numbers; mask them, or
keep the seed secret, where that matters.
"""

from __future__ import annotations

import bisect
import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pipelines.data.text.people_names import name_surrogate, people_names
from pipelines.data.text.postal_addresses import addresses
from pipelines.data.text.privacy_kinds import MASKS, PrivacyOptions, PrivateKind

# Full-width forms that values are written in, and spaces and hyphens between digits: read as ASCII, one character for
# one, so that places in the text stay what they are.
WIDE = "".join(map(chr, (*range(0xFF10, 0xFF1A), *range(0xFF20, 0xFF3B), *range(0xFF41, 0xFF5B)))) + "（）＋－．"
NARROWED = {ord(sign): ord(sign) - 0xFEE0 for sign in WIDE} | {0x3000: " ", 0x2010: "-", 0x2011: "-"}
IS_WIDE = re.compile(f"[{''.join(map(chr, NARROWED))}]+")
EMAIL = re.compile(
    r"(?<![A-Za-z0-9_.+%-])[A-Za-z0-9_][A-Za-z0-9_.+%'-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"[A-Za-z]{2,24}(?![A-Za-z0-9_-]|\.[A-Za-z])"
)
# Names of documentation (RFC 2606) and addresses of programs: of no person.
NO_PERSON = re.compile(
    r"^(?:git|noreply|no-reply|donotreply)@|[@.](?:example\.(?:com|org|net)|example|test|invalid)$", re.I
)
DIGITS = re.compile(r"[0-9](?:[ ().:–-]{0,2}[0-9]){6,}[Xx]?")  # runs in which numbers are looked for
IPV4 = re.compile(r"(?<![0-9.])(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?=[0-9])|(?![0-9.]*[0-9]))){4}")
IPV6 = re.compile(r"(?<![0-9A-Za-z:])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![0-9A-Za-z:])")
MIN_LARGEST_BYTE = 32  # 3.1.2.4 is a section or a version; one address in four thousand has no larger byte
CARD = re.compile(
    r"(?<![0-9.])(?<![0-9][ -])(?:3[47][0-9]{2}([ -]?)[0-9]{6}\1[0-9]{5}"
    r"|(?:4[0-9]|5[1-5]|2[2-7]|35|6[0245])[0-9]{2}([ -]?)[0-9]{4}\2[0-9]{4}\2[0-9]{4}(?:\2[0-9]{3})?"
    r"|3(?:0[0-5]|[68][0-9])[0-9]([ -]?)[0-9]{6}\3[0-9]{4})(?![ -]?[0-9])"
)
CHINESE_ID = re.compile(
    r"(?<![0-9])(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3])[0-9]{4}(?:18|19|20)[0-9]{2}"
    r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx](?![0-9])"
)
SOCIAL_SECURITY = re.compile(r"(?<![0-9-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9-])")
# Blanks are possessive (\s*+): given back one by one, a long run of them would be tried in all divisions.
PASSPORT = re.compile(
    r"(?:passport|护照|護照)\s*+(?:no\b\.?|num(?:ber)?\b|#|号码?|號碼?)?\s*+(?:is|was|为|為|是)?\s*+[:：#]?\s*+"
    r"([A-Z]{0,2}[0-9]{6,9}[A-Z]?)(?![0-9A-Za-z])",
    re.IGNORECASE,
)
PHONE = re.compile(
    r"(?<![0-9A-Za-z.+/=_-])(?<!#)(?:"
    r"(?:(?:\+|00)86[ -]?|\(\+?86\) ?)?1[3-9][0-9]([ -]?)[0-9]{4}\1[0-9]{4}"  # a Chinese mobile
    r"|(?:(?:\+86[ -]?)?\(?0(?:10|2[0-9]|[3-9][0-9]{2})(?:\) ?|[ -])[0-9]{4}[ -]?[0-9]{3,4}"  # a Chinese landline
    r"|(?:(?:\+|00)86[ -]?(?:\(0\) ?|\(?)|\(\+?86(?:\) ?|[ -])|86-)0?(?:10|2[0-9]|[3-9][0-9]{2})(?:\) ?|[ -]?)"
    r"[2-9][0-9]{2,3}[ -]?[0-9]{4})(?:-[0-9]{1,5})?"  # from abroad; both with an extension
    r"|0(?:(?:10|2[0-9])[2-9][0-9]{7}|[3-9][0-9]{2}[2-9][0-9]{6,7}|7[1-9][0-9]{8})"  # bare: Chinese, a British mobile
    r"|(?:\+?1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}([ .-]))[2-9][0-9]{2}(?:\2|[.-])[0-9]{4}"  # North America
    r"|\+(?!86|[0-9]+\.[0-9]{1,7}(?![ .-]?[0-9(]))"  # international, and no decimal
    r"[1-9][0-9]{0,2}[ .-]?(?:\(?[0-9]{1,5}\)?[ .-]?){1,5}[0-9]{2,4}"
    r"|\(?0(?:(?:(?:1[1-9]|[2-9][0-9])[0-9]{0,2}(?:\) ?| )[0-9]{3}|[2-9][0-9](?:\) ?| )[0-9]{4}) [0-9]{3,4}"  # British
    r"|[17][1-9][0-9]{2}(?:\) ?|[ -])[0-9]{6})"
    r")(?![0-9]|[.-][0-9]|[A-Za-z_])"
)
# The number without the code of its country.
CHINESE_MOBILE = re.compile(r"(?:(?:\+|00)86[ -]?|\(\+?86\) ?)?(1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4})")
NORTH_AMERICAN = re.compile(r"(?:\+?1[ .-])?(\(?[2-9][0-9]{2}\)?[ .-]?[2-9][0-9]{2}[ .-][0-9]{4})")
# What numbers are that look like a telephone's or a card's; versions look like addresses.
OTHER_NUMBER = re.compile(
    r"(?:order|tracking|invoice|ticket|serial|(?<![A-Za-z])(?:part|model|ean|upc)|isbn|issn|sku|barcode|imei|qq|uid"
    r"|订单|訂單|单号|單號|运单|编号|編號|流水|序列号|条码|條碼|条形码|型号|型號)"
    r"(?:\s*+(?:id|no\.?|nos\.?|number|num|号|號))?\s*+(?:is|was|:|：|#|=|是|为)?\s*+#?\s*+$",
    re.IGNORECASE,
)
VERSION = re.compile(r"(?:\bv|version|release|build|section|版本|版)\s*+[:：]?\s*+$", re.IGNORECASE)
# Of JSON or a repr: a line break, a Chinese character, before a number: the escape's letter would be part of its word.
ESCAPE = re.compile(r"(\\(?:[abfnrtv]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}))(?=[0-9(+])")
PHONE_WORD = re.compile(
    r"(?:(?<![A-Za-z])(?:tel|call|fax)|phone|mobile|电话|電話|手机|手機|座机|传真|热线|致电)"
    r"(?:[ .]{0,2}(?:number|no)\b|号码|號碼)?\W*+(?:is\b|是|为|為)?\W*+$",
    re.IGNORECASE,
)
BARE_BARCODE_DIGITS = 12  # a landline of so many digits without a sign between is one only after PHONE_WORD
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 8, 15  # of an international number (E.164)
NAMES: frozenset[PrivateKind] = frozenset({"names"})
GROUP_LABELS = ("", "name", "联系人")  # a group may be a name with nothing beside it
WITHOUT_BLANKS = WIDE + "".join(map(chr, range(0x21, 0x7F)))  # the characters of values
BETWEEN_DIGITS = "0123456789 ().:+–-０１２３４５６７８９　（）．＋－\u2010\u2011"  # of a number
ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999


class Span(NamedTuple):
    """A piece of personal data in a text."""

    kind: PrivateKind
    start: int
    stop: int


def luhn(digits: str) -> bool:
    """Whether the digits end in their check digit (ISO/IEC 7812-1).

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    odd, even = digits[-1::-2], digits[-2::-2]
    return (sum(map(int, odd)) + sum(sum(divmod(2 * int(digit), 10)) for digit in even)) % 10 == 0


def id_check(digits: str) -> str:
    """The check character of a Chinese identity number, from its first 17 digits.

    >>> id_check("11010519491231002")
    'X'
    """
    return "10X98765432"[sum(weight * int(digit) for weight, digit in zip(ID_WEIGHTS, digits, strict=True)) % 11]


def spans(text: str, kinds: frozenset[PrivateKind], label: str = "") -> list[Span]:
    """Personal data of these kinds, in the order of the text, without overlaps: of two, the one that begins first, then
    the longer; names give way to other kinds. A label is what the text stands beside, as in a form.

    >>> spans("Write to ann@mail.com or call +44 20 7946 0958.", frozenset({"email", "phone"}))
    [Span(kind='email', start=9, stop=21), Span(kind='phone', start=30, stop=46)]
    """
    narrow = _narrow(text)
    others = _apart(_candidates(narrow, kinds))
    if "names" not in kinds:
        return others
    places = people_names(f"{label}: {narrow}" if label else narrow)
    shift = len(label) + 2 if label else 0
    names = _apart(Span("names", start - shift, stop - shift) for start, stop in places if start >= shift)
    return sorted([*others, *_beside(names, others, text)], key=lambda span: span.start)


def _apart(candidates: Iterable[Span]) -> list[Span]:
    """Those of the spans that do not overlap one before them."""
    result: list[Span] = []
    for span in sorted(candidates, key=lambda span: (span.start, -span.stop)):
        if not result or span.start >= result[-1].stop:
            result.append(span)
    return result


def _beside(names: list[Span], others: list[Span], text: str) -> Iterator[Span]:
    """The names, cut before other data that they run into; none that begins within such data."""
    for name in names:
        after = bisect.bisect_right(others, name.start, key=lambda span: span.stop)
        if after == len(others) or others[after].start >= name.stop:
            yield name
        elif kept := text[name.start : others[after].start].rstrip():
            yield Span("names", name.start, name.start + len(kept))


def _narrow(text: str) -> str:
    """The text with full-width forms as ASCII, each character in its place."""
    return text if text.isascii() else IS_WIDE.sub(lambda match: match[0].translate(NARROWED), text)


def _candidates(text: str, kinds: frozenset[PrivateKind]) -> Iterator[Span]:
    """Personal data of these kinds but names; spans may overlap where a number is of several kinds."""
    if "email" in kinds and "@" in text:
        yield from (Span("email", *m.span()) for m in EMAIL.finditer(text) if not NO_PERSON.search(m[0]))
    if "passport" in kinds:
        yield from (Span("passport", *match.span(1)) for match in PASSPORT.finditer(text))
    if "address" in kinds:
        yield from (Span("address", *place) for place in addresses(text))
    if "ip" in kinds and ":" in text:
        yield from (Span("ip", *match.span()) for match in IPV6.finditer(text) if _is_public(match[0]))
    if kinds & {"ip", "card", "id_number", "phone"}:
        for run in DIGITS.finditer(text):
            yield from _numbers(text, max(0, run.start() - 2), min(len(text), run.end() + 2), kinds)


def _numbers(text: str, start: int, stop: int, kinds: frozenset[PrivateKind]) -> Iterator[Span]:
    """Numbers of these kinds in a run of digits."""
    if "id_number" in kinds:
        for match in CHINESE_ID.finditer(text, start, stop):
            if id_check(match[0][:17]) == match[0][17].upper():
                yield Span("id_number", *match.span())
        yield from (Span("id_number", *match.span()) for match in SOCIAL_SECURITY.finditer(text, start, stop))
    if "card" in kinds:
        for match in CARD.finditer(text, start, stop):
            if luhn(_digits(match[0])) and not _follows(OTHER_NUMBER, text, match.start()):
                yield Span("card", *match.span())
    if "ip" in kinds:
        for match in IPV4.finditer(text, start, stop):
            large = max(map(int, match[0].split("."))) >= MIN_LARGEST_BYTE
            if large and _is_public(match[0]) and not _follows(VERSION, text, match.start()):
                yield Span("ip", *match.span())
    if "phone" in kinds:
        for match in PHONE.finditer(text, start, stop):
            is_length = MIN_PHONE_DIGITS <= len(_digits(match[0])) <= MAX_PHONE_DIGITS
            may_be_barcode = len(match[0]) == BARE_BARCODE_DIGITS and match[0].isdigit()
            is_phone = is_length and (not may_be_barcode or _follows(PHONE_WORD, text, match.start()))
            if is_phone and not _follows(OTHER_NUMBER, text, match.start()):
                yield Span("phone", *match.span())


def _follows(pattern: re.Pattern[str], text: str, position: int) -> bool:
    return pattern.search(text, max(0, position - 24), position) is not None


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


class Privacy:
    """What happens to personal data in the texts of a corpus. Attribute `is_on`: whether anything does."""

    def __init__(self, options: PrivacyOptions, seed: int):
        self.actions: PrivacyOptions = {kind: action for kind, action in options.items() if action != "keep"}
        self.kinds: frozenset[PrivateKind] = frozenset(self.actions)
        self.is_on = bool(self.actions)
        self.seed = seed

    def replace(self, text: str, label: str = "") -> tuple[str, Counter[PrivateKind]]:
        """Returns the text without personal data, and how much there was of each kind. The label is the name of the
        column that a value is of.

        What drops a document is masked: it is set aside, and its first characters are in a file."""
        counts: Counter[PrivateKind] = Counter()
        if not self.is_on:
            return text, counts
        pieces: list[str] = []
        position = 0
        for kind, start, stop in spans(text, self.kinds, label):
            value = text[start:stop]
            replacement = surrogate(kind, value, self.seed) if self.actions[kind] == "surrogate" else MASKS[kind]
            pieces += [text[position:start], replacement]
            position = stop
            counts[kind] += 1
        return "".join([*pieces, text[position:]]) if pieces else text, counts

    def replace_escaped(self, text: str) -> str:
        r"""Returns a text with escapes, such as JSON's, without personal data.

        >>> Privacy({"phone": "mask"}, seed=7).replace_escaped(r'{"a": "Tel.\n13812345678"}')
        '{"a": "Tel.\\n[phone]"}'
        """
        return "".join(self.replace(part)[0] for part in ESCAPE.split(text))

    def disguise(self, name: str) -> str:
        """The name with surrogates for its personal data, whatever the action: different names stay different.

        A name of a person gives a key instead, for surrogates of names are few."""
        if "names" in self.kinds and any(spans(name, NAMES, label) for label in GROUP_LABELS):
            return f"group-{_key('group', name, self.seed):032x}"[:22]
        surrogates: PrivacyOptions = dict.fromkeys(self.kinds - NAMES, "surrogate")
        return Privacy(surrogates, self.seed).replace(name)[0]

    def drops(self, counts: Mapping[PrivateKind, int]) -> bool:
        """Whether a document with this personal data is dropped."""
        return any(number and self.actions.get(kind) == "drop" for kind, number in counts.items())


def surrogate(kind: PrivateKind, value: str, seed: int) -> str:
    """Another value of the kind in the same spelling, the same for equal values however they are spelled.

    >>> surrogate("phone", "138 1234 5678", 7), surrogate("phone", "13812345678", 7)
    ('106 7728 1593', '10677281593')
    """
    value = _narrow(value)
    if kind == "email":
        return f"user-{_key(kind, value.lower(), seed):032x}"[:17] + "@example.com"
    if kind == "address":
        return f"Address-{_key(kind, value, seed):032x}"[:16]
    if kind == "names":
        return name_surrogate(value, lambda part: _key(kind, part, seed))
    if kind == "ip":
        number = _key(kind, ipaddress.ip_address(value).exploded, seed)
        if ":" in value:  # documentation: 2001:db8::/32 (RFC 3849)
            return str(ipaddress.IPv6Address((0x20010DB8 << 96) | number >> 32))
        return str(ipaddress.IPv4Address(0xF0000000 | number >> 100))  # reserved: 240.0.0.0/4 (RFC 1112)
    if kind == "passport":  # no country's begin with X and random digits; of digits alone, one is always somebody's
        digits = _digits(value)
        return "X" * max(1, len(value) - len(digits)) + _random_digits(kind, value.upper(), seed, len(digits))
    return _number_surrogate(kind, value, seed)


def without_cut_value(text: str) -> str:
    """A text that was cut at some length, without the piece at its end that may be the beginning of a value.

    >>> without_cut_value("write to ann@mai"), without_cut_value("电话：138 1234 5"), without_cut_value("邮箱ann@ma")
    ('write to', '电话：', '邮箱')
    """
    return text.rstrip(WITHOUT_BLANKS).rstrip(BETWEEN_DIGITS)


def _number_surrogate(kind: PrivateKind, value: str, seed: int) -> str:
    """A telephone, card or identity number: digits of an unassigned range, in the places of the value's digits."""
    digits = _digits(value)
    if kind == "id_number" and len(value) == 18:
        random = _random_digits(kind, value.upper(), seed, 13)
        year, month, day = 1940 + int(random[4:6]) % 60, 1 + int(random[6:8]) % 12, 1 + int(random[8:10]) % 28
        first = f"99{random[:4]}{year}{month:02}{day:02}{random[10:13]}"
        return first + id_check(first)
    if kind == "id_number":  # no social security number begins with 9
        return _spelled(value, "9" + _random_digits(kind, digits, seed, 8))
    if kind == "card":  # no card's number begins with 99
        first = "99" + _random_digits(kind, digits, seed, len(digits) - 3)
        return _spelled(value, first + next(check for check in "0123456789" if luhn(first + check)))
    for national, prefix in ((CHINESE_MOBILE, "10"), (NORTH_AMERICAN, "555")):
        if match := national.fullmatch(value):
            digits = _digits(match[1])
            return _spelled(value, prefix + _random_digits(kind, digits, seed, len(digits) - len(prefix)))
    prefix = "999" if value.startswith("+") else "000"
    return _spelled(value, prefix + _random_digits(kind, digits, seed, len(digits) - 3))


def _spelled(value: str, digits: str) -> str:
    """The value with these digits instead of its last ones."""
    reverse = iter(reversed(digits))
    return "".join(next(reverse, sign) if sign.isdigit() else sign for sign in reversed(value))[::-1]


def _key(kind: str, value: str, seed: int) -> int:
    """128 bits, a keyed hash of the value."""
    digest = hashlib.blake2b(value.encode(), key=seed.to_bytes(8, "little"), person=kind.encode(), digest_size=16)
    return int.from_bytes(digest.digest(), "big")


def _random_digits(kind: str, value: str, seed: int, length: int) -> str:
    return f"{_key(kind, value, seed):039}"[-length:]
