"""Preferences as tokens: what a reward model and DPO read.

    Pair ──chat template──► prompt + chosen, prompt + rejected ──cut after the last learnt token──► pairs.arrow

A sequence ends with the token that ends the assistant's turn: there a reward model gives its score, and up to there
DPO counts a reply's probability. Pairs that a model cannot read whole, or whose sides become equal (a template may trim
them), are left out and counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.data.dialogues import preferences
from pipelines.data.dialogues.preferences import Pair
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.ragged import RaggedColumn

WRITE_PAIRS = 2048  # written at a time: 2,048 × 2 sides × 300 tokens × 4 bytes = 5 MB

TOKENS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    # row: its place in the preferences' file; prompt_tokens: how many tokens come before either reply
    [("chosen", TOKENS), ("rejected", TOKENS), ("prompt_tokens", pa.int32()), ("row", pa.int64())]
)


@dataclass(frozen=True)
class Sides:
    """A pair as tokens: two sequences with the same prompt before a reply. int32 [T] each."""

    chosen: np.ndarray
    rejected: np.ndarray
    prompt_tokens: int


@dataclass(frozen=True)
class Counts:
    """What became of a split's pairs."""

    kept: int = 0
    too_long: int = 0
    equal: int = 0

    @property
    def read(self) -> int:
        return self.kept + self.too_long + self.equal


def sides(pair: Pair, chat: Chat) -> Sides:
    """Both sequences of a pair."""
    (chosen, start), (rejected, _) = (_sequence(pair.prompt, reply, chat) for reply in (pair.chosen, pair.rejected))
    return Sides(chosen, rejected, start)


def _sequence(prompt: Sequence[dict[str, str]], reply: str, chat: Chat) -> tuple[np.ndarray, int]:
    """prompt + reply up to the token that ends the turn, and where the reply begins."""
    rendered = chat.conversation([*prompt, {"role": "assistant", "content": reply}])
    end = int(np.flatnonzero(rendered.learnt)[-1]) + 1
    start = int(np.flatnonzero(~rendered.learnt[:end])[-1]) + 1  # earlier turns of an assistant are learnt as well
    return rendered.ids[:end], start


def prepare(
    folder: Path, name: str, chat: Chat, place: Path, *, longest: int, seed: int, tell: Callable[[int, int], None]
) -> tuple[Path, Counts]:
    """Writes a split of a preferences folder as tokens into `place`, once: what a killed attempt finished is kept.
    Pairs are shuffled by the seed here, so that reading the file in order mixes tasks and languages.

    name: the split's file, preferences.TRAIN or HELD_OUT; longest: tokens of the longest sequence kept; tell: pairs
    done, pairs there are. Returns the Arrow file and the counts."""
    file = place / f"{Path(name).stem}.arrow"
    record = file.with_suffix(".json")  # written last
    if not record.is_file():
        counts = _write(file, preferences.read(folder / name), chat, longest, seed, tell)
        record.write_text(json.dumps(asdict(counts)), encoding="utf-8")
    return file, Counts(**json.loads(record.read_text(encoding="utf-8")))


def _write(
    file: Path, pairs: list[Pair], chat: Chat, longest: int, seed: int, tell: Callable[[int, int], None]
) -> Counts:
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    counted = {"kept": 0, "too_long": 0, "equal": 0}
    partial = file.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for first in range(0, len(pairs), WRITE_PAIRS):
            kept: list[dict[str, object]] = []
            for row in order[first : first + WRITE_PAIRS]:
                found = sides(pairs[row], chat)
                why = _verdict(found, longest)
                counted[why] += 1
                if why == "kept":
                    kept.append({**asdict(found), "row": row})
            writer.write_batch(pa.RecordBatch.from_pylist(kept, SCHEMA))
            tell(min(first + WRITE_PAIRS, len(pairs)), len(pairs))
    os.replace(partial, file)
    return Counts(**counted)


def _verdict(found: Sides, longest: int) -> str:
    if max(len(found.chosen), len(found.rejected)) > longest:
        return "too_long"
    return "equal" if np.array_equal(found.chosen, found.rejected) else "kept"


class PairFile:
    """Random access to the pairs of an Arrow file; memory-mapped, so only those that are read cost anything."""

    def __init__(self, file: Path):
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        self._chosen, self._rejected = (RaggedColumn(table.column(name)) for name in ("chosen", "rejected"))
        self.prompt_tokens = table.column("prompt_tokens").to_numpy()
        self.rows = table.column("row").to_numpy()  # of the preferences' file
        self.lengths_N2 = np.stack([self._chosen.lengths, self._rejected.lengths], axis=1)  # tokens of each sequence

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Sides:
        return Sides(self._chosen[number], self._rejected[number], int(self.prompt_tokens[number]))

    def __iter__(self) -> Iterator[Sides]:
        return (self[number] for number in range(len(self)))

    @property
    def reply_tokens_N2(self) -> np.ndarray:
        """Tokens of each reply, its end included. int64 [N, 2]: chosen, rejected."""
        return self.lengths_N2 - self.prompt_tokens[:, None]
