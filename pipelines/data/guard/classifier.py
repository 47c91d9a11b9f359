"""The guard: whether a text is an unsafe request or an unsafe reply. Rules first, then a linear classifier.

    text ──canonical──► n-grams of 1 to 4 characters ──hash──► weights ──each window: sum ÷ √n-grams──► max ≥ threshold?
              └───────► rules (rules.py) ──► match?

The score of a text is that of its worst window or sentence, so that one unsafe sentence is not averaged away among
many others. Text that is still being generated is best checked at the end of each sentence: half of one may score
worse than the whole. Needs numpy only, and 0.1 ms a call for a question. training.py trains it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pipelines.data.dialogues.tasks.refusal import REFUSALS
from pipelines.data.guard.rules import RULES, RULES_VERSION, Rule, first_match
from pipelines.data.text.languages import CHINESE_CHARACTER, language_of
from pipelines.data.text.ngram_classifier import NGRAM_SIZES, ngram_buckets
from pipelines.errors import UserError

WEIGHTS_FILE, CONFIG_FILE = "guard.safetensors", "guard.json"
WINDOW, STRIDE = 80, 20  # characters: the length of a window, about a sentence, and the distance between windows

# Invisible characters besides Unicode's format characters (Cf: zero-width, soft hyphens, direction marks, tags):
# joiners, fillers, variation selectors.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_HAN = CHINESE_CHARACTER.pattern
SENTENCE_END = re.compile("[.?!;。]+")
SEPARATED_HAN = re.compile(rf"(?<={_HAN})[\s._*·•|/\\-]+(?={_HAN})")  # 炸 弹, 炸-弹


@dataclass(frozen=True)
class Verdict:
    """The guard's decision on a text.

    reason: "rule <name>" or "classifier" where the text is declined, else "". score: probability by the classifier
    that the text is unsafe; 1 where a rule matched."""

    allowed: bool
    reason: str
    score: float


def canonical_text(text: str) -> str:
    """The form of a text that rules and classifier see: NFKC, lower case, no invisible characters, single spaces.

    >>> canonical_text("Ｂｕｉｌｄ  a B\\u200bomb"), canonical_text("制造 炸 弹")
    ('build a bomb', '制造炸弹')
    """
    if not text.isascii():
        text = INVISIBLE.sub("", "".join(c for c in text if unicodedata.category(c) != "Cf"))
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).replace("\u2019", "'")
        text = SEPARATED_HAN.sub("", text)
    return " ".join(text.casefold().split())


def windows(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of the spans of a canonical text that are scored, as columns of `ngram_buckets`. int64 [N] each.

    They are windows every STRIDE characters, and every sentence that fits into a window, since harmless sentences
    beside an unsafe one would lower its window's score."""
    length = len(text) + 2
    starts = np.arange(0, max(length - WINDOW, 0) + STRIDE, STRIDE)
    edges = np.array([0, *(match.end() + 1 for match in SENTENCE_END.finditer(text)), length])
    fits = (np.diff(edges) <= WINDOW) & (np.diff(edges) > 1)
    return np.append(starts, edges[:-1][fits]), np.append(np.minimum(starts + WINDOW, length), edges[1:][fits])


@dataclass(frozen=True)
class Guard:
    """Rules, and a linear classifier on hashed character n-grams.

    weights: float32 [buckets]; bias: added to each window's sum; thresholds: lowest score that is declined, by
    language; sizes: characters of the n-grams."""

    weights: np.ndarray
    bias: float
    thresholds: dict[str, float]
    sizes: tuple[int, ...] = NGRAM_SIZES
    rules: tuple[Rule, ...] = RULES
    rules_version: int = RULES_VERSION

    @classmethod
    def open(cls, folder: Path) -> Guard:
        """Opens the folder of a guard. Raises UserError if its files are missing or cannot be read."""
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS_FILE)["weights"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"guard {folder}: cannot be read ({type(error).__name__}: {error}); expected {CONFIG_FILE} and "
                f"{WEIGHTS_FILE} as the stage guard writes them"
            ) from None
        rules = tuple(Rule(rule["name"], rule["pattern"]) for rule in config["rules"])
        thresholds = {language: float(threshold) for language, threshold in config["thresholds"].items()}
        return cls(weights, config["bias"], thresholds, tuple(config["sizes"]), rules, config["rules_version"])

    def save(self, folder: Path) -> None:
        """Writes guard.safetensors and guard.json; the same guard gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": np.ascontiguousarray(self.weights, np.float32)}, folder / WEIGHTS_FILE)
        config = {
            "sizes": list(self.sizes),
            "bias": self.bias,
            "thresholds": self.thresholds,
            "rules_version": self.rules_version,
            "rules": [{"name": rule.name, "pattern": rule.pattern} for rule in self.rules],
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def check(self, text: str, language: str | None = None) -> Verdict:
        """Whether a text may pass.

        language: en or zh, whose threshold applies; detected from the text by default. The highest threshold applies
        to a language without one. Rules of both languages apply to every text."""
        canonical = canonical_text(text)
        if not canonical:
            return Verdict(True, "", 0.0)
        rule = first_match(self.rules, canonical)
        if rule is not None:
            return Verdict(False, f"rule {rule.name}", 1.0)
        score = self.score(canonical)
        threshold = self.thresholds.get(language or language_of(canonical)) or max(self.thresholds.values())
        return Verdict(True, "", score) if score < threshold else Verdict(False, "classifier", score)

    def score(self, text: str) -> float:
        """Probability by the classifier that a canonical text is unsafe, 0 to 1: that of its worst window."""
        return float(1 / (1 + np.exp(-(self._window_sums(text).max() + self.bias))))

    def unsafe_fraction(self, text: str, language: str) -> float:
        """Fraction of the windows and sentences of a canonical text that score as high as what is declined."""
        threshold = self.thresholds.get(language) or max(self.thresholds.values())
        scores = 1 / (1 + np.exp(-(self._window_sums(text) + self.bias)))
        return float((scores >= threshold).mean())

    def refusal(self, language: str | None) -> str:
        """The refusal in the user's language, English by default, that replaces what is declined."""
        return REFUSALS.get(language or "en", REFUSALS["en"])[0]

    def _window_sums(self, text: str) -> np.ndarray:
        """The sum of weights ÷ √n-grams of each of the windows of a canonical text."""
        no_bucket = len(self.weights)
        buckets_ST = ngram_buckets(text, self.sizes, no_bucket)
        sums_T = np.concatenate([[0.0], np.cumsum(self._padded_weights[buckets_ST].sum(axis=0))])
        counts_T = np.concatenate([[0], np.cumsum((buckets_ST < no_bucket).sum(axis=0))])
        starts, ends = windows(text)
        counts = np.maximum(counts_T[ends] - counts_T[starts], 1)
        return (sums_T[ends] - sums_T[starts]) / np.sqrt(counts)

    @cached_property
    def _padded_weights(self) -> np.ndarray:
        """The weights, and a zero for positions without an n-gram. float64 [buckets + 1]."""
        return np.append(np.asarray(self.weights, np.float64), 0.0)
