"""Figures of a report: the readable name, unit and format of each fact, for the terminal table and for report.html.

    FIGURES: kind of artifact -> its figures, the most important first
    headlines("model", facts) -> ["bits per byte 2.00 (en), 2.65 (zh)", "loss 2.31 nats", …]

A figure combines the facts that share its key: KEY_en and KEY_zh (by language), KEY_before (of the model before),
KEY_low (lower bound of the 95% confidence interval).
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.store.facts import Facts, reasons_not_used

LANGUAGES = ("en", "zh")
MAX_FIGURES = 4  # per stage; report.html and --json have all facts
MAX_REASONS = 3  # why rows were not used, the most frequent ones
SEPARATOR = " · "


@dataclass(frozen=True)
class Figure:
    """How a fact is displayed."""

    key: str
    name: str
    spec: str = ",.0f"  # format specification of the number
    unit: str = ""
    scale: float = 1.0  # factor from the fact to the unit: 1e-6 for MB
    by_language: bool = False  # whether KEY_en and KEY_zh are displayed instead of KEY

    def number(self, value: float | int | str) -> str:
        """The number without its unit."""
        return value if isinstance(value, str) else f"{value * self.scale:{self.spec}}"

    def value(self, value: float | int | str) -> str:
        """The number with its unit."""
        return f"{self.number(value)} {self.unit}".rstrip()

    def text(self, facts: Facts) -> str | None:
        """The figure's name and value, such as `win rate 51.7% (≥ 50.9%)`; None if there is no such fact."""
        languages = [language for language in LANGUAGES if self.by_language and f"{self.key}_{language}" in facts]
        if languages:
            values = [f"{self.value(facts[f'{self.key}_{language}'])} ({language})" for language in languages]
            return f"{self.name} {', '.join(values)}"
        if self.key not in facts:
            return None
        text = self.value(facts[self.key])
        if f"{self.key}_before" in facts:
            text = f"{self.number(facts[f'{self.key}_before'])} → {text}"
        if f"{self.key}_low" in facts:
            text += f" (≥ {self.value(facts[f'{self.key}_low'])})"
        return f"{self.name} {text}"


LOSS = Figure("train/loss_nats", "loss", ".2f", "nats")
TRAINING_SPEED = Figure("train/tokens_per_s", "training speed", unit="tokens/s")
PARAMETERS = Figure("train/parameters", "parameters", ".1f", "M", scale=1e-6)
MFU = Figure("train/mfu", "model FLOPs utilisation", ".0%")
PLANNED = (
    Figure("plan/memory_error", "error of the planned memory", "+.0%"),
    Figure("plan/time_error", "error of the planned time", "+.0%"),
)
ACCURACY = Figure("heldout/accuracy", "accuracy", ".1%")
DUPLICATES = "duplicates dropped"

