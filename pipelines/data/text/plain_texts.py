"""Normalises many texts at once: nearly all are plain, which one pass over their bytes shows.

texts (Arrow) ──bytes──► plain: as they are, without traces of a wrong decoding
                    └──► the others ──normalise.py──► normalised, traces counted
"""

from __future__ import annotations

import functools
import unicodedata

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.text.measures import buffers, decode
from pipelines.data.text.normalise import INVISIBLE, LINE_ENDS, MOJIBAKE_STARTS, OTHER_SPACES, mojibake, normalise

LINE_FEED, TAB, SPACE, IDEOGRAPHIC_SPACE = 0x0A, 0x09, 0x20, 0x3000
# Their characters may join the one before (Unicode's NFC_Quick_Check=Maybe), as marks do.
JAMO = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xD7B0, 0xD7FF))


def normalised(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Returns (normalised texts, int64: traces of a wrong decoding in each as it was), as normalise.py has them."""
    garbled = np.zeros(len(texts), np.int64)
    rows = np.flatnonzero(~are_plain(texts))
    if not len(rows):
        return texts, garbled
    others = texts.take(pa.array(rows)).to_pylist()
    garbled[rows] = [mojibake(text) for text in others]
    return replaced(texts, rows, [normalise(text) for text in others]), garbled


def replaced(texts: pa.Array, rows: np.ndarray, values: list[str]) -> pa.Array:
    """The texts with other values at ascending places."""
    mask = np.zeros(len(texts), np.bool_)
    mask[rows] = True
    return pc.call_function("replace_with_mask", [texts, pa.array(mask), pa.array(values, pa.string())])


def are_plain(texts: pa.Array) -> np.ndarray:
    """Whether each text is normalised for certain, without anything that looks like a wrong decoding. bool[texts]."""
    return _are_plain(*buffers(texts), plain_characters())


@functools.cache
def plain_characters() -> np.ndarray:
    """bool[65536]: which characters of the Basic Multilingual Plane stay as they are beside any others of them."""
    signs = "".join(map(chr, range(0x10000)))
    plain = np.array([_is_plain(sign) for sign in signs], np.bool_)
    for pattern in (LINE_ENDS, INVISIBLE, OTHER_SPACES, MOJIBAKE_STARTS):
        plain[[ord(sign) for sign in pattern.findall(signs) if len(sign) == 1]] = False
    plain[[0x0A, 0x0D]] = True, False
    for first, last in JAMO:
        plain[first : last + 1] = False
    return plain


def _is_plain(sign: str) -> bool:
    category = unicodedata.category(sign)
    return category[0] != "M" and category != "Cs" and unicodedata.is_normalized("NFC", sign)


@numba.njit(cache=True)
def _are_plain(data: np.ndarray, offsets: np.ndarray, plain: np.ndarray) -> np.ndarray:
    result = np.ones(len(offsets) - 1, np.bool_)
    for document in range(len(result)):
        position, stop = offsets[document], offsets[document + 1]
        feeds, last = 1, LINE_FEED  # as if a line feed stood before it: a text begins with none
        while position < stop:
            code, size = decode(data, position)
            position += size
            if code == LINE_FEED:
                feeds += 1
                is_plain = (
                    feeds <= 2 and position > offsets[document] + 1 and last not in (SPACE, TAB, IDEOGRAPHIC_SPACE)
                )
            else:
                feeds = 0
                is_plain = code < 0x10000 and plain[code]
            if not is_plain:
                result[document] = False
                break
            last = code
        if last in (SPACE, TAB, IDEOGRAPHIC_SPACE) or (last == LINE_FEED and offsets[document] < stop):
            result[document] = False  # blanks at the end
    return result
