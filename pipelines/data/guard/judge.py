"""The first guard: whether a text asks for, or gives, what must be declined. Rules, then a linear model.

    text ──plain──► n-grams of 1 to 4 characters ──hash──► weights ──each window: sum ÷ √n-grams──► worst ≥ threshold?
              └───► rules (guard_rules.py) ──► matches?

A text is judged by its worst sentence or window, so that one does not drown in a thousand others. What is being written
is best judged as its sentences end: half of one may sound worse than the whole. Needs numpy only, and 0.1 ms a call for
a question; learning it is guard_learning.py's.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pipelines.data.dialogues.tasks.refusal import REFUSALS
from pipelines.data.guard.rules import RULES, RULES_VERSION, Rule, first_match
from pipelines.data.text.languages import CHINESE_CHARACTER, language_of
from pipelines.errors import UserError

WEIGHTS, ABOUT = "guard.safetensors", "guard.json"
SIZES = (1, 2, 3, 4)  # characters of an n-gram
BUCKETS = 2**16  # of hashes; a few thousand short texts hold some 30,000 n-grams
WINDOW, STRIDE = 80, 20  # characters: about a sentence, and how far apart windows begin

# As invisible as Unicode's format characters (Cf: zero-width ones, soft hyphens, direction marks, tags): joiners,
# fillers, variation selectors.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_HAN = CHINESE_CHARACTER.pattern
SENTENCE_END = re.compile("[.?!;。]+")
APART = re.compile(rf"(?<={_HAN})[\s._*·•|/\\-]+(?={_HAN})")  # 炸 弹, 炸-弹


@dataclass(frozen=True)
class Verdict:
    """score: how unsafe, 0 to 1, by the model; 1 where a rule matched. reason: "" where the text is allowed."""

    allowed: bool
    reason: str
    score: float


def plain(text: str) -> str:
    """A text as the guard sees it: one form of each character, lower case, nothing invisible, single spaces.

    >>> plain("Ｂｕｉｌｄ  a B\\u200bomb"), plain("制造 炸 弹")
    ('build a bomb', '制造炸弹')
    """
    if not text.isascii():
        text = INVISIBLE.sub("", "".join(c for c in text if unicodedata.category(c) != "Cf"))
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).replace("\u2019", "'")
        text = APART.sub("", text)
    return " ".join(text.casefold().split())


def hashes(text: str, sizes: Sequence[int] = SIZES, buckets: int = BUCKETS) -> np.ndarray:
    """The bucket of every n-gram of a plain text with a space at both ends. int64 [S, T+2]: of each size, by where the
    n-gram ends; buckets (one past the last) where there is none yet."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), np.uint32).astype(np.uint64)
    found = np.full((len(sizes), len(codes)), buckets, np.int64)
    for row, size in enumerate(sizes):
        if len(codes) >= size:
            mixed = np.full(len(codes) - size + 1, size, np.uint64)
            for place in range(size):
                mixed = (mixed ^ codes[place : len(codes) - size + 1 + place]) * np.uint64(0x9E3779B97F4A7C15)
                mixed ^= mixed >> np.uint64(29)
            found[row, size - 1 :] = (mixed >> np.uint64(7)) % np.uint64(buckets)
    return found


def windows(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(begins, ends) of what is judged of a plain text, in columns of `hashes`: every window, and every sentence that
    fits into one, for harmless sentences around it may outweigh it."""
    length = len(text) + 2
    begins = np.arange(0, max(length - WINDOW, 0) + STRIDE, STRIDE)
    edges = np.array([0, *(found.end() + 1 for found in SENTENCE_END.finditer(text)), length])
    fit = (np.diff(edges) <= WINDOW) & (np.diff(edges) > 1)
    return np.append(begins, edges[:-1][fit]), np.append(np.minimum(begins + WINDOW, length), edges[1:][fit])


@dataclass(frozen=True)
class Guard:
    """Rules and a linear model on hashed n-grams.

    weights: float32 [buckets]; bias: what is added; thresholds: of the score, by language."""

    weights: np.ndarray
    bias: float
    thresholds: dict[str, float]
    sizes: tuple[int, ...] = SIZES
    rules: tuple[Rule, ...] = RULES
    rules_version: int = RULES_VERSION

    @classmethod
    def open(cls, folder: Path) -> Guard:
        """Opens a guard's folder. Raises UserError where it is none."""
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS)["weights"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"guard {folder}: cannot be read ({type(error).__name__}: {error}); expected {ABOUT} and {WEIGHTS} as "
                f"the stage guard writes them"
            ) from None
        rules = tuple(Rule(rule["name"], rule["pattern"]) for rule in about["rules"])
        thresholds = {name: float(value) for name, value in about["thresholds"].items()}
        return cls(weights, about["bias"], thresholds, tuple(about["sizes"]), rules, about["rules_version"])

    def save(self, folder: Path) -> None:
        """Writes guard.safetensors and guard.json: for the same guard the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": np.ascontiguousarray(self.weights, np.float32)}, folder / WEIGHTS)
        about = {
            "sizes": list(self.sizes),
            "bias": self.bias,
            "thresholds": self.thresholds,
            "rules_version": self.rules_version,
            "rules": [{"name": rule.name, "pattern": rule.pattern} for rule in self.rules],
        }
        (folder / ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def check(self, text: str, language: str | None = None) -> Verdict:
        """Whether a text may pass. language: en or zh, whose threshold counts; by default what the text looks like.

        Rules of both languages are tried, whatever the text's."""
        seen = plain(text)
        if not seen:
            return Verdict(True, "", 0.0)
        rule = first_match(self.rules, seen)
        if rule is not None:
            return Verdict(False, f"rule {rule.name}", 1.0)
        score = self.score(seen)
        most = self.thresholds.get(language or language_of(seen)) or max(self.thresholds.values())
        return Verdict(score < most, "" if score < most else "classifier", score)

    def score(self, seen: str) -> float:
        """What the model alone thinks of a plain text, 0 to 1: its worst window."""
        return float(1 / (1 + np.exp(-(self._worst(seen) + self.bias))))

    def refusal(self, language: str | None) -> str:
        """What is said instead, in the user's language."""
        return REFUSALS.get(language or "en", REFUSALS["en"])[0]

    def _worst(self, seen: str) -> float:
        found_ST = hashes(seen, self.sizes, len(self._padded) - 1)
        sums_T = np.concatenate([[0.0], np.cumsum(self._padded[found_ST].sum(axis=0))])
        counts_T = np.concatenate([[0], np.cumsum((found_ST < len(self._padded) - 1).sum(axis=0))])
        begins, ends = windows(seen)
        counts = np.maximum(counts_T[ends] - counts_T[begins], 1)
        return float(((sums_T[ends] - sums_T[begins]) / np.sqrt(counts)).max())

    @cached_property
    def _padded(self) -> np.ndarray:
        """The weights and a zero, for places without an n-gram. float64 [buckets + 1]."""
        return np.append(np.asarray(self.weights, np.float64), 0.0)