FIGURES: dict[str, tuple[Figure, ...]] = {
    "corpus": (
        Figure("documents/read", "documents read"),
        Figure("documents/kept", "documents kept"),
        Figure("documents/held_out", "held out"),
        Figure("corpus/documents_per_s", "cleaning speed", unit="documents/s"),
    ),
    "images": (
        Figure("images/train", "training images"),
        Figure("images/held_out", "held out"),
        Figure("images/augmented", "augmented copies"),
        Figure("images/rows_per_s", "reading speed", unit="images/s"),
    ),
    "tokenizer": (
        Figure("text/bytes_per_token", "bytes per token", ".2f", by_language=True),
        Figure("tokenizer/vocabulary", "vocabulary", unit="tokens"),
    ),
    "tokens": (
        Figure("tokens/train", "training tokens"),
        Figure("rows/train", "rows"),
        Figure("documents/train", "documents"),
        Figure("tokens/held_out", "held-out tokens"),
        Figure("tokens/shards", "files of rows"),
    ),
    "augmented": (
        Figure("augment/kept", "rows written"),
        Figure("augment/dropped", "answers dropped"),
        Figure("augment/requests", "requests"),
        Figure("augment/reply_tokens", "written", unit="tokens"),
        Figure("augment/cost", "cost", ",.2f"),
    ),
    "ai_feedback": (
        Figure("ai_feedback/kept", "pairs labelled"),
        Figure("ai_feedback/agreement", "agreement in both orders", ".0%"),
        Figure("ai_feedback/first_place", "verdicts for the first place", ".0%"),
        Figure("ai_feedback/requests", "requests"),
        Figure("ai_feedback/cost", "cost", ",.2f"),
    ),
    "conversations": (
        Figure("conversations/train", "training conversations"),
        Figure("conversations/held_out", "held out"),
        Figure("conversations/dropped_duplicate", DUPLICATES),
        Figure("turns/cut", "turns cut"),
        Figure("turns/cut_before", "turns cut before the user's first"),
    ),
    "preferences": (
        Figure("pairs/train", "training pairs"),
        Figure("pairs/held_out", "held out"),
        Figure("pairs/dropped_duplicate", DUPLICATES),
    ),
    "model": (
        Figure("model/bytes", "model size", ".1f", "MB", scale=1e-6),
        Figure("engine/tokens_per_s", "generation", unit="tokens/s"),
        Figure("heldout/bits_per_byte_change", "bits per byte change", "+.2%"),
        Figure("heldout/win_rate", "win rate", ".1%"),
        Figure("heldout/exact_match", "exact match", ".1%"),
        ACCURACY,
        Figure("retention/bits_per_byte", "general text", ".3f", "bits per byte"),
        Figure("heldout/kl_nats", "KL", ".2f", "nats"),
        Figure("heldout/declined_safe", "harmless declined", ".1%"),
        Figure("heldout/declined_unsafe", "unsafe declined", ".1%"),
        Figure("heldout/bits_per_byte", "bits per byte", ".2f", by_language=True),
        LOSS,
        TRAINING_SPEED,
        PARAMETERS,
        Figure("rollout/tokens_per_s", "rollout speed", unit="tokens/s"),
        Figure("heldout/answer_f1", "answer F1", ".1%"),
        Figure("heldout/exact_match_baseline", "exact-match baseline", ".1%"),
        Figure("heldout/reply_tokens", "reply length", ".1f", "tokens"),
        Figure("heldout/distinct_1", "distinct unigrams", ".1%"),
        Figure("heldout/distinct_2", "distinct bigrams", ".1%"),
        Figure("heldout/perplexity", "perplexity", ",.1f"),
        Figure("heldout/bits_per_byte_uniform", "bits per byte, uniform baseline", ".2f"),
        Figure("heldout/bits_per_byte_unigram", "bits per byte, unigram baseline", ".2f"),
        Figure("train/tokens_per_s_bare", "bare training speed", unit="tokens/s"),
        Figure("publish/logprob_gap", "log-probability gap", ".1e", "nats"),
        MFU,
        *PLANNED,
    ),
    "reward_model": (
        ACCURACY,
        Figure("heldout/accuracy_length_only", "length baseline", ".1%"),
        LOSS,
        Figure("heldout/accuracy_bag_of_characters", "bag-of-characters baseline", ".1%"),
        Figure("heldout/calibration_error", "calibration error", ".3f"),
        TRAINING_SPEED,
        PARAMETERS,
        MFU,
        *PLANNED,
    ),
    "guard": (
        Figure("guard/precision", "precision", ".0%", by_language=True),
        Figure("guard/recall", "recall", ".0%", by_language=True),
        Figure("guard/check_ms", "check", ".2f", "ms"),
    ),
    "knowledge": (
        Figure("documents/used", "documents", ",.0f"),
        Figure("passages/written", "passages", ",.0f"),
        Figure("passages/embedded", "passages with embeddings", ",.0f"),
    ),
    "trial": (
        Figure("latency/first_token_s_p50", "first token", ",.0f", "ms", scale=1e3),
        Figure("guard/declined_unsafe", "unsafe declined", ".0%"),
        Figure("guard/declined_safe", "harmless declined", ".0%"),
        Figure("latency/reply_s_p50", "reply", ",.0f", "ms", scale=1e3),
        Figure("served/exact_match", "exact match", ".1%"),
        Figure("start/ready_s", "ready after", ",.0f", "s"),
        Figure("latency/first_request_ratio", "first request", ".1f", "times the tenth"),
    ),
    # Of every kind; the table has columns for them.
    "cost": (
        Figure("run/wall_s", "time", ",.1f", "s"),
        Figure("run/peak_memory_bytes", "peak memory", ".1f", "GiB", scale=2**-30),
        Figure("driver/peak_memory_bytes", "peak memory of the driver", ".1f", "GiB", scale=2**-30),
        Figure("run/attempts", "attempts"),
        Figure("run/evaluate_wall_s", "evaluation time", ",.1f", "s"),
        Figure("run/evaluate_peak_memory_bytes", "evaluation peak memory", ".1f", "GiB", scale=2**-30),
        Figure("plan/evaluate_memory_error", "error of the evaluation's planned memory", "+.0%"),
        Figure("plan/evaluate_time_error", "error of the evaluation's planned time", "+.0%"),
    ),
    # Series that are plotted.
    "curve": (
        Figure("train/learning_rate", "learning rate", ".2e"),
        Figure("train/gradient_norm", "gradient norm before clipping", ".3g"),
        Figure("reward/mean", "mean reward", ".3f"),
        Figure("rollout/kl_nats", "KL from the reference", ".3f", "nats"),
        Figure("rollout/entropy_nats", "entropy", ".3f", "nats"),
        Figure("rollout/reply_tokens", "reply length", ".1f", "tokens"),
    ),
}  # fmt: skip
BY_KEY = {figure.key: figure for figures in FIGURES.values() for figure in figures}
SUFFIXES = {"_en": "en", "_zh": "zh", "_before": "before", "_low": "at least"}  # of a key, and what they add to a name


