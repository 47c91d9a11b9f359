"""Quality by model: how much a document resembles reference text, against random text of the corpus.

    reference texts, random texts of a language ──the first of each──► logistic regression on character n-grams
                                               └──the others──► AUC, and the scores' percentile that is the threshold

A classifier of reference against random text, as GPT-3's filter (Brown et al. 2020, appendix A) and CCNet's after it.
A document is scored by its beginning. One model a language: scores of two languages are not comparable, ranks are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import safe_open
from safetensors.numpy import save_file

from pipelines.data.corpus.checks import Candidates, CheckResult
from pipelines.data.corpus.documents import QUALITY
from pipelines.data.corpus.filters.verdict import Verdict
from pipelines.data.text.ngram_classifier import NUM_BUCKETS, TfIdfMatrix, logistic_regression, ngram_buckets

LOW_QUALITY = "low_quality"  # the reason
AREA = "quality/"  # of its counts and facts
OPTION = "quality_model.keep_fraction"
SCORED_CHARACTERS = 1000  # of the beginning of a document
TRAINED_DOCUMENTS = 1500  # of each side and language at most, and TRAINED_SHARE of them: the others are measured
TRAINED_SHARE = 0.5
MIN_DOCUMENTS = 50  # of each side: of fewer, no model is trained, and no document of the language is dropped
METADATA = "rayse.quality"  # the key in the file's metadata
DIGITS = 4  # of scores: what follows may differ between machines


@dataclass(frozen=True)
class LanguageModel:
    """The classifier of one language.

    weights: float32 [buckets], times idf; threshold: the lowest score that is kept, -inf if all are."""

    weights: np.ndarray
    bias: float
    threshold: float = -np.inf

    def score(self, text: str) -> float:
        """Log-odds, in nats, that a text is reference text and not random, if both were equally many.

        No probability: those of most texts are so near to 0 or 1 that rounding would make them equal."""
        buckets = ngram_buckets(scored_part(text), num_buckets=len(self.weights))
        used = buckets[buckets < len(self.weights)]
        total = self._weights[used].sum() / np.sqrt(max(len(used), 1))
        return round(float(total) + self.bias, DIGITS)

    @cached_property
    def _weights(self) -> np.ndarray:
        return self.weights.astype(np.float64)


@dataclass(frozen=True)
class QualityModel:
    """The check of documents against the models, by language. Documents of the sources `good` are kept."""

    models: dict[str, LanguageModel] = field(default_factory=dict)
    good: frozenset[str] = frozenset()

    def apply(self, batch: Candidates) -> CheckResult:
        """Drops the documents that score below their language's threshold; adds the column `quality`."""
        scores: list[float | None] = [None] * len(batch.documents)
        result = CheckResult()
        for position in batch.kept:
            document = batch.documents[position]
            model = self.models.get(document.language)
            if model is None:
                continue
            score = scores[position] = model.score(document.text)
            if batch.source in self.good:
                continue
            result.counts[f"{AREA}scored_documents_{document.language}"] += 1
            if score < model.threshold:
                result.counts[f"{AREA}low_documents_{document.language}"] += 1
                message = f"{score:.{DIGITS}f} < {model.threshold:.{DIGITS}f} ({OPTION})"
                result.dropped[position] = Verdict(False, LOW_QUALITY, message=message)
        result.columns[QUALITY.name] = pa.array(scores, QUALITY.type)
        return result

    @classmethod
    def open(cls, file: Path, good: Sequence[str]) -> QualityModel:
        """Opens the file of `save`."""
        with safe_open(file, "numpy") as tensors:
            numbers = json.loads(tensors.metadata()[METADATA])["models"]
            models = {
                name: LanguageModel(
                    tensors.get_tensor(name), of["bias"], -np.inf if of["threshold"] is None else of["threshold"]
                )
                for name, of in sorted(numbers.items())
            }
        return cls(models, frozenset(good))

    def save(self, file: Path, facts: Mapping[str, Any]) -> None:
        """Writes one file of weights, with the other numbers and facts of the training in its metadata."""
        numbers = {
            name: {"bias": m.bias, "threshold": m.threshold if np.isfinite(m.threshold) else None}
            for name, m in sorted(self.models.items())
        }
        metadata = {METADATA: json.dumps({"models": numbers, "facts": facts})}
        save_file({name: model.weights for name, model in sorted(self.models.items())}, file, metadata)


