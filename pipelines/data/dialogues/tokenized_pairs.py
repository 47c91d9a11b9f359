"""Preference pairs as tokens, which reward models and DPO train on.

    Pair ──chat template──► prompt + chosen, prompt + rejected ──cut after the token that ends the reply──► split.arrow

A sequence ends with the token that ends the assistant turn: a reward model scores a reply at that token, and DPO sums
log-probabilities up to it. Pairs that are too long, pairs whose sequences are equal (a template may trim what differs)
and pairs that the template refuses are left out and counted.
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
from pipelines.data.tokens.chat import Chat, TemplateRefusal
from pipelines.data.tokens.chat_messages import Message, reply_message
from pipelines.data.tokens.chat_refusals import TemplateRows
from pipelines.data.tokens.ragged import RaggedColumn

BATCH_PAIRS = 2048  # written at a time: 2,048 × 2 sequences × 300 tokens × 4 bytes = 5 MB

TOKENS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    # prompt_tokens: tokens before either reply; row: index of the pair in the preferences' file
    [("chosen", TOKENS), ("rejected", TOKENS), ("prompt_tokens", pa.int32()), ("row", pa.int64())]
)


@dataclass(frozen=True)
class TokenizedPair:
    """The two sequences of a pair, prompt and reply, which begin with the same prompt_tokens tokens. int32 [T] each."""

    chosen: np.ndarray
    rejected: np.ndarray
    prompt_tokens: int


@dataclass(frozen=True)
class Counts:
    """Numbers of a split's pairs: kept, left out as too long, left out because both sequences are equal, and those of
    TemplateRows; place and reason of the first that the chat template refuses."""

    kept: int = 0
    too_long: int = 0
    equal: int = 0
    template_refuses: int = 0
    refused_calls: int = 0
    folded: int = 0
    without_tools: int = 0
    without_text: int = 0
    first_refused: str = ""

    @property
    def read(self) -> int:
        """All pairs of the split."""
        return self.kept + self.too_long + self.equal + self.template_refuses


def tokenize_pair(pair: Pair, chat: Chat) -> TokenizedPair:
    """Renders both sequences of a pair through the model's chat template."""
    chosen, prompt_tokens = _sequence(pair.prompt, reply_message(pair.chosen, pair.chosen_calls), pair.tools, chat)
    rejected, _ = _sequence(pair.prompt, reply_message(pair.rejected, pair.rejected_calls), pair.tools, chat)
    return TokenizedPair(chosen, rejected, prompt_tokens)


def _sequence(prompt: Sequence[Message], reply: Message, tools: str, chat: Chat) -> tuple[np.ndarray, int]:
    """Tokens of prompt and reply up to the one that ends the turn, int32 [T], and the index where the reply begins."""
    rendered = chat.conversation([*prompt, reply], tools)
    end = int(np.flatnonzero(rendered.loss_mask)[-1]) + 1
    start = int(np.flatnonzero(~rendered.loss_mask[:end])[-1]) + 1  # the mask covers earlier assistant turns as well
    return rendered.ids[:end], start


