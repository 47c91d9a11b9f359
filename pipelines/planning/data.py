"""Estimates of the data that a stage trains on, from the sizes of its sources' files and, of pairs, the first rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any

import numpy as np

from pipelines.data.sources.source import Row
from pipelines.learning.dealing import Drawn, drawn_steps
from pipelines.recipe.reader import Entry, Recipe

BYTES_PER_TOKEN = 4.0
COMPRESSED = 3.0  # bytes of text in a byte of gzip or zstd
EXCHANGE_TOKENS = 256  # a prompt and its reply, where no row is read
SAMPLED_PAIRS = 500
ROUNDED_TOKENS = 128  # of a limit that is proposed


@dataclass(frozen=True)
class PairLengths:
    """Lengths of the sides of preference pairs, in tokens; a side is a prompt with one of its replies."""

    sides: Sequence[tuple[int, int]]  # of each pair that is kept
    per_record_byte: float  # tokens of both sides for each byte of text in the record; of pairs left out none
    read: int = 0  # pairs
    mean_tokens: float = 0.0  # of both sides
    too_long: int = 0  # of those: left out
    limit: int = 0  # tokens of a side at most
    limit_of_most: int = 0  # that 95% of the pairs would not exceed

    def drawn_steps(self, batch_pairs: int, workers: int, micro_batch_pairs: int) -> Drawn:
        """batch_pairs: of a step, all workers together."""
        return drawn_steps(
            np.array(self.sides), batch_pairs=batch_pairs, world=workers, micro_batch_pairs=micro_batch_pairs
        )

    def note(self, stage: str, context: int) -> str:
        """A sentence about pairs that are left out, empty without any. context: tokens that the model attends to."""
        if not self.too_long:
            return ""
        remedy = "the model attends to no more"
        if self.limit < context:
            remedy = "a larger max_tokens takes them, with more memory and time"
            if self.limit_of_most > self.limit:
                remedy = (
                    f"max_tokens: {min(self.limit_of_most, context)} leaves out few, but takes more memory and time"
                )
        return (
            f"{stage}: about {self.too_long:,} of the first {self.read:,} pairs are longer than {self.limit:,} tokens, "
            f"and are left out; {remedy}"
        )


def source_bytes(recipe: Recipe, entry: Entry) -> int | None:
    """Bytes of text in the files that a stage trains on, uncompressed; None where it has no files."""
    return file_bytes(_data(recipe, entry))


def file_bytes(entry: Entry) -> int | None:
    """Bytes of text in the files that an entry reads, uncompressed; None where it has no files."""
    files = (file for source in entry.sources.values() for file in source.each_file())
    sizes = [file.stat().st_size * (COMPRESSED if file.suffix in (".gz", ".zst") else 1) for file in files]
    return round(sum(sizes)) if sizes else None


def pair_lengths(recipe: Recipe, entry: Entry, context: int) -> PairLengths:
    """Lengths of the first pairs of the sources that the stage keeps; of EXCHANGE_TOKENS where none can be read.

    context: tokens that the model attends to; longer sides are left out, as are those beyond the stage's max_tokens."""
    from pipelines.data.dialogues.preference_records import ParsedPreferences, parse_preferences
    from pipelines.data.tokens.chat_messages import said

    max_tokens = min(entry.options.model_dump()["max_tokens"] or context, context)
    sides: list[tuple[float, float]] = []
    longer_sides, too_long, record_bytes = [], 0, 0
    for record in islice(_records(recipe, entry), SAMPLED_PAIRS):
        parsed = parse_preferences(record)
        for pair in parsed.pairs if isinstance(parsed, ParsedPreferences) else ():
            prompt = sum(len(said(turn).encode()) for turn in pair.prompt)
            replies = len(pair.chosen_said.encode()), len(pair.rejected_said.encode())
            lengths = (prompt + replies[0]) / BYTES_PER_TOKEN, (prompt + replies[1]) / BYTES_PER_TOKEN
            longer_sides.append(max(lengths))
            record_bytes += prompt + sum(replies)
            if max(lengths) <= max_tokens:
                sides.append(lengths)
            else:
                too_long += 1
    if not longer_sides:
        tokens = min(EXCHANGE_TOKENS, max_tokens)
        return PairLengths([(tokens, tokens)], 1 / BYTES_PER_TOKEN)
    most = -(-round(np.quantile(longer_sides, 0.95)) // ROUNDED_TOKENS) * ROUNDED_TOKENS
    tokens = sum(map(sum, sides))
    kept = [(ceil(chosen), ceil(rejected)) for chosen, rejected in sides] or [(max_tokens, max_tokens)]
    mean = tokens / max(1, len(sides))
    return PairLengths(kept, tokens / record_bytes, len(longer_sides), mean, too_long, max_tokens, most)


def _records(recipe: Recipe, entry: Entry) -> Iterator[dict[str, Any]]:
    for source in _data(recipe, entry).sources.values():
        for row in (row for part in source.parts() for row in source.read(part)):
            if isinstance(row, Row) and row.record is not None:
                yield row.record


def _data(recipe: Recipe, entry: Entry) -> Entry:
    return recipe.entry(entry.inputs["conversations" if "conversations" in entry.inputs else "preferences"])
