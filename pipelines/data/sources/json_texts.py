"""Texts of many JSON lines at once, by Arrow's parser, which makes no object for a line.

    whole lines ──are they as expected?──► column of texts        otherwise None: they are read one by one

What is expected is narrow, so that what the two ways read is the same: an object on each line, each with one text under
the key, in valid UTF-8. Everything else, above all what is wrong, is found by reading line by line.
"""

from __future__ import annotations

import re
import sys
from typing import Any

SHORT_INFINITY = re.compile(rb"Inf\s*[],}]")  # a number to Arrow, as is -NaN; to json neither is
FEW_BYTES = 32 << 10
MAX_DIGITS = sys.int_info.default_max_str_digits  # of an integer: json refuses more, Arrow does not
DIGITS = b"0123456789"
MAX_OPEN = 500  # brackets in a line: json refuses values that are nested a thousand deep, Arrow does not


class Reader:
    """Reads the texts under a key, which is of ASCII letters and digits."""

    def __init__(self, key: str) -> None:
        import pyarrow as pa  # not for reading a recipe
        from pyarrow import json

        self.key = key.encode()
        self.few_bytes = 0  # before all lines that were read ahead are tried together again
        # A key with escapes is the same key, and would not be counted.
        self.escaped = re.compile(
            rb"\\u00(?:%s)" % b"|".join(b"%02x" % code for code in sorted(set(self.key))), re.IGNORECASE
        )
        schema = pa.schema([(key, pa.string())])
        self.options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")

    def begin(self, ahead: bytes) -> tuple[Any, int]:
        """(texts of the lines with which these bytes begin, size of the lines), as of `read`; the texts are None where
        so many bytes are to be read line by line. No line is whole: (None, 0).

        After lines that are not as expected, those around them are read few at a time."""
        if self.few_bytes <= 0:
            size = ahead.rfind(b"\n") + 1
            if size and (texts := self.read(ahead[:size])) is not None:
                return texts, size
            self.few_bytes = size
        size = ahead.rfind(b"\n", 0, FEW_BYTES) + 1
        self.few_bytes -= max(size, FEW_BYTES // 8)  # a line that is longer than that is read by itself
        return self.read(ahead[:size]) if size else None, size

    def read(self, lines: bytes) -> Any:
        """The texts of whole lines as a pyarrow.StringArray, one for each line; None if one is not as expected."""
        import pyarrow as pa
        from pyarrow import json

        from pipelines.data.sources import json_shape  # compiled

        num_lines, doubts = json_shape.look(lines, self.key, MAX_OPEN)
        if (
            doubts & json_shape.UNEXPECTED
            or (doubts & json_shape.HAS_ESCAPE and self.escaped.search(lines))
            or (doubts & json_shape.HAS_INFINITY and SHORT_INFINITY.search(lines))
            or not _is_utf8(lines)
            or _has_long_number(lines)
        ):
            return None
        options = json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
        try:
            table = json.read_json(pa.BufferReader(lines), read_options=options, parse_options=self.options)
        except pa.ArrowInvalid:
            return None
        texts = table.column(0).combine_chunks()
        return texts if len(texts) == num_lines and not texts.null_count else None


def _is_utf8(lines: bytes) -> bool:
    if lines.isascii():
        return True
    try:
        lines.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_long_number(lines: bytes) -> bool:
    """Whether more than MAX_DIGITS digits follow each other: one of them stands at one of the places looked at."""
    for place in range(MAX_DIGITS, len(lines), MAX_DIGITS + 1):
        if lines[place] in DIGITS:
            before, after = lines[place - MAX_DIGITS : place], lines[place : place + MAX_DIGITS + 1]
            others = len(before.rstrip(DIGITS)) + len(after.lstrip(DIGITS))
            if len(before) + len(after) - others > MAX_DIGITS:
                return True
    return False