def tokenize_split(
    folder: Path,
    name: str,
    chat: Chat,
    out: Path,
    *,
    max_tokens: int,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> tuple[Path, Counts]:
    """Writes a split of a preferences folder as tokens into the folder `out`; reuses what an earlier attempt finished.

    Pairs are shuffled by the seed when written, so that reading the file in order mixes tasks and languages.
    name: the split's file, preferences.TRAIN or HELD_OUT. max_tokens: length of the longest sequence that is kept.
    on_progress: called with the pairs done and the pairs in all. Returns the Arrow file and the counts."""
    file = out / f"{Path(name).stem}.arrow"
    counts_file = file.with_suffix(".json")  # written last: the Arrow file is complete where it exists
    if not counts_file.is_file():
        counts = _write(file, preferences.read(folder / name), chat, max_tokens, seed, on_progress)
        counts_file.write_text(json.dumps(asdict(counts)), encoding="utf-8")
    return file, Counts(**json.loads(counts_file.read_text(encoding="utf-8")))


def _write(
    file: Path, pairs: list[Pair], chat: Chat, max_tokens: int, seed: int, on_progress: Callable[[int, int], None]
) -> Counts:
    """Writes the kept pairs in a shuffled order, under another name until the file is complete."""
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    counts = {"kept": 0, "too_long": 0, "equal": 0}
    template = TemplateRows(chat, "pairs")
    partial = file.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for first in range(0, len(pairs), BATCH_PAIRS):
            batch: list[dict[str, object]] = []
            for row in order[first : first + BATCH_PAIRS]:
                messages = _messages(pairs[row])
                try:
                    pair = tokenize_pair(pairs[row], chat)
                except TemplateRefusal as refusal:
                    template.count(f"pair {pairs[row].id}", messages, refusal)
                    continue
                template.count(f"pair {pairs[row].id}", messages)
                template.count_tools([pairs[row].tools])
                outcome = _outcome(pair, max_tokens)
                counts[outcome] += 1
                if outcome == "kept":
                    batch.append({**asdict(pair), "row": row})
            writer.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))
            on_progress(min(first + BATCH_PAIRS, len(pairs)), len(pairs))
    os.replace(partial, file)
    return Counts(
        **counts, template_refuses=template.refused, refused_calls=template.refused_calls, folded=template.folded,
        without_tools=template.without_tools, without_text=template.without_text,
        first_refused=template.first_refused,
    )  # fmt: skip


def _messages(pair: Pair) -> list[Message]:
    """All that a pair says: its prompt and both replies."""
    replies = (pair.chosen, pair.chosen_calls), (pair.rejected, pair.rejected_calls)
    return [*pair.prompt, *(reply_message(*reply) for reply in replies)]


def _outcome(pair: TokenizedPair, max_tokens: int) -> str:
    """The field of Counts that a pair belongs to."""
    if max(len(pair.chosen), len(pair.rejected)) > max_tokens:
        return "too_long"
    return "equal" if np.array_equal(pair.chosen, pair.rejected) else "kept"


def template_rows(chat: Chat, splits: Sequence[Counts]) -> TemplateRows:
    """What the chat template did to the pairs of all splits."""
    return TemplateRows(
        chat,
        "pairs",
        total=sum(counts.read for counts in splits),
        refused=sum(counts.template_refuses for counts in splits),
        refused_calls=sum(counts.refused_calls for counts in splits),
        folded=sum(counts.folded for counts in splits),
        without_tools=sum(counts.without_tools for counts in splits),
        without_text=sum(counts.without_text for counts in splits),
        first_refused=next((counts.first_refused for counts in splits if counts.first_refused), ""),
    )


class PairFile:
    """Random access to the pairs of an Arrow file; memory-mapped, so that only the pairs read cost anything."""

    def __init__(self, file: Path):
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        self._chosen, self._rejected = RaggedColumn(table.column("chosen")), RaggedColumn(table.column("rejected"))
        self.prompt_tokens = table.column("prompt_tokens").to_numpy()  # [N]
        self.rows = table.column("row").to_numpy()  # [N], indices in the preferences' file
        self.lengths_N2 = np.stack([self._chosen.lengths, self._rejected.lengths], axis=1)  # tokens of each sequence

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenizedPair:
        return TokenizedPair(self._chosen[index], self._rejected[index], int(self.prompt_tokens[index]))

    def __iter__(self) -> Iterator[TokenizedPair]:
        return (self[index] for index in range(len(self)))

    @property
    def reply_tokens_N2(self) -> np.ndarray:
        """Tokens of each reply, its end token included. int64 [N, 2]: chosen, rejected."""
        return self.lengths_N2 - self.prompt_tokens[:, None]
