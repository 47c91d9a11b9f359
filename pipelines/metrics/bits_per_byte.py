"""Bits a byte: how well a model predicts text it has not seen, comparable between tokenizers; and perplexity.

    text ──tokens──► windows [start t₁ … tₙ] of the context's length, no overlap ──► Σ nats ÷ ln 2 ÷ UTF-8 bytes

Every token of the text is predicted exactly once, the end token not at all, so a tokenizer gains nothing by cutting
coarsely (Gao et al. 2020, The Pile, §3.1). Beside the model stand two that know nothing of order: uniform over the
vocabulary, and one unigram model a language with add-one smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.metrics.metric import Answers, Material, Requests, Row, Score

ENCODE_BATCH = 256  # texts


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


class BitsPerByte:
    """heldout/bits_per_byte, _uniform, _unigram and heldout/perplexity, over all text and by language (_en, _zh)."""

    def requests(self, material: Material) -> Requests | None:
        documents = list(material.documents)
        rows: list[Row] = []
        for first in range(0, len(documents), ENCODE_BATCH):
            batch = documents[first : first + ENCODE_BATCH]
            for document, tokens in zip(batch, material.encoder.encode([d.text for d in batch]), strict=True):
                cut = windows(tokens.tolist(), material.start_id, material.context)
                rows += [Row(row, about=document.language) for row in cut]
        return Requests(rows=rows) if rows else None

    def score(self, material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> Score:
        sizes = dict.fromkeys(material.languages, 0)
        for document in material.documents:
            sizes[document.language] += len(document.text.encode())
        nats, counts = dict.fromkeys(sizes, 0.0), dict.fromkeys(sizes, 0)
        unigram = dict.fromkeys(sizes, 0.0)
        nothing = np.zeros(material.encoder.vocabulary)
        for row, logprobs in zip(requests.rows, answers.logprobs, strict=True):
            nats[row.about] -= float(np.sum(logprobs, dtype=np.float64))
            counts[row.about] += len(row.tokens) - 1
            if material.unigram is not None:  # a language that was never trained on: all tokens alike
                unigram[row.about] += unigram_nats(np.asarray(row.tokens[1:]), material.unigram.get(row.about, nothing))
        uniform = {language: math.log(material.encoder.vocabulary) * counts[language] for language in sizes}
        facts = _by_language("heldout/bits_per_byte", nats, sizes)
        facts |= _by_language("heldout/bits_per_byte_uniform", uniform, sizes)
        if material.unigram is not None:
            facts |= _by_language("heldout/bits_per_byte_unigram", unigram, sizes)
        facts["heldout/perplexity"] = math.exp(sum(nats.values()) / sum(counts.values()))
        facts |= {f"heldout/perplexity_{n}": math.exp(nats[n] / counts[n]) for n in sizes if counts[n]}
        facts |= {"heldout/judged_bytes": sum(sizes.values()), "heldout/judged_tokens": sum(counts.values())}
        return Score(facts)


def _by_language(name: str, nats: dict[str, float], sizes: dict[str, int]) -> dict[str, float | int | str]:
    """The figure over all text (all bits ÷ all bytes) and for each language."""
    facts: dict[str, float | int | str] = {name: bits_per_byte(sum(nats.values()), sum(sizes.values()))}
    return facts | {f"{name}_{language}": bits_per_byte(nats[language], sizes[language]) for language in sizes}


METRIC = BitsPerByte()
