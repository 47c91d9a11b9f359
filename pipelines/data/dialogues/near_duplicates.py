"""Near-duplicate prompts and conversations, which are dropped: by MinHash over pairs of neighbouring words.

    texts ──pairs of words (of Chinese characters)──► signatures ──► groups of similar texts

Shingles are shorter than those of a corpus: of a prompt with nine words, five words at a time leave five shingles, and
one more "please" would make another prompt of it. With two, 80% similarity allows a word more at an end of a prompt of
six words, and another word within one of nineteen: "the capital of France" and "the capital of Spain" are two prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.data.corpus import minhash
from pipelines.data.text.measures import hash_texts

SHINGLE_WORDS = 2
PERMUTATIONS = 128  # hashes: the standard error of a similarity of 0.8 is 0.035
BATCH = 10_000  # texts hashed at a time


def first_of_each(texts: Sequence[str], threshold: float) -> list[int]:
    """For each text, the position of the first of those that are similar to it, directly or through others.

    >>> first_of_each(["a tale of two cities in one book", "another tale", "a tale of two cities in one book!"], 0.9)
    [0, 1, 0]
    """
    return minhash.clusters(_signatures(texts), threshold).tolist()


def _signatures(texts: Sequence[str]) -> np.ndarray:
    """uint32[texts, permutations]"""
    batches = [
        minhash.signatures(
            hash_texts(pa.array(texts[first : first + BATCH], pa.string())), PERMUTATIONS, shingle_words=SHINGLE_WORDS
        )
        for first in range(0, len(texts), BATCH)
    ]
    return np.concatenate(batches) if batches else np.empty((0, PERMUTATIONS), np.uint32)
