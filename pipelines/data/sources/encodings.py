"""The encoding of a file's text, found out from a sample of its bytes.

    sample ──byte order mark, NULs──► UTF-16 ──valid?──► UTF-8 ──most lines are not──► a detector, checked ──► name

UTF-8 is what is expected: a file in which some lines are not UTF-8 stays UTF-8, so that those lines are bad rows. Other
encodings need evidence. Readers see UTF-8 only: `streams` transcodes. No file is opened here.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from typing import Any

BOM = b"\xef\xbb\xbf"
BOMS = ((BOM, "utf-8"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # fmt: skip
# Codecs that read what carries the name in practice: HKSCS has what Windows adds to Big5, cp1252 that for Latin-1.
CODECS = {"big5": "big5hkscs", "latin-1": "cp1252"}
SAME = {"gb2312": "gb18030", "gbk": "gb18030", "big5hkscs": "big5", "cp950": "big5", "cp1252": "latin-1",
        "iso8859_1": "latin-1", "utf_16": "utf-16", "utf_16_le": "utf-16-le",
        "utf_16_be": "utf-16-be", "utf_8": "utf-8", "utf_8_sig": "utf-8", "ascii": "utf-8"}  # fmt: skip
STATEFUL = ("utf-7", "iso2022", "hz", "raw-unicode-escape", "idna", "undefined")
MIN_HIGH_BYTES = 3  # of evidence for an encoding other than UTF-8
MIN_DETECTOR_BYTES = 40  # bytes beyond ASCII from which on the detector is right about any encoding
MIN_BAD_LINES = 20  # lines that are not UTF-8, with no line that has other than ASCII and is: not an accident
MIN_EAST_ASIAN_BYTES = 12  # beyond ASCII, all of frequent characters: six of them are no accident
SMALL_BYTES = 64 << 10  # of a file that is a sample of itself: no line of it is unseen
MAX_BAD_FRACTION = 0.02  # of characters that are broken in a text of another encoding
MAX_CONTROL_FRACTION = 0.02  # of control characters in text; of random bytes it is 0.1
MIN_MIXED = 0.1  # fraction of the bytes beyond ASCII that stand in lines which are surely UTF-8
MIN_SURE_BYTES = 6  # beyond ASCII in a line that is surely UTF-8: one GBK character in six passes for that
MIN_PLAUSIBLE = 0.9  # fraction of a text's characters that are common in some script; of random UTF-16 it is 0.5
MIN_COVERED = 0.97  # fraction of a text's letters beyond ASCII that one language has
MIN_FREQUENT = 0.9  # fraction of Chinese characters that are among the few thousand of everyday texts
FEW_CONTROLS = 3  # control characters that stand even in a short text
MAX_CONTROLS_IN_UTF8 = 0.25  # of what may be UTF-8 with stray control characters; NULs are half of English in UTF-16

NOT_UTF_8 = re.compile("[\udc80-\udcff]")  # bytes of a file's name, as Python has them
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
PLAUSIBLE = re.compile("[\t\n\r -~\u00a0-\u024f\u0370-\u052f\u05d0-\u06ff\u0900-\u0dff\u0e00-\u0e5b\u2010-\u2027"
                       "\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uff60]")  # fmt: skip
SIGNATURES = {  # of files that are not text, whatever their name says
    b"%PDF-": "a PDF", b"PK\x03\x04": "a zip archive (DOCX, XLSX, EPUB)", b"\x1f\x8b": "gzip data", b"PAR1": "Parquet",
    b"\x28\xb5\x2f\xfd": "zstd data", b"BZh": "bzip2 data", b"\xfd7zXZ\x00": "xz data", b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image", b"\x7fELF": "a program", b"SQLite format 3": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Office file (DOC, XLS)",
}  # fmt: skip
TAR, TAR_PLACE = b"ustar", 257  # after the first member's name
# Letters beyond ASCII of languages that single-byte encodings write; detectors confuse these on short texts.
LETTERS = (
    ("latin-1", "àâæçéèêëîïôùûüÿœ"), ("latin-1", "äöüß"), ("latin-1", "áéíñóúü"), ("latin-1", "àáâãçéêíóôõúü"),
    ("latin-1", "àèéìîòóù"), ("latin-1", "åäöæøé"), ("latin-1", "áðéíóúýþæö"), ("latin-1", "àèéïíòóúüç"),
    ("cp1254", "çğıöşüâîûi̇"), ("cp1250", "ąćęłńóśźż"), ("iso8859_2", "ąćęłńóśźż"), ("cp1250", "áčďéěíňóřšťúůýž"),
    ("cp1250", "áéíóöőúüű"), ("iso8859_2", "áčďéěíňóřšťúůýž"), ("iso8859_2", "áéíóöőúüű"),
)  # fmt: skip
# East Asia: encoding, a smaller one that orders characters by use, in it the first bytes of signs and of frequent
# characters, and (first or second byte) what no other of these encodings has there.
EAST_ASIAN = (
    ("gb18030", "gb2312", range(0xA1, 0xA4), (range(0xB0, 0xD8),), (0, range(0xC9, 0xD8))),
    ("big5", "big5", range(0xA1, 0xA4), (range(0xA4, 0xC7),), (1, range(0x40, 0x7F))),
    ("cp949", "euc_kr", range(0xA1, 0xA4), (range(0xB0, 0xC9),), (0, range(0xB0, 0xC9))),
    ("cp932", "shift_jis", range(0x81, 0x82), (range(0x82, 0x84), range(0x88, 0x98)), (0, range(0x82, 0x83))),
    ("euc_jp", "euc_jp", range(0xA1, 0xA4), (range(0xA4, 0xA6), range(0xB0, 0xD0)), (0, range(0xA4, 0xA5))),
    ("gb18030", "big5", range(0xA1, 0xA4), (range(0xA4, 0xC7),), (0, range(0xA4, 0xC7))),
)
NEUTRAL = "\u00a0¡¿«»“”„‘’–—…•£€§©®°·ªº´"  # signs that any of these texts may have


def mark(error: UnicodeError) -> tuple[str, int]:
    """An error handler for decoding: a byte that has no character becomes half of a surrogate pair, which no text has.

    So the row that it stands in is found to be bad, and the rows around it are read."""
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("mark", mark)


def codec(encoding: str) -> str:
    """Python's codec that reads an encoding."""
    return CODECS.get(encoding, encoding)


