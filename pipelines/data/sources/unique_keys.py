"""JSON objects in which no key has two values: of those json keeps the last, and says nothing."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any


class TwoValues(ValueError):
    """A key has two values in one object, of which json keeps the last."""


class UniqueKeysDecoder(json.JSONDecoder):
    """A decoder of JSON that raises TwoValues if one of its keys has two values in one object; of other keys it keeps
    the last. keys: None for all keys. reads_alike: whether two values say the same to who reads them; of a key whose
    values do not matter to them the last is kept too."""

    def __init__(self, keys: tuple[str, ...] | None, reads_alike: Callable[[Any, Any], bool] = operator.eq):
        super().__init__(object_pairs_hook=self._object)
        self.reads_alike = reads_alike
        self.keys = keys
        self.spellings = [{json.dumps(key), json.dumps(key, ensure_ascii=False)} for key in keys or ()]

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """(value at a place of a text, its end). Raises JSONDecodeError, TwoValues."""
        if self.keys is not None:
            value, end = PLAIN.raw_decode(s, idx)
            if not self._may_repeat(s, idx, end):  # found out in half the time of a hook for each object
                return value, end
        try:
            return super().raw_decode(s, idx)
        except TwoValues:
            (last, end), (other, _) = PLAIN.raw_decode(s, idx), OTHER_VALUES.raw_decode(s, idx)
            if not self.reads_alike(other, last):
                raise
            return last, end

    def _may_repeat(self, text: str, start: int, end: int) -> bool:
        """Whether one of the keys stands in a part of a text more than once, as key or as text."""
        for spellings in self.spellings:  # a loop, for it is run for each row
            count = 0
            for spelling in spellings:
                count += text.count(spelling, start, end)
            if count > 1:
                return True
        return False

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            for key, value in pairs:
                if record[key] != value and (self.keys is None or key in self.keys):
                    text = f"the key {key!r} has two values in one object; expected each key once: rename or remove one"
                    raise TwoValues(text)
        return record


def _of_other_values(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with, of a key that has several values, the first that is not the last."""
    record = dict(pairs)
    others: dict[str, Any] = {}
    for key, value in pairs:
        if record[key] != value:
            others.setdefault(key, value)
    return record | others


PLAIN = json.JSONDecoder()
OTHER_VALUES = json.JSONDecoder(object_pairs_hook=_of_other_values)


PLAIN_KEYS = UniqueKeysDecoder(())  # of which none has to be unique


@lru_cache(maxsize=64)
def decoder(keys: tuple[str, ...] | None) -> UniqueKeysDecoder:
    """The decoder for these keys, made once."""
    return UniqueKeysDecoder(keys)
