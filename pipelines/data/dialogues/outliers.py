"""Sets rows aside whose replies are nothing to learn from: too long, too short, repetitive, or refusing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.data.dialogues.refusals import is_refusal
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.text.document_stats import document_stats
from pipelines.data.text.measures import hash_texts

MIN_WORDS = 50  # of a reply whose repetition is measured: a short one may well repeat itself ("ha ha ha ha ha")
MIN_RUN_CHARACTERS = 20  # of a reply that is one run of a character, which has no words


@dataclass(frozen=True)
class OutlierRules:
    """Bounds, as the options of the stages name them."""

    max_characters: int
    min_reply_characters: int = 1
    max_repetition: float = 0.5
    drop_refusals: bool = False

    def problem(self, text: str, replies: Sequence[str], *, refused: bool = False) -> Problem | None:
        """Why a row is set aside, if it is. text: all that it says; replies: those that are learnt. refused: one of
        them refuses, however it says so.

        >>> OutlierRules(max_characters=10).problem("a text of some length", []).reason
        'too_long'
        """
        if len(text) > self.max_characters:
            reason = f"{len(text):,} characters; max_characters is {self.max_characters:,}"
            return Problem("too_long", reason, by_rule=True)
        shortest = min(map(len, replies), default=self.min_reply_characters)
        if shortest < self.min_reply_characters:
            reason = f"a reply of {shortest} characters; min_reply_characters is {self.min_reply_characters}"
            return Problem("too_short", reason, by_rule=True)
        share = max((repetition(reply) for reply in replies), default=0.0)
        if share > self.max_repetition:
            reason = f"{share:.0%} of a reply repeats itself; max_repetition is {self.max_repetition:.0%}"
            return Problem("repetition", reason, by_rule=True)
        if self.drop_refusals and (refused or any(map(is_refusal, replies))):
            return Problem("refusal", "a reply refuses; refusals is drop", by_rule=True)
        return None


def repetition(reply: str) -> float:
    """The fraction of a reply's words in repeated sequences, or of its characters in runs of one; 0 for a short one.

    >>> repetition("the same few words over and over again, " * 20) > 0.9, repetition("Ha ha ha!")
    (True, 0.0)
    """
    if len(reply) < MIN_RUN_CHARACTERS:
        return 0.0
    texts = pa.array([reply], pa.string())
    (stats,) = document_stats(texts, [""], hash_texts(texts), [0])
    in_runs = stats.repeated_characters / max(stats.letters + stats.chinese + stats.digits, 1)
    in_sequences = stats.duplicate_ngram_words / stats.words if stats.words >= MIN_WORDS else 0.0
    return max(in_runs, in_sequences)