def known(encoding: str) -> bool:
    """Whether there is a codec of this name that decodes bytes to text."""
    try:
        return codecs.lookup(encoding)._is_text_encoding  # pyright: ignore[reportAttributeAccessIssue]
    except (LookupError, ValueError):
        return False


def lines_stand_alone(encoding: str) -> bool:
    """Whether a line feed is a byte that stands for nothing else, and no line changes how those after it are read.

    >>> [lines_stand_alone(encoding) for encoding in ("utf-8", "gb18030", "utf-16", "iso2022_jp", "cp037")]
    [True, True, False, False, False]
    """
    name = codecs.lookup(codec(encoding)).name
    return not name.startswith(STATEFUL) and "\n\n".encode(name).endswith(b"\n\n")


def usual_name(encoding: str) -> str:
    """The name by which an encoding is told; the same for codecs of which one contains the other.

    >>> usual_name("GB2312"), usual_name("iso-8859-1"), usual_name("Shift_JIS")
    ('gb18030', 'latin-1', 'shift_jis')
    """
    name = codecs.lookup(encoding).name.replace("-", "_")
    return SAME.get(name, name)


def encodable(value: Any) -> bool:
    """Whether all text in a value can be encoded in UTF-8: JSON can spell lone surrogates, which are not characters."""
    if isinstance(value, str):
        return value.isascii() or _encodes(value)
    if isinstance(value, dict):
        return all(encodable(key) and encodable(inner) for key, inner in value.items())
    return not isinstance(value, list) or all(map(encodable, value))


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable_name(name: str) -> str:
    r"""A file's name as text that UTF-8 can write: bytes that are not UTF-8, as in names of older systems, as in URLs,
    since not every store of objects keeps a backslash.

    >>> readable_name("caf\udce9.txt"), readable_name("café.txt")
    ('caf%E9.txt', 'café.txt')
    """
    return NOT_UTF_8.sub(lambda match: f"%{ord(match.group()) - 0xDC00:02X}", name)


def not_in(encoding: str, where: str) -> str:
    """The problem with a row that has bytes which are no text in the encoding of its file."""
    name = "UTF-8" if encoding == "utf-8" else encoding
    return f"not {name} ({where}); expected {name} text: convert the row, or name the file's encoding in the source"


def detect(sample: bytes) -> str | None:
    """Detects the encoding of a text from a sample of it. Returns None for data that is not text.

    The sample begins where the file begins; it may end in the middle of a character.

    >>> detect("第一章　渡口的早晨\\n天还没有亮。".encode("gb18030"))
    'gb18030'
    """
    for bom, encoding in BOMS:
        if sample.startswith(bom):
            return encoding
    if signature(sample):
        return None
    num_controls = len(CONTROL.findall(sample))
    controls = num_controls / len(sample) if num_controls > FEW_CONTROLS else 0.0
    if controls > MAX_CONTROLS_IN_UTF8 or (controls and not is_utf8(sample, cut=True)):
        if encoding := _utf16(sample):
            return encoding
    if controls > MAX_CONTROL_FRACTION:
        return None
    bad, good, num_lines, good_share = _count_lines(sample)
    if good_share >= MIN_MIXED:
        return "utf-8"  # lines of another encoding among them are bad rows: read in that, the others would be garbled
    if bad > good and (2 * bad >= num_lines or (not good and bad >= MIN_BAD_LINES)):
        return _other_encoding(sample) or "utf-8"
    if bad and not good and len(sample) < SMALL_BYTES and _num_high(sample) >= MIN_EAST_ASIAN_BYTES:
        return _east_asian(sample) or "utf-8"
    return "utf-8"


