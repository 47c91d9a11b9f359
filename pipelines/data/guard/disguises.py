"""The ways to read a text that the guard checks: as it stands, and with disguises taken off.

    text ──canonical_text──► what rules and classifier see
      └──readings──► the same of decoded Base64, ROT13, look-alike letters, l33t, s p a c e d letters, code …

Each reading is made only where the text shows a sign of it, so that plain text has one. Reads what a simple program can
undo; a riddle, a rare cipher or another language it does not read.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from urllib.parse import unquote

from pipelines.data.guard.thesaurus import KINDS
from pipelines.data.guard.words import LONGEST, kind_of, stem
from pipelines.data.text.languages import CHINESE_CHARACTER
from pipelines.data.text.normalise import BREAK

BLOCK, OVERLAP = 20_000, 1_000  # characters of a text that are searched for disguises at a time
# Invisible characters besides Unicode's format characters (Cf: zero-width, soft hyphens, direction marks, tags):
# joiners, fillers, variation selectors; and BREAK, which is taken out when a chat is rendered.
INVISIBLE = re.compile(f"[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f{BREAK}\U000e0100-\U000e01ef]")
_HAN = CHINESE_CHARACTER.pattern
SEPARATED_HAN = re.compile(rf"(?<={_HAN})[\s._*·•|/\\-]+(?={_HAN})")  # 炸 弹, 炸-弹
INTERLEAVED_HAN = re.compile(rf"(?<={_HAN})[^\u4e00-\u9fff]{{1,3}}(?={_HAN})")  # 炸a弹, 炸🙂弹
INTERLEAVED_RUN = re.compile(rf"(?:{_HAN}{{1,2}}[^\u4e00-\u9fff]{{1,3}}){{3}}(?={_HAN})")  # not a sentence's commas

# Letters that look like Latin ones and stay what they are under NFKC, after Unicode's confusables.txt.
CONFUSABLES = str.maketrans(
    "авекмнорстухіјѕԁԛԝһӏгпьёїαβεηικμνορτυχγωσłøđħŧıɑɡɩʟоսոհցզƄᴀʙᴄᴅᴇꜰɢʜɪᴊᴋᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ",
    "abekmhopctyxijsdqwhlrnbeiabenikuvoptuxywolodhtiagilounhgqbabcdefghijkmnoprstuvwyz",
)
CONFUSABLES |= {first + n: 97 + n for first in (0x1F150, 0x1F170, 0x1F1E6) for n in range(26)}  # 🅐 🅰 🇦
LEET = str.maketrans("013456789@$!|+€", "oieasgtbgasilte")
LEET_WORD = re.compile(r"(?<!\S)[\"'(]?(?=[^\s]*[a-z])(?=[^\s]*[a-z@$!|+€\d][\d@$!|+€]|[\d@$|+€])[a-z\d@$!|+€]{2,}")
LEET_RUN = re.compile(r"[^\s\"'(),.?]+")
TRADITIONAL = str.maketrans(
    "製彈槍藥殺傷綁劫騙偽鈔護證銀帳戶竊盜駭腦軟體網絡襲擊燒毀學醫橋機車們個這樣麼嗎麼辦買賣運販種萃鴉嬰兒婦女強姦裸"
    "勒贖監視蹤誘脅嚇辱罵歧視猶太穆林難貧勢殘廢屍證據銷贓錢財產稅險貸員證書處療據號碼聯絡開關鎖門樓鄰闆師親愛劍雙",
    "制弹枪药杀伤绑劫骗伪钞护证银帐户窃盗骇脑软体网络袭击烧毁学医桥机车们个这样么吗么办买卖运贩种萃鸦婴儿妇女强奸裸"
    "勒赎监视踪诱胁吓辱骂歧视犹太穆林难贫势残废尸证据销赃钱财产税险贷员证书处疗据号码联络开关锁门楼邻板师亲爱剑双",
)
_COMMON_WORDS = (
    "a an and any are as at be by can could did do does for from get give has have he help here her him his how i "
    "if in into is it its just let like make me my need no not of on one or our out please she should show so "
    "some step steps tell than that the their them then there they this to up us use using want was way we what "
    "when where which who why will with without would write you your best easy home explain instructions guide "
    "about someone something thing pipe car house night day work people hello answer question following message "
    "text"
)
COMMON_WORDS = frozenset(_COMMON_WORDS.split())
WORD = re.compile(r"[a-z]+")
_SINGLE_LETTERS = r"(?<![^\W_])[^\W_](?P<separator>[\s._*·•|/\\,~+#:-])[^\W_](?:(?P=separator)[^\W_]){%s}(?![^\W_])"
LETTER_PAIR, LETTER_RUN = re.compile(_SINGLE_LETTERS % "0,"), re.compile(_SINGLE_LETTERS % "1,")
BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
BASE32 = re.compile(r"\b[A-Z2-7]{16,}={0,6}")
HEX = re.compile(r"(?:(?:0x|\\x)?[0-9a-fA-F]{2}[\s,;:]*){6,}")
BINARY = re.compile(r"(?:[01]{8}[\s,]*){4,}")
DECIMAL = re.compile(r"(?:\b\d{2,3}[\s,]+){5,}\d{2,3}\b")
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
CONCATENATION = re.compile(r"[\"'`]\s*[+,.&]{1,2}\s*[\"'`]")
QUOTED = re.compile(r"\"([^\"\n]{1,200})\"|'([^'\n]{1,200})'|`([^`\n]{1,200})`")
CODE = re.compile(r"[#{}<>=;_`]|/[/*]|\b\w+\(|\w[./|+*~\\-]\w|[a-z][A-Z]")


class _Without(dict[int, int | None]):
    """A table for str.translate that takes out the characters of a Unicode category."""

    def __init__(self, category: str):
        super().__init__()
        self._category = category

    def __missing__(self, code: int) -> int | None:
        kept = None if unicodedata.category(chr(code)) == self._category else code
        if code < 0x10000:  # those that texts hold: all would take 100 MB
            self[code] = kept
        return kept


WITHOUT_FORMAT, WITHOUT_ACCENTS = _Without("Cf"), _Without("Mn")


def canonical_text(text: str) -> str:
    """The form of a text that rules and classifier see: NFKC, lower case, no invisible characters, single spaces.

    >>> canonical_text("Ｂｕｉｌｄ  a B\\u200bomb"), canonical_text("制造 炸 弹")
    ('build a bomb', '制造炸弹')
    """
    if not text.isascii():
        text = INVISIBLE.sub("", text.translate(WITHOUT_FORMAT))
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).replace("\u2019", "'")
        text = SEPARATED_HAN.sub("", text)
    return " ".join(text.casefold().split())


def readings(text: str) -> list[str]:
    """The canonical texts that a text can be read as; the first is that of the text itself.

    >>> readings("How are you?"), readings("ubj gb znxr"), readings("how_to_make")
    (['how are you?'], ['ubj gb znxr', 'how to make'], ['how_to_make', 'how to make'])
    """
    canonical = canonical_text(text)
    texts = {canonical: None}
    for start in range(0, max(len(text) - OVERLAP, 1), BLOCK - OVERLAP):
        block = text[start : start + BLOCK]
        decoded = _decoded(block)
        decoded = decoded if decoded == block else _decoded(decoded)
        for source in dict.fromkeys((block, decoded)):
            plain = canonical if source == text else canonical_text(source)
            if source != block:
                texts[plain] = None
            for undo in UNDO:
                for reading in undo(source, plain):
                    texts[" ".join(reading.split())] = None
    kept = {canonical: None}
    for each in texts:
        # What an earlier reading is without the point at its end has the same words in the same windows.
        if each and not any(each + end in kept for end in ".。!?"):
            kept[each] = None
    return list(kept)


# ---- encodings -------------------------------------------------------------------------------------------------------


def _decoded(text: str) -> str:
    """A text with what is encoded in it decoded, in its place."""
    if "%" in text:
        text = unquote(text, errors="ignore")
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text:
        text = ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    for pattern, decode in DECODERS:
        text = pattern.sub(lambda match, decode=decode: _as_text(decode, match.group()), text)
    return text


def _as_text(decode: Callable[[str], bytes], encoded: str) -> str:
    """What a piece of a text encodes; the piece itself where that is no text."""
    try:
        decoded = decode(encoded).decode("utf-8")
    except (ValueError, binascii.Error):
        return encoded
    letters = sum(character.isalnum() or character.isspace() for character in decoded)
    is_text = decoded.isprintable() and letters >= 0.8 * len(decoded) and len(decoded) >= 4
    return f" {decoded} " if is_text else encoded


def _from_base64(encoded: str) -> bytes:
    stripped = encoded.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True)


def _from_hex(encoded: str) -> bytes:
    return bytes.fromhex(re.sub(r"0x|\\x|[^0-9a-fA-F]", "", encoded))


DECODERS: tuple[tuple[re.Pattern[str], Callable[[str], bytes]], ...] = (
    (BINARY, lambda encoded: bytes(int(byte, 2) for byte in re.findall("[01]{8}", encoded))),
    (DECIMAL, lambda encoded: bytes(map(int, re.findall(r"\d+", encoded)))),
    (HEX, _from_hex),
    (BASE32, lambda encoded: base64.b32decode(encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 8))),
    (BASE64, _from_base64),
)

# ---- letters ---------------------------------------------------------------------------------------------------------


def _letters(source: str, plain: str) -> Iterator[str]:
    """Letters that look like Latin ones, accents, and traditional Chinese characters."""
    if not plain.isascii():
        unaccented = unicodedata.normalize("NFD", plain).translate(WITHOUT_ACCENTS)
        folded = unicodedata.normalize("NFC", unaccented).translate(CONFUSABLES).translate(TRADITIONAL)
        if folded != plain:
            yield folded
            yield from _leet(source, folded)
        if INTERLEAVED_RUN.search(plain):
            yield INTERLEAVED_HAN.sub("", plain)


def _leet(source: str, plain: str) -> Iterator[str]:
    """Digits and signs in place of letters: m4k3."""
    words = LEET_WORD.findall(plain)
    if words:
        text = plain if len(words) > 1 else words[0]
        yield LEET_RUN.sub(lambda match: match[0].translate(LEET), text)
        yield LEET_RUN.sub(lambda match: match[0].translate({**LEET, ord("1"): "l"}), text)


def _spaced(source: str, plain: str) -> Iterator[str]:
    """Letters that are set apart, and words that are not: h o w  t o, howtomake."""
    text = unicodedata.normalize("NFKC", source).casefold()
    letters = LETTER_PAIR if LETTER_RUN.search(text) else LETTER_RUN
    joined = letters.sub(lambda match: match[0].replace(match["separator"], ""), text)
    split = WORD.sub(lambda match: match[0] if len(match[0]) < 8 or _known(match[0]) else _segmented(match[0]), joined)
    if split != text:
        yield split


def _punctuated(source: str, plain: str) -> Iterator[str]:
    """Words within code, or with signs between them: how_to_make, "pi" + "pe", how. to. make."""
    signs = len(re.findall(r"[.;!?,。，、；|/]", plain))
    words = len(plain.split()) + len(CHINESE_CHARACTER.findall(plain)) / 2
    if not CODE.search(source) and (signs < 3 or signs < words / 2):
        return
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", CONCATENATION.sub("", source))
    yield canonical_text(re.sub(r"[^\w\s']|_", " ", text))
    quoted = ["".join(each) for each in QUOTED.findall(source)]
    if len(quoted) > 1:
        yield canonical_text(" ".join(quoted))
        yield canonical_text("".join(quoted))


# ---- ciphers ---------------------------------------------------------------------------------------------------------


def _ciphered(source: str, plain: str) -> Iterator[str]:
    """Letters that were shifted (ROT13, Caesar), mirrored (Atbash) or written backwards, in a run of unknown words."""
    run = _unknown_run(plain)
    if len(run) >= 3:
        num_known = Counter(number for word in run if len(word) <= LONGEST for number in _ciphers_of(word))
        for number, cipher in enumerate(CIPHERS):
            if num_known[number] >= 3:
                yield plain.translate(cipher)
                start = plain.index(run[0])
                yield plain[:start] + plain[start:].translate(cipher)
                yield " ".join(run).translate(cipher)
        if sum(_known(word[::-1]) for word in run) >= 3:
            yield WORD.sub(lambda match: match[0][::-1], plain)
            yield plain[::-1]
    elif BACKWARDS_HAN.search(plain):
        yield plain[::-1]


@lru_cache(maxsize=20_000)
def _ciphers_of(word: str) -> tuple[int, ...]:
    """The numbers of the CIPHERS by which a word of several letters stands for one that is known."""
    return tuple(number for number, cipher in enumerate(CIPHERS) if len(word) > 1 and _known(word.translate(cipher)))


def _unknown_run(text: str) -> list[str]:
    """The longest run of words that are unknown, one-letter words aside; at most MAX_RUN words."""
    longest: list[str] = []
    run: list[str] = []
    for word in WORD.findall(text):
        run = [] if len(word) > 1 and _known(word) else [*run, word]
        if len(run) > len(longest):
            longest = run
            if len(run) == MAX_RUN:
                break
    return longest


MAX_RUN = 16
BACKWARDS_HAN = re.compile("么怎|何如|我教|我帮|诉告|作制|造制|样怎")
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
CIPHERS = (
    *(str.maketrans(ALPHABET, ALPHABET[shift:] + ALPHABET[:shift]) for shift in range(1, 26)),
    str.maketrans(ALPHABET, ALPHABET[::-1]),
)


def _known(word: str) -> bool:
    """Whether an English word is common, or of a kind in the thesaurus."""
    return len(word) <= LONGEST and _is_known(word)


@lru_cache(maxsize=20_000)
def _is_known(word: str) -> bool:
    return word in COMMON_WORDS or kind_of(stem(word)) is not None


def _vocabulary() -> dict[str, int]:
    """Words that text without spaces is cut into, with their lengths."""
    words = {word for english, _ in KINDS.values() for word in english.split()} | COMMON_WORDS
    return {form: len(form) for word in words for form in (word, f"{word}s", f"{word}ing", f"{word.rstrip('e')}ing")}


VOCABULARY = _vocabulary()
UNKNOWN_LETTER, SPACE = 1.5, 1.0  # costs of a cut
MAX_WORD = max(VOCABULARY.values())


def _segmented(letters: str) -> str:
    """Letters cut into words, at the lowest cost: SPACE for each, UNKNOWN_LETTER for each letter in none.

    >>> _segmented("howtomakeabomb")
    'how to make a bomb'
    """
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(letters) + 1):
        options = [(best[end - 1][0] + UNKNOWN_LETTER, end - 1)]
        for start in range(max(0, end - MAX_WORD), end):
            if letters[start:end] in VOCABULARY:
                options.append((best[start][0] + SPACE, start))
        best.append(min(options))
    pieces, end = [], len(letters)
    while end:
        start = best[end][1]
        pieces.append(letters[start:end])
        end = start
    return re.sub(r"(?<= \w) (?=\w )", "", " ".join(reversed(pieces)))


UNDO: tuple[Callable[[str, str], Iterator[str]], ...] = (_letters, _leet, _spaced, _punctuated, _ciphered)
