"""Boilerplate: lines and paragraphs that documents of many groups have, as menus, footers and licences are.

    texts ──split──► units as hashes ──pairs (hash, group), dealt by hash──► hashes that many groups have
    units, those hashes ──cut──► texts without them

A unit is a line of LONG_LINE_WIDTH columns or more, or a paragraph of several lines with as many columns in all: so a
menu of short lines is one unit. Code and lists are left alone: lines that look like code or begin with a bullet,
paragraphs that have such a line, and texts of which most lines are code.

Shape suffixes: D documents, L lines of all documents, Q paragraphs of all documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from pipelines.data.text.measures import BULLET_LINES, CODE_LINES, LINES, LONG_LINE_WIDTH, MIX, hash_texts

MARKS = pa.schema([("hash", pa.uint64()), ("group", pa.uint64())])
CODE_SHARE = 0.5  # of a text's lines: beyond it, all of the text is code
BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class Units:
    """The lines and paragraphs of documents, those of one after those of the other."""

    lines: list[str]
    documents_L: np.ndarray  # int64: the number of each line's document
    hashes_L: np.ndarray  # uint64
    is_unit_L: np.ndarray  # bool: whether a line may be cut
    paragraphs_L: np.ndarray  # int64: the number of each line's paragraph; -1 for a blank line
    documents_Q: np.ndarray
    hashes_Q: np.ndarray
    is_unit_Q: np.ndarray


def split(texts: Sequence[str]) -> Units:
    """Splits texts into the units of which some may be boilerplate."""
    by_document = [text.split("\n") for text in texts]
    lines = [line for of_document in by_document for line in of_document]
    documents_L = np.repeat(np.arange(len(texts)), [len(of_document) for of_document in by_document])
    # Prose has these signs too, which are taken for operators elsewhere: "Terms & Conditions".
    hashed = hash_texts(pa.array([line.replace("; ", ", ").replace(" & ", " , ") for line in lines], pa.string()))
    is_text_L = np.diff(hashed.line_starts) > 0  # each text is one line, or none if it is blank
    hashes_L, widths_L = np.zeros(len(lines), np.uint64), np.zeros(len(lines), np.int64)
    hashes_L[is_text_L] = hashed.lines * MIX  # spreads them over all numbers, and so over the buckets
    widths_L[is_text_L] = hashed.line_widths
    is_code_D = np.bincount(documents_L, hashed.counts[:, CODE_LINES], len(texts)) > CODE_SHARE * np.bincount(
        documents_L, hashed.counts[:, LINES], len(texts)
    )
    is_kept_L = (hashed.counts[:, [BULLET_LINES, CODE_LINES]] > 0).any(axis=1) | is_code_D[documents_L]
    begins_L = is_text_L.copy()
    begins_L[1:] &= ~is_text_L[:-1] | (documents_L[1:] != documents_L[:-1])
    paragraphs_L = np.where(is_text_L, np.cumsum(begins_L) - 1, -1)
    starts_Q = np.flatnonzero(begins_L)
    positions_L = np.arange(len(lines)) - starts_Q[paragraphs_L] if len(starts_Q) else np.empty(0, np.int64)
    hashes_Q, widths_Q, num_lines_Q, num_kept_Q = (
        _sums(values[is_text_L], begins_L[is_text_L])
        for values in (_mixed(hashes_L, positions_L), widths_L, is_text_L.astype(np.int64), is_kept_L.astype(np.int64))
    ) if len(starts_Q) else (np.empty(0, np.uint64), *[np.empty(0, np.int64)] * 3)  # fmt: skip
    is_unit_Q = (num_lines_Q > 1) & (num_kept_Q == 0) & (widths_Q >= LONG_LINE_WIDTH)
    is_unit_L = is_text_L & ~is_kept_L & (widths_L >= LONG_LINE_WIDTH)
    return Units(lines, documents_L, hashes_L, is_unit_L, paragraphs_L, documents_L[starts_Q], hashes_Q, is_unit_Q)


def _sums(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, np.flatnonzero(begins))


def _mixed(hashes_L: np.ndarray, positions_L: np.ndarray) -> np.ndarray:
    """Hashes of lines at their places in a paragraph, of which the sum is the paragraph's."""
    if not len(positions_L):
        return hashes_L
    mixed_L = (hashes_L ^ ((positions_L + 1).astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9))) * MIX
    return (mixed_L ^ (mixed_L >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)


def group_hash(source: str, group: str) -> int:
    """The 64-bit number that stands for a group of a source."""
    return xxhash.xxh3_64_intdigest(f"{source}/{group}".encode())


def marks(units: Units, groups_D: np.ndarray) -> pa.RecordBatch:
    """Returns the MARKS of the units, each pair once, sorted. groups_D: uint64, by `group_hash`."""
    hashes = np.concatenate([units.hashes_L[units.is_unit_L], units.hashes_Q[units.is_unit_Q]])
    documents = np.concatenate([units.documents_L[units.is_unit_L], units.documents_Q[units.is_unit_Q]])
    return pa.record_batch(list(distinct(hashes, groups_D[documents])), schema=MARKS)


def distinct(hashes: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs of hashes and groups, each once, sorted."""
    order = np.lexsort((groups, hashes))
    hashes, groups = hashes[order], groups[order]
    is_first = np.ones(len(hashes), np.bool_)
    is_first[1:] = (hashes[1:] != hashes[:-1]) | (groups[1:] != groups[:-1])
    return hashes[is_first], groups[is_first]


def repeated(hashes: np.ndarray, groups: np.ndarray, max_groups: int) -> np.ndarray:
    """Returns uint64, sorted: the hashes of pairs that are there with more than `max_groups` different groups."""
    unique, numbers = np.unique(distinct(hashes, groups)[0], return_counts=True)
    return unique[numbers > max_groups]


def cut(units: Units, is_repeated: Callable[[np.ndarray], np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Returns (the texts without the units whose hashes are repeated, int64[D]: numbers of lines that were cut).

    is_repeated: whether each of uint64 hashes is. Blank lines that meet where lines were cut become one."""
    is_cut_L = units.is_unit_L & is_repeated(units.hashes_L)
    is_cut_Q = units.is_unit_Q & is_repeated(units.hashes_Q)
    if len(is_cut_Q):
        is_cut_L |= (units.paragraphs_L >= 0) & is_cut_Q[units.paragraphs_L]
    bounds = np.flatnonzero(np.diff(units.documents_L, prepend=-1, append=-1))
    num_cut_D = np.add.reduceat(is_cut_L.astype(np.int64), bounds[:-1]) if len(units.lines) else np.empty(0, np.int64)
    texts = []
    for start, stop, num_cut in zip(bounds[:-1], bounds[1:], num_cut_D, strict=True):
        lines = units.lines[start:stop]
        if num_cut:
            kept = "\n".join(line for line, out in zip(lines, is_cut_L[start:stop], strict=True) if not out)
            texts.append(BLANK_LINES.sub("\n\n", kept).strip("\n"))
        else:
            texts.append("\n".join(lines))
    return texts, num_cut_D