def signature(sample: bytes) -> str:
    """What a file holds that is not text, by its first bytes; empty if they are not known."""
    if sample[TAR_PLACE : TAR_PLACE + len(TAR)] == TAR and b"\0" in sample[:TAR_PLACE]:  # not a text that has the word
        return "a tar archive"
    return next((name for magic, name in SIGNATURES.items() if sample.startswith(magic)), "")


def is_utf8(data: bytes, *, cut: bool = False) -> bool:
    """Whether data are UTF-8. cut: they may end in the middle of a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
    except UnicodeDecodeError:
        return False
    return True


def _utf16(sample: bytes) -> str | None:
    """UTF-16 without a byte order mark, if nearly all of its characters are then common ones."""
    even = sample[: len(sample) // 2 * 2]
    plausible = {}
    for encoding in ("utf-16-le", "utf-16-be"):
        text = even.decode(encoding, "replace")
        plausible[encoding] = len(PLAUSIBLE.findall(text)) / max(1, len(text))
    best = max(plausible, key=lambda encoding: plausible[encoding])
    return best if plausible[best] >= MIN_PLAUSIBLE else None


def _count_lines(sample: bytes) -> tuple[int, int, int, float]:
    """(lines that are not UTF-8, lines that are and have other than ASCII, all lines that are not blank, the fraction
    of the bytes beyond ASCII in lines that are surely UTF-8)."""
    lines = [line for line in sample.split(b"\n") if line.strip()]
    bad = good = good_bytes = 0
    for number, line in enumerate(lines, 1):
        if not line.isascii():
            is_good = is_utf8(line, cut=number == len(lines))
            bad, good = bad + (not is_good), good + is_good
            high = _num_high(line)
            good_bytes += high if is_good and high >= MIN_SURE_BYTES else 0
    return bad, good, len(lines), good_bytes / max(1, _num_high(sample))


def _other_encoding(sample: bytes) -> str | None:
    """The encoding of text that is not UTF-8, if there is evidence enough."""
    num_high = _num_high(sample)
    if num_high < MIN_HIGH_BYTES:
        return None
    if encoding := _single_byte(sample) or _east_asian(sample):
        return encoding
    if num_high < MIN_DETECTOR_BYTES:
        return None
    from charset_normalizer import from_bytes

    others = {name for name, *_ in EAST_ASIAN} | {"big5hkscs", "cp950", "euc_kr", "johab", "shift_jis", "hz", "gbk",
              "gb2312", "shift_jis_2004", "shift_jisx0213", "euc_jis_2004", "euc_jisx0213"}  # fmt: skip
    best = from_bytes(sample, cp_exclusion=sorted(others)).best()
    return None if best is None else usual_name(best.encoding)


def _num_high(sample: bytes) -> int:
    return len(sample.translate(None, delete=bytes(range(128))))


def _single_byte(sample: bytes) -> str | None:
    """The first single-byte encoding in which nearly all letters beyond ASCII are those of one language.

    Only where such letters are few and stand between ASCII ones, as in languages of the Latin script."""
    letters = sum(map(sample.count, b"etaoinrslETAOINRSL"))  # the most frequent third of ASCII letters, or more
    counts = Counter(byte for byte in sample if byte >= 0x80)
    if counts.total() > letters:
        return None
    for encoding, alphabet in LETTERS:
        characters = {byte: bytes([byte]).decode(codec(encoding), "replace").lower() for byte in counts}
        counted = {byte: number for byte, number in counts.items() if characters[byte] not in NEUTRAL}
        covered = sum(number for byte, number in counted.items() if characters[byte] in alphabet)
        if covered >= MIN_COVERED * sum(counted.values()):
            return encoding
    return None


def _east_asian(sample: bytes) -> str | None:
    """The first East Asian encoding in which nearly all characters are frequent ones."""
    for encoding, table, signs, frequent, (position, evidence) in EAST_ASIAN:
        text = codecs.getincrementaldecoder(encoding)("mark").decode(sample)
        others = [character for character in text if not character.isascii()]
        codes = [character.encode(table, "replace") for character in others]  # "?" for a rare one
        characters = [code for code in codes if code[0] not in signs]
        num_frequent = sum(any(code[0] in leads for leads in frequent) for code in characters)
        num_bad = sum("\ud800" <= character <= "\udfff" for character in others)
        if num_frequent >= MIN_FREQUENT * len(characters) and num_bad <= MAX_BAD_FRACTION * len(others):
            if any(len(code) > position and code[position] in evidence for code in characters):
                return encoding
    return None
