"""JSON documents: one array of objects, {"data": [objects]}, or objects one after the other over several lines each.

    text in chunks ──raw_decode──► one value after the other

Memory holds one value and one chunk. After a value that is not JSON, reading goes on at the next object with the same
keys as an earlier one, so that one broken row does not lose the rest; where there is no earlier one, at the next object
with the first key of the broken one. A missing comma before an object loses nothing.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipelines.data.sources import task_files
from pipelines.data.sources.cells import has_value, is_dialogue
from pipelines.data.sources.conversation_formats import has_instances
from pipelines.data.sources.split_names import HELD_OUT, TRAIN
from pipelines.data.sources.streams import Utf8Stream
from pipelines.data.sources.unique_keys import PLAIN, PLAIN_KEYS, TwoValues, UniqueKeysDecoder

CHUNK_BYTES = 1 << 20
EDGE_CHARACTERS = 16  # at the end of a chunk, where a value may be cut: -Infinity and escapes are shorter
LISTS = ("data", "rows", "examples", "items", "records", "instances", "samples", "documents", "train")
SPLIT = "split"  # reason of rows that are held out
MAX_VALUES = 10_000  # read to find out what stands beside rows
MAX_KEYS = 100  # kinds of objects that are remembered
SPACE = re.compile(r"[ \t\r\n\ufeff]*")
ARRAY = re.compile(r"\[[ \t\r]*(\n|\{|\])")  # how an array begins, where a line of JSON may be broken
FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)"\s*:')  # of an object that may be broken further on
OBJECTS = re.compile(r"\[\s*(?:null\s*,\s*)*\{")
BEGUN = re.compile(r'"([^"\\]*)"\s*:?\s*\[\s*$')  # the name of a list, up to its first object
MAX_SPACE = 1000  # between the begin of a list and its first object
WRAPPED = re.compile(rf'"(?:{"|".join(LISTS)})"\s*:\s*(?={OBJECTS.pattern})', re.IGNORECASE)
# A list that is held out, up to its first object: also where something is wrong before that.
HELD_OUT_LIST = re.compile(rf'"({"|".join(HELD_OUT)})"\s*:?\s*\[[^"\]]{{0,{MAX_SPACE}}}\{{', re.IGNORECASE)
EXPECTED = 'expected {"train": [rows], "test": [rows]}'


@dataclass(frozen=True)
class Damaged:
    """A place that is not JSON, or a value that cannot be used; with a reason one that a rule leaves out."""

    problem: str
    raw: str
    reason: str = ""


def is_document(stream: Utf8Stream, *, lines_expected: bool) -> bool:
    """Whether a file is a JSON document, by its beginning; else it is JSON lines.

    lines_expected: the file's name says that it holds lines."""
    text = stream.read(CHUNK_BYTES).decode(errors="replace").lstrip()
    first, end, rest = text.partition("\n")
    value = _parsed(first)
    if value is None and text.startswith("["):
        return ARRAY.match(text) is not None or not lines_expected
    if value is None:
        cut = not end or first.rstrip().endswith(("{", "[", ",", ":"))
        over_lines = first.strip() == "{" and _parsed(rest.lstrip().partition("\n")[0]) is None  # else it is broken
        is_begun = any(re.search(r"\[[ \t\r]*$", line) for line in text[:CHUNK_BYTES].split("\n", 20)[:20])
        held_out = is_begun and HELD_OUT_LIST.search(text) is not None  # no line of JSON ends with a bracket
        return text.startswith("{") and (held_out or (cut and (not lines_expected or over_lines)))
    if rest.strip() or (lines_expected and is_dialogue(value)):
        return False
    if not lines_expected and isinstance(value, dict):
        return _is_wrapped(value) or bool(_lists_within(value))
    return isinstance(value, list)