def facts_of(file: Path) -> dict[str, Any]:
    """The facts of the training in a file of QualityModel.save."""
    with safe_open(file, "numpy") as tensors:
        return json.loads(tensors.metadata()[METADATA])["facts"]


@dataclass(frozen=True)
class Measured:
    """A model, and what it does on texts that it was not trained on."""

    model: LanguageModel
    auc: float  # probability that a reference text scores higher than a random one
    num_trained: int  # texts of both sides
    num_measured: int


def train(reference: Sequence[str], random: Sequence[str], keep_fraction: float) -> Measured | None:
    """Trains the model of a language; None for fewer than MIN_DOCUMENTS of either.

    Both in a random order: the first are trained on, the others measured. keep_fraction: of random text, what scores
    above the threshold; 1: there is none, for unseen text may score lower than all that is measured."""
    if min(len(reference), len(random)) < MIN_DOCUMENTS:
        return None
    fit = _fit(reference, random)
    return fit.measured(sample=fit.other_scores, keep_fraction=keep_fraction)


def train_rated(good: Sequence[str], other: Sequence[str], keep_fraction: float) -> Measured | None:
    """As `train`, on random text that was rated: the threshold is a percentile of both sides, which are its parts."""
    if min(len(good), len(other)) < MIN_DOCUMENTS:
        return None
    fit = _fit(good, other)
    return fit.measured(sample=np.concatenate([fit.good_scores, fit.other_scores]), keep_fraction=keep_fraction)


@dataclass(frozen=True)
class _Fit:
    """A model without a threshold, and the scores that it gives to texts of each side that it was not trained on."""

    model: LanguageModel
    num_trained: int
    good_scores: np.ndarray
    other_scores: np.ndarray

    def measured(self, *, sample: np.ndarray, keep_fraction: float) -> Measured:
        """The model with the threshold above which keep_fraction of a sample's scores are."""
        threshold = round(float(np.quantile(sample, 1 - keep_fraction)), DIGITS) if keep_fraction < 1 else -np.inf
        auc = area_under_curve(self.good_scores, self.other_scores)
        num_measured = len(self.good_scores) + len(self.other_scores)
        return Measured(replace(self.model, threshold=threshold), auc, self.num_trained, num_measured)


def _fit(reference: Sequence[str], random: Sequence[str]) -> _Fit:
    """Trains a model on the first texts of both sides, and scores the others."""
    trained = [min(TRAINED_DOCUMENTS, int(TRAINED_SHARE * len(texts))) for texts in (reference, random)]
    buckets = [ngram_buckets(scored_part(text)) for text in (*reference[: trained[0]], *random[: trained[1]])]
    matrix = TfIdfMatrix([row[row < NUM_BUCKETS] for row in buckets], NUM_BUCKETS)
    positive = np.arange(sum(trained)) < trained[0]
    sample_weight = np.where(positive, 0.5 / trained[0], 0.5 / trained[1])
    weights, bias = logistic_regression(matrix, positive, sample_weight)
    model = LanguageModel((weights * matrix.idf).astype(np.float32), float(np.float32(bias)))
    good, others = (
        np.array([model.score(text) for text in texts[number:]])
        for texts, number in zip((reference, random), trained, strict=True)
    )
    return _Fit(model, sum(trained), good, others)


def scored_part(text: str) -> str:
    """The beginning of a text, without runs of blank space, as it is trained on and scored.

    >>> scored_part("One \\n\\n two")
    'One two'
    """
    return " ".join(text[: 2 * SCORED_CHARACTERS].split())[:SCORED_CHARACTERS]


def area_under_curve(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve: the fraction of pairs in which the positive one scores higher; half of the equal ones.

    >>> area_under_curve(np.array([0.9, 0.4]), np.array([0.4, 0.1]))
    0.875
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))
