"""Bits per byte: how well a model predicts text it has not seen, comparable between tokenizers; and perplexity.

    text ──tokens──► windows [start t₁ … tₙ] of the context's length, no overlap ──► Σ nats ÷ ln 2 ÷ UTF-8 bytes

Every token of the text is predicted exactly once, the end token not at all, so a tokenizer with longer tokens has no
advantage (Gao et al. 2020, The Pile, §3.1). The base that a model's lineage began with predicts the same windows, which
shows how much of what it knew is retained. Two baselines ignore the order of tokens: uniform over the vocabulary, and a
unigram model of each language with add-one smoothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.metrics.metric import Material, Outputs, Requests, Row, Score

ENCODE_BATCH = 256  # texts
BY_SOURCE = "heldout/bits_per_byte_source_"  # the names of the figures of each source begin with it


def windows(tokens: Sequence[int], start_id: int, context: int) -> Iterator[list[int]]:
    """Rows of at most `context` tokens, each beginning with the start token, that hold every token once."""
    step = context - 1
    for first in range(0, len(tokens), step):
        yield [start_id, *map(int, tokens[first : first + step])]


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """nats: Σ −ln p of the text's tokens; num_bytes: of the text in UTF-8."""
    return nats / math.log(2) / num_bytes


def unigram_nats(tokens: np.ndarray, counts: np.ndarray) -> float:
    """Σ −ln p of tokens [N] under p(t) = (counts[t] + 1) ÷ (Σ counts + V), Laplace's rule. counts: [V]."""
    logprobs = np.log(counts + 1.0) - math.log(float(counts.sum()) + len(counts))
    return float(-logprobs[tokens].sum())


def windows_of_documents(material: Material) -> Requests | None:
    """The held-out documents as rows of tokens."""
    documents = list(material.documents)
    rows: list[Row] = []
    for first in range(0, len(documents), ENCODE_BATCH):
        batch = documents[first : first + ENCODE_BATCH]
        for document, tokens in zip(batch, material.encoder.encode([d.text for d in batch]), strict=True):
            cut = windows(tokens.tolist(), material.start_id, material.context)
            rows += [Row(row, document.language, source=document.source) for row in cut]
    return Requests(rows=rows, models="current and base" if material.continues_base else "current") if rows else None


def score(material: Material, requests: Requests, outputs: Outputs, base: Outputs | None) -> Score:
    """heldout/bits_per_byte, _uniform, _unigram and heldout/perplexity, over all text and by language (_en, _zh);
    heldout/bits_per_byte_source_<name> where there are several sources; heldout/evaluated_bytes,
    heldout/evaluated_tokens; retention/bits_per_byte and that of the base, _before."""
    sizes = dict.fromkeys(material.languages, 0)  # bytes
    for document in material.documents:
        sizes[document.language] += len(document.text.encode())
    nats, counts = dict.fromkeys(sizes, 0.0), dict.fromkeys(sizes, 0)
    unigram = dict.fromkeys(sizes, 0.0)
    no_counts = np.zeros(material.encoder.vocabulary)  # of a language without training text: all tokens alike
    for row, logprobs in zip(requests.rows, outputs.logprobs, strict=True):
        nats[row.language] -= float(np.sum(logprobs, dtype=np.float64))
        counts[row.language] += len(row.tokens) - 1
        if material.unigram_counts is not None:
            token_counts = material.unigram_counts.get(row.language, no_counts)
            unigram[row.language] += unigram_nats(np.asarray(row.tokens[1:]), token_counts)
    uniform = {language: math.log(material.encoder.vocabulary) * counts[language] for language in sizes}
    facts = _by_language("heldout/bits_per_byte", nats, sizes)
    facts |= _by_language("heldout/bits_per_byte_uniform", uniform, sizes)
    if material.unigram_counts is not None:
        facts |= _by_language("heldout/bits_per_byte_unigram", unigram, sizes)
    facts["heldout/perplexity"] = math.exp(sum(nats.values()) / sum(counts.values()))
    facts |= {f"heldout/perplexity_{n}": math.exp(nats[n] / counts[n]) for n in sizes if counts[n]}
    facts |= {"heldout/evaluated_bytes": sum(sizes.values()), "heldout/evaluated_tokens": sum(counts.values())}
    facts |= _by_source(material, requests, outputs)
    if base is not None:
        nats_before = -sum(float(np.sum(logprobs, dtype=np.float64)) for logprobs in base.logprobs)
        facts["retention/bits_per_byte"] = facts["heldout/bits_per_byte"]
        facts["retention/bits_per_byte_before"] = bits_per_byte(nats_before, sum(sizes.values()))
    return Score(facts)


def _by_language(name: str, nats: dict[str, float], sizes: dict[str, int]) -> dict[str, float | int | str]:
    """The figure over all text (all bits ÷ all bytes) and for each language."""
    facts: dict[str, float | int | str] = {name: bits_per_byte(sum(nats.values()), sum(sizes.values()))}
    return facts | {f"{name}_{language}": bits_per_byte(nats[language], sizes[language]) for language in sizes}


def _by_source(material: Material, requests: Requests, outputs: Outputs) -> dict[str, float | int | str]:
    """Bits per byte of each source of the held-out text; nothing of a single one."""
    sizes, nats = Counter[str](), dict[str, float]()
    for document in material.documents:
        sizes[document.source] += len(document.text.encode())
    for row, logprobs in zip(requests.rows, outputs.logprobs, strict=True):
        nats[row.source] = nats.get(row.source, 0.0) - float(np.sum(logprobs, dtype=np.float64))
    if len(sizes) == 1:
        return {}
    return {f"{BY_SOURCE}{source}": bits_per_byte(nats[source], sizes[source]) for source in sorted(nats)}
