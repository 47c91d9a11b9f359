"""Options that the stages of conversations and of preferences share: what becomes of a row that can be read.

Light imports only: recipes are read with this module."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from pipelines.options import Options


class DialogueOptions(Options):
    """How replies are chosen among the rows of the sources; the built-in tasks are left as they are."""

    thoughts: Literal["keep", "remove"] = Field(
        "keep",
        description="What becomes of thoughts (<think>…</think>, or a column or key such as reasoning_content): keep "
        "them at the beginning of a reply, or remove them. Half a thought is a bad row either way",
    )
    near_duplicates: float | None = Field(
        0.9,
        gt=0,
        le=1,
        description="Similarity (Jaccard, of pairs of neighbouring words) from which on a row repeats an earlier one "
        "and is set aside, system turns apart; null keeps all but exact duplicates",
    )
    max_characters: PositiveInt = Field(
        200_000, description="Maximum length of a row's turns together, in characters; longer rows are set aside"
    )
    min_reply_characters: PositiveInt = Field(
        1,
        description="Minimum length of each reply that is learnt, in characters; rows with a shorter one are set aside",
    )
    max_repetition: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Maximum fraction of a reply, of at least 50 words, in sequences of words that occurred in it "
        "before (8 words; 13 Chinese characters), or in runs of one character; rows with more are set aside",
    )
    refusals: Literal["keep", "drop"] = Field(
        "keep", description="What becomes of rows with a reply that refuses, by its wording: keep or drop them"
    )
