"""Documents a second of one core for each part of cleaning, against a bare loop over the same texts.

    python -m tests.benchmarks corpus_filters

The bare loop splits a text into words and collects the different ones: what any rule in plain Python does at least. The
gates (filter_gates.json) are bounds of the ratio to it, which depend less on the machine than the rates do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines.data.corpus import minhash
from pipelines.data.corpus.filters import FILTERS, Filters, apply_filters
from pipelines.data.text.document_stats import Documents
from pipelines.data.text.measures import hash_texts
from pipelines.data.text.people_groups import mentioned_groups
from pipelines.data.text.plain_texts import normalised
from pipelines.data.text.privacy import Privacy
from tests.benchmarks import corpus_text

TEXT_BYTES = 3_000_000
TRIALS = 3
ALL = {name: {} for name in ("gopher_repetition", "gopher_quality", "c4", "fineweb")}


def main() -> dict[str, float]:
    """Documents/s of each part, and its ratio to the bare loop: the best of three trials, in CPU seconds."""
    by_language = corpus_text.documents([], limit_bytes=TEXT_BYTES)
    texts = [text for language in by_language.values() for text in language]
    languages = [language for language, of in by_language.items() for _ in of]
    column = pa.array(texts, pa.string())
    hashed = hash_texts(column)
    garbled = np.zeros(len(texts), np.int64)
    privacy = Privacy({"names": "surrogate"}, seed=7)
    parts: dict[str, Callable[[], object]] = {
        "normalise": lambda: normalised(column),
        "measures": lambda: hash_texts(column),
        "signatures": lambda: minhash.signatures(hashed, 128),
        "names": lambda: [privacy.replace(text) for text in texts],
        "groups": lambda: [mentioned_groups(*of) for of in zip(texts, languages, strict=True)],
    }
    filters = Filters.model_validate(ALL)

    def apply(name: str) -> object:
        documents = Documents(column, languages, garbled, hashed)  # of which no filter has counted words yet
        return apply_filters([getattr(filters, name)], documents)

    parts |= {name: partial(apply, name) for name in FILTERS}
    bare = rate(lambda: [len(set(text.split())) for text in texts], len(texts))
    figures = {"filters/documents_per_s_bare": bare}
    for name, part in parts.items():
        figures[f"filters/{name}_documents_per_s"] = rate(part, len(texts))
        figures[f"filters/{name}_over_bare"] = figures[f"filters/{name}_documents_per_s"] / bare
    return figures


def rate(part: Callable[[], object], num_documents: int) -> float:
    """Documents per second of CPU, the best trial."""
    seconds = []
    for _ in range(TRIALS):
        start = time.process_time()
        part()
        seconds.append(time.process_time() - start)
    return num_documents / min(seconds)