def headlines(kind: str, facts: Facts, width: int | None = None) -> list[str]:
    """The most important figures of an artifact, at most MAX_FIGURES, and what it set aside of the user's rows.

    width: the maximum number of characters of all, joined by SEPARATOR; figures that do not fit are left out, but never
    the first, nor what was set aside."""
    texts: list[str] = []
    for figure in FIGURES.get(kind, ()):
        text = figure.text(facts)
        if text is None or (texts and width is not None and len(SEPARATOR.join([*texts, text])) > width):
            continue
        texts.append(text)
        if len(texts) == MAX_FIGURES:
            break
    if not_used := reasons_not_used(facts, MAX_REASONS):
        texts.append(f"rows not used: {not_used}")
    return texts


def name_and_value(key: str, value: float | int | str) -> tuple[str, str]:
    """The readable name of a fact and its value with its unit; a fact without a Figure has its key as name."""
    figure, qualifier = _lookup(key)
    if figure is None:
        return key, plain_number(value)
    return f"{figure.name} ({qualifier})" if qualifier else figure.name, figure.value(value)


def caption(key: str) -> str:
    """The readable name of a series with its unit: `loss, nats`; a series without a Figure has its key as name."""
    figure, qualifier = _lookup(key)
    if figure is None:
        return key
    return ", ".join(filter(None, [figure.name, figure.unit, qualifier]))


def _lookup(key: str) -> tuple[Figure | None, str]:
    """The Figure of a key, and what the key's suffix adds to its name."""
    if key in BY_KEY:
        return BY_KEY[key], ""
    for suffix, qualifier in SUFFIXES.items():
        base = key.removesuffix(suffix)
        if base != key and base in BY_KEY:
            return BY_KEY[base], qualifier
    return None, ""


def plain_number(value: float | int | str) -> str:
    """A number of unknown unit: 1,234,567; 5,100; 3.142; 0.1235."""
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) >= 1:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