def values(
    stream: Utf8Stream, max_characters: int, decoder: UniqueKeysDecoder, *, all_lists: bool = False
) -> Iterator[Any]:
    """Yields each value of a document: objects as a rule. Yields Damaged for a place that is not JSON, and for a value
    in which a key has two values that its decoder tells to matter.

    all_lists: what is held out, and any other list of objects, is read like the rows beside it."""
    yield from _Reader(stream, max_characters, decoder, all_lists=all_lists).values()


def names_beside_rows(stream: Utf8Stream, max_characters: int) -> list[str]:
    """The names in a document's object that hold something and are no list of rows, as far as its first rows show."""
    reader = _Reader(stream, max_characters, PLAIN_KEYS)
    for _ in itertools.islice(reader.values(), MAX_VALUES):
        pass
    return reader.beside


class _NotJson(Exception):
    """What is wrong with the text at the reader's position."""


class _Reader:
    def __init__(self, stream: Utf8Stream, max_characters: int, decoder: UniqueKeysDecoder, *, all_lists: bool = False):
        self.stream = stream
        self.max_characters = max_characters
        self.utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.decoder = decoder
        self.all_lists = all_lists
        self.text = ""
        self.position = 0
        self.dropped = 0  # characters before the text in memory
        self.in_array = self.in_wrapper = False
        self.beside: list[str] = []  # names of what stands beside the lists of rows, and describes them
        self.definition = ""  # of a task file, whose instances are the rows
        self.left_out: Damaged | None = None  # what the rows of the list are that is being read, unless they are used
        self.keys: set[frozenset[str]] = set()  # of some of the objects so far

    def values(self) -> Iterator[Any]:
        while True:
            try:
                if self.in_array:
                    yield from self._array()
                if self.in_wrapper:
                    self._end_member()
                    yield from self._members()
                yield from self._document()
                return
            except _NotJson as error:
                self.in_wrapper = self.in_wrapper and self.in_array  # else it is broken itself
                raw = self.text[self.position : self.position + 500]
                place = self.dropped + self.position
                has_next = self._find_object()
                lost = self.dropped + self.position - place
                problem = f"not JSON ({error}); {lost:,} characters from character {place:,} on are passed over"
                yield Damaged(problem if has_next else f"{problem}, up to the file's end", raw)
                if not has_next:
                    return

    def _document(self) -> Iterator[Any]:
        first = True
        while character := self._peek():
            if character == "[":
                self.position += 1
                yield from self._array()
            elif character == "{" and first and self._is_wrapper():
                yield from self._wrapped()
            elif character == "," and not first:  # between objects, as in an array
                self.position += 1
            elif character == "{" and first:
                yield from self._first_object()
            else:
                yield self._value()
            first = False

    def _first_object(self) -> Iterator[Any]:
        """The first object of a document, which is a row. Of one that is broken, and has a list of rows that are held
        out, nothing is read on: where it ends cannot be told. One alone may hold lists of rows within other objects."""
        is_after_damage = bool(self.keys)
        try:
            value = self._value()
        except _NotJson as error:
            raw = self.text[self.position : self.position + 500]
            held_out = HELD_OUT_LIST.search(self.text, self.position)
            if held_out is None or is_after_damage:
                raise
            problem = f"not JSON ({error}), with a list {held_out[1]!r}, which is not for training"
            yield Damaged(f"{problem}: nothing of the file is read. Repair it; {EXPECTED}", raw)
            while self._more():
                self.position = len(self.text)
            self.position = len(self.text)
            return
        is_alone = isinstance(value, dict) and not is_after_damage and not self._peek()
        lists = _lists_within(value) if is_alone else []
        problem = f"the lists of objects {', '.join(lists)} stand within another object, and are not read; {EXPECTED}"
        yield Damaged(problem, str(value)) if lists else value

    def _array(self) -> Iterator[Any]:
        """The values of an array, from within it up to and with its end."""
        self.in_array = True
        while (character := self._peek()) != "]":
            value = self._value()
            if self.left_out is not None and not self.all_lists:
                yield replace(self.left_out, raw=str(value))
            else:
                yield task_files.row(self.definition, value) if self.definition else value
            if (character := self._peek()) not in (",", "]", "{"):
                raise _NotJson(f"expected a comma, found {character!r}" if character else "the array is not closed")
            if character == ",":
                self.position += 1
        self.position += 1
        self.in_array, self.left_out = False, None

    def _wrapped(self) -> Iterator[Any]:
        """The values of the lists of an object that wraps them; what else it has describes the file. Another list of
        objects may hold rows: it is named."""
        self.position += 1
        self.in_wrapper = True
        yield from self._members()

    def _members(self) -> Iterator[Any]:
        """As `_wrapped`, from within the object up to and with its end."""
        while self._peek() != "}":
            name = self._value()
            if self._peek() != ":":
                raise _NotJson("expected a colon")
            self.position += 1
            self.left_out = self._left_out(str(name)) if self._peek() == "[" else None
            if self._peek() == "[" and (str(name).lower() in LISTS or self.left_out is not None):
                self.position += 1
                yield from self._array()
            elif not _has_objects(value := self._value()):
                yield from [value] if self.all_lists and isinstance(value, Damaged) else []  # it may be a list
                is_read = self.definition and str(name).lower() == task_files.DEFINITION
                self.beside += [str(name)] if has_value(value) and not is_read else []
            elif self.all_lists:
                yield from value
            elif (left_out := self._by_name(str(name))) is not None:
                yield from (replace(left_out, raw=str(item)) for item in value)
            else:
                expected = "expected rows under one name; give each list a file of its own, or join them"
                yield Damaged(f"the list {name!r} of {len(value):,} objects is not read: {expected}", str(value[0]))
            self._end_member()
        self.position += 1
        self.in_wrapper, self.definition = False, ""

    def _left_out(self, name: str) -> Damaged | None:
        """What each row of a list of objects is by the list's name, if it is not for training.

        Such a list may be larger than a row may be: it is read like the others, one row after the other."""
        while len(self.text) - self.position < MAX_SPACE and self._more():
            pass
        return self._by_name(name) if OBJECTS.match(self.text, self.position) else None

    def _by_name(self, name: str) -> Damaged | None:
        """As `_left_out`, of a list that is known to hold objects."""
        if self.definition and name.lower() in task_files.EXAMPLES:
            return Damaged(f"one of the {name!r} of a task, whose instances are the rows", "", task_files.EXAMPLE)
        problem = f"one of the list {name!r}, a split which is not for training; save it as a file to read it"
        return Damaged(problem, "", SPLIT) if name.lower() in HELD_OUT else None

    def _end_member(self) -> None:
        """Moves on behind a comma. Raises _NotJson unless there is one, or the end of the object."""
        if self._peek() == ",":
            self.position += 1
        elif self._peek() != "}":
            raise _NotJson("the object is not closed")

    def _is_wrapper(self) -> bool:
        """Whether an object holds rows: a list of objects under a usual name, with short values alone before it. An
        instruction with its instances is a row, which the whole object shows, in whatever order its keys are."""
        while len(self.text) - self.position < CHUNK_BYTES and self._more():
            pass
        text = self.text[self.position : self.position + CHUNK_BYTES]
        match = WRAPPED.search(text)
        before = _parsed(f"{text[: match.end()]}[]}}") if match is not None else None
        if match is None or before is None:
            return False
        if '"instances"' not in text.lower():
            return True
        try:
            self._decode()
            document = PLAIN.raw_decode(self.text, self.position)[0]
        except _NotJson:  # broken, or larger than a row may be
            document = {**before, list(before)[-1]: [_first_item(text, text.index("{", match.end()))]}
        self.definition = task_files.definition_of(document)
        return not has_instances(document)

    def _value(self) -> Any:
        """The value at the position, which is moved to its end. Raises _NotJson."""
        self._peek()
        value, self.position = self._decode()
        if isinstance(value, dict) and self.left_out is None and len(self.keys) < MAX_KEYS:
            self.keys.add(frozenset(value))
        return value

    def _decode(self) -> tuple[Any, int]:
        """(value at the position, its end), reading on until it is whole. Raises _NotJson."""
        too_large = _NotJson(f"a value of more than {self.max_characters:,} characters, the maximum")
        while True:
            last = self.position + self.max_characters + CHUNK_BYTES  # where the value has to end
            try:
                value, end = self._decoded()
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - EDGE_CHARACTERS
                if cut and len(self.text) > last:
                    raise too_large from None
                place = error.pos - self.position
                if not cut or not self._more():
                    raise _NotJson(error.msg + (f" after {place:,} characters" if place else "")) from None
            except RecursionError:
                raise _NotJson("nested too deeply") from None
            except ValueError as error:
                raise _NotJson(str(error)) from None
            else:
                if end > last:
                    raise too_large
                if end < len(self.text) or not self._more():  # a number may go on
                    return value, end

    def _decoded(self) -> tuple[Any, int]:
        """(value at the position, its end) of what is in memory. Raises ValueError, RecursionError."""
        try:
            return self.decoder.raw_decode(self.text, self.position)
        except TwoValues as error:
            _, end = PLAIN.raw_decode(self.text, self.position)
            return Damaged(str(error), self.text[self.position : min(end, self.position + 500)]), end

    def _find_object(self) -> bool:
        """Moves on to the next object with the keys of an earlier one, or else with the first key of the broken one.

        Returns False, at the end, if there is none."""
        first_key = FIRST_KEY.match(self.text, self.position)
        while self._find_brace():
            begun = BEGUN.search(self.text[max(0, self.position - MAX_SPACE) : self.position])
            try:
                value, _ = self._decode()
            except _NotJson:
                continue
            # Without earlier objects the first key keeps the objects within a row, such as turns, from being rows.
            if isinstance(value, Damaged):
                continue
            if frozenset(value) in self.keys or (not self.keys and (first_key is None or first_key[1] in value)):
                if begun is not None and (self.in_wrapper or not self.in_array):  # another list begins
                    self.left_out = self._by_name(begun[1])
                    self.in_array = self.in_array or self.left_out is not None
                return True
        return False

    def _find_brace(self) -> bool:
        """Moves on to the next opening brace. Returns False, at the end, if there is none."""
        self.position += 1
        while (start := self.text.find("{", self.position)) < 0:
            self.position = len(self.text)
            if not self._more():
                return False
        self.position = start
        return True

    def _peek(self) -> str:
        """The next character that is not a space; empty at the end."""
        while True:
            match = SPACE.match(self.text, self.position)
            assert match is not None
            self.position = match.end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Reads on, as much as is held already, so that a large value is not decoded often. False at the end."""
        data = self.stream.read(max(CHUNK_BYTES, len(self.text) - self.position))
        self.dropped += self.position
        self.text = self.text[self.position :] + self.utf8.decode(data, final=not data)
        self.position = 0
        return bool(data)


def _has_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _is_wrapped(value: dict[str, Any]) -> bool:
    """Whether an object is only there to hold a list of objects."""
    lists = [inner for name, inner in value.items() if name.lower() in LISTS]
    return any(map(_has_objects, lists)) and not has_instances(value)


def _lists_within(value: dict[str, Any]) -> list[str]:
    """The lists of objects, as a.b, in objects that are named as splits, or in the only one that there is."""
    return [
        f"{name}.{inner_name}"
        for name, inner in value.items()
        if isinstance(inner, dict)
        for inner_name, items in inner.items()
        if _has_objects(items)
        and (name.lower() in (*TRAIN, *HELD_OUT) or (len(value) == 1 and inner_name.lower() in (*LISTS, *HELD_OUT)))
    ]


def _first_item(text: str, start: int) -> Any:
    """The object that begins at a place of a text; where it is broken, an output: so its row is bad, and no part of it
    is taken for a row."""
    try:
        return PLAIN.raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return {"output": ""}


def _parsed(text: str) -> Any:
    """The value of a JSON text, or None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
