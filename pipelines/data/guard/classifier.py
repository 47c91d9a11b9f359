"""The guard: whether a text is an unsafe request or an unsafe reply, by rules, a linear classifier and an encoder.

    text ──canonical──► words, kinds, pairs, n-grams ──hash──► weights ──each window: sum ÷ √n──► max ≥ threshold?
              ├───────► rules (rules.py) ──► match?                                           │ a request: not harmless
              └───────► segments of 320 characters ──► encoder (encoder.py) ──► both log-odds together ≥ threshold?

The score of a text is that of its worst window or sentence, so that one unsafe sentence is not averaged away among
many others. Text that is still being generated is best checked at the end of a sentence: half of one may score
worse than the whole. The words take 0.4 ms a call for a question; they alone decide on replies, and most requests
are harmless by them at once. training.py trains it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pipelines.data.dialogues.tasks.refusal import REFUSALS
from pipelines.data.guard import encoder
from pipelines.data.guard.disguises import readings
from pipelines.data.guard.rules import RULES, RULES_VERSION, Rule, first_match
from pipelines.data.guard.words import EDGE, SENTENCE_END, TOKEN, hashes
from pipelines.data.text.languages import language_of
from pipelines.data.text.ngram_classifier import ngram_buckets, sigmoid
from pipelines.errors import UserError

WEIGHTS_FILE, CONFIG_FILE = "guard.safetensors", "guard.json"
REQUESTS = "request_thresholds"  # the key of guards that have an encoder
# Raise it where a text's features change, or what is read by the encoder and how much it counts: weights of other
# features misread every text, and thresholds are of scores by both.
FEATURES_VERSION = 5
NUM_BUCKETS = 2**20  # of feature hashes: with fewer, features that no training text has share others' weights
WORD_PAIRS, KIND_PAIRS = 2, 3  # words, and kinds, before a word that it is paired with
KIND_ROWS = 1 + KIND_PAIRS + 1  # a kind, its pairs, the triple
NGRAM_SIZES = (4,)  # characters; shorter ones beside them tell English pairs apart less well
MAX_KIND_DISTANCE = 10  # tokens between kinds that are paired
WINDOW, STRIDE = 80, 20  # characters: the length of a window, about a sentence, and the distance between windows
# Length of a segment that the encoder reads, in characters; how many it reads of a text, those with the worst words;
# and the lowest probability by the words of one that it reads: by cross-validation 0.7% of the unsafe English pairs are
# below it, 0.1% of the Chinese ones, and 0.45 and 0.31 of the ordinary lines.
SEGMENT, MAX_SEGMENTS, SUSPECT_FROM = 320, 4, 0.12
# Of the encoder's log-odds, which are added to the words': they are larger (4.6 and 1.5 on the written pairs), and the
# words know the recipe's own conversations, of whose look-alikes more are declined with more of the encoder.
ENCODER_WEIGHT = 0.5


@dataclass(frozen=True)
class Verdict:
    """The guard's decision on a text.

    reason: "rule <name>" or "classifier" where the text is declined, else "". score: from 0 to 1, by the classifier, or
    by it and the encoder together; 1 where a rule matched."""

    allowed: bool
    reason: str
    score: float


def text_features(text: str, num_buckets: int = NUM_BUCKETS) -> tuple[np.ndarray, np.ndarray, int]:
    """The features of a canonical text: their hash buckets and the positions behind their last characters, int64
    [features] each, and the number of its words.

    Features are words (stems, or Chinese words or characters); pairs of a word, or the edge of a sentence, with one of
    the two before it within the sentence; the kinds of words that the thesaurus knows, alone, with each of the
    KIND_PAIRS kinds before, and with the two before together; and the n-grams of characters."""
    matches = list(TOKEN.finditer(text))
    hashed = [hashes(match.group()) for match in matches]
    words = np.array([EDGE, *(word for word, _ in hashed), EDGE], np.uint64)
    ends = np.array([0, *(match.end() for match in matches), len(text)], np.int64)
    is_word = words != EDGE
    mixed = _mixed(_before(words, WORD_PAIRS), words, np.arange(1 + WORD_PAIRS)) % np.uint64(num_buckets)
    exists = np.zeros(mixed.shape, bool)
    exists[0] = is_word
    exists[1, 1:] = is_word[1:] | is_word[:-1]
    exists[2, 2:] = is_word[1:-1]
    buckets, positions = [mixed[exists]], [np.broadcast_to(ends, mixed.shape)[exists]]
    places = np.array([number for number, (_, kind) in enumerate(hashed, 1) if kind is not None], np.int64)
    if len(places):
        kinds = np.array([kind for _, kind in hashed if kind is not None], np.uint64)
        of_kinds = _kind_buckets(kinds, places, num_buckets)
        buckets.append(of_kinds[of_kinds < num_buckets])
        positions.append(np.broadcast_to(ends[places], of_kinds.shape)[of_kinds < num_buckets])
    ngrams = ngram_buckets(text, NGRAM_SIZES, num_buckets)
    buckets.append(ngrams[ngrams < num_buckets])
    positions.append(np.minimum(np.nonzero(ngrams < num_buckets)[1], len(text)))
    return np.concatenate(buckets).astype(np.int64), np.concatenate(positions), int(is_word.sum())


def _kind_buckets(kinds: np.ndarray, places: np.ndarray, num_buckets: int) -> np.ndarray:
    """Buckets of kinds, alone, in pairs and in triples: int64 [KIND_ROWS, kinds]; num_buckets where there is none.

    kinds: hashes in the order of the text, uint64; places: the numbers of their tokens."""
    before = _before(kinds, KIND_PAIRS)
    first, second = np.minimum(before, kinds), np.maximum(before, kinds)  # in any order
    first[0], second[0] = 0, kinds
    buckets = np.full((KIND_ROWS, len(kinds)), num_buckets, np.int64)
    buckets[:-1] = _mixed(first, second, 100 + np.arange(1 + KIND_PAIRS)) % np.uint64(num_buckets)
    for distance in range(1, KIND_PAIRS + 1):
        near = places[distance:] - places[:-distance] <= MAX_KIND_DISTANCE
        buckets[distance, :distance] = num_buckets
        buckets[distance, distance:][~near] = num_buckets
    if len(kinds) > 2:
        pairs = _mixed(kinds[:-2], kinds[1:-1], np.array([200]))[0]
        triples = _mixed(pairs, kinds[2:], np.array([201]))[0] % np.uint64(num_buckets)
        buckets[-1, 2:] = np.where(places[2:] - places[:-2] <= MAX_KIND_DISTANCE, triples, num_buckets)
    return buckets


def _before(hashed: np.ndarray, most: int) -> np.ndarray:
    """The hash that stands so many places before each one, as many as the row's number: uint64 [1 + most, N].

    Zero where there is none, and in row 0, which is of each hash alone."""
    before = np.zeros((1 + most, len(hashed)), np.uint64)
    for distance in range(1, most + 1):
        before[distance, distance:] = hashed[:-distance]
    return before


def _mixed(first: np.ndarray, second: np.ndarray, salts: np.ndarray) -> np.ndarray:
    """Hashes of pairs of hashes, uint64 [salts, N]; the order counts."""
    salt = (salts.astype(np.uint64) << np.uint64(40))[:, None]
    mixed = (first * np.uint64(0x9E3779B97F4A7C15) ^ second ^ salt) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(29))


def windows(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of the spans of a canonical text that are scored, in characters. int64 [N] each.

    They are windows every STRIDE characters, and every sentence that fits into a window, since harmless sentences
    beside an unsafe one would lower its window's score."""
    length = len(text)
    edges = [0, *(match.end() for match in SENTENCE_END.finditer(text)), length]
    spans = [(start, min(start + WINDOW, length)) for start in range(0, max(length - WINDOW, 0) + STRIDE, STRIDE)]
    spans += [(start, end) for start, end in pairwise(edges) if 1 < end - start <= WINDOW]
    starts, ends = np.array(spans, np.int64).T
    return starts, ends


def segments(text: str) -> list[tuple[int, int]]:
    """(start, end) of the parts of a canonical text that the encoder reads: whole sentences, as many as fit into
    SEGMENT characters. Of a longer sentence they overlap by half, so that what is no longer than that is whole in one
    of them. At least one."""
    spans: list[tuple[int, int]] = []
    start = end = 0
    for edge in (*(match.end() for match in SENTENCE_END.finditer(text)), len(text)):
        if edge - start > SEGMENT and end > start:
            spans.append((start, end))
            start = end
        if edge - start > SEGMENT:
            begins = range(start, edge - SEGMENT // 2, SEGMENT // 2)
            spans += [(begin, min(begin + SEGMENT, edge)) for begin in begins]
            start = edge
        end = edge
    return [*spans, (start, end)] if end > start or not spans else spans


def by_rules(rules: Iterable[Rule], text: str) -> Verdict:
    """The verdict of rules on a text, however it is read (disguises.py)."""
    rule = next((match for reading in readings(text) if (match := first_match(rules, reading))), None)
    return Verdict(True, "", 0.0) if rule is None else Verdict(False, f"rule {rule.name}", 1.0)


@dataclass(frozen=True)
class Guard:
    """Rules, a linear classifier on hashed features of words and their kinds, and an encoder for requests.

    weights: float32 [buckets]; bias: added to each window's sum; thresholds: lowest score of a text by its words that
    is declined, by language; reply_thresholds: of a reply. A language without one, as in guards of versions that had
    none, has its replies declined by the threshold of texts. encoder: its file, read at the first request with
    suspect words, and request_thresholds: lowest score of a request by both; without a file requests are as other
    texts."""

    weights: np.ndarray
    bias: float
    thresholds: dict[str, float]
    reply_thresholds: dict[str, float] = field(default_factory=dict)
    rules: tuple[Rule, ...] = RULES
    rules_version: int = RULES_VERSION
    encoder: Path | None = None
    request_thresholds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Guard:
        """Opens the folder of a guard. Raises UserError if its files are missing, cannot be read, or are of a version
        whose features are others."""
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS_FILE)["weights"]
            version = config.get("features_version", 1)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"guard {folder}: cannot be read ({type(error).__name__}: {error}); expected {CONFIG_FILE} and "
                f"{WEIGHTS_FILE} as the stage guard writes them"
            ) from None
        if version != FEATURES_VERSION:
            raise UserError(
                f"guard {folder}: its features are of version {version}, expected {FEATURES_VERSION}: another version "
                f"of this program made it, and its weights would misread every text. Run the recipe again, which makes "
                f"the guard (and a trial with it) anew, or serve the model with --no-guard"
            )
        rules = tuple(Rule(rule["name"], rule["pattern"]) for rule in config["rules"])
        thresholds, reply_thresholds, request_thresholds = (
            {language: float(threshold) for language, threshold in by_language.items()}
            for by_language in (config["thresholds"], config.get("reply_thresholds", {}), config.get(REQUESTS, {}))
        )
        file = folder / encoder.FILE if request_thresholds else None
        if file is not None and not file.is_file():
            raise UserError(f"guard {folder}: its file {encoder.FILE} is missing; run the recipe again, which makes it")
        return cls(
            weights, config["bias"], thresholds, reply_thresholds, rules, config["rules_version"], file,
            request_thresholds,
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Writes guard.safetensors, guard.json and the encoder's file; the same guard gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / encoder.FILE
        if self.encoder is not None and self.encoder != file:
            shutil.copyfile(self.encoder, file)
        save_file({"weights": np.ascontiguousarray(self.weights, np.float32)}, folder / WEIGHTS_FILE)
        config = {
            "features_version": FEATURES_VERSION,
            "bias": self.bias,
            "thresholds": self.thresholds,
            "reply_thresholds": self.reply_thresholds,
            **({REQUESTS: self.request_thresholds} if self.encoder is not None else {}),
            "rules_version": self.rules_version,
            "rules": [{"name": rule.name, "pattern": rule.pattern} for rule in self.rules],
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def check(self, text: str, language: str | None = None) -> Verdict:
        """Whether a request may pass, however it is read (disguises.py).

        language: en or zh, whose threshold applies; detected from the text by default. The highest threshold applies
        to a language without one. Rules of both languages apply to every text. The score is that of the worst reading,
        or of the first one that is declined."""
        thresholds = self.thresholds if self.encoder is None else self.request_thresholds
        return self._check(text, language, thresholds, self.encoder)

    def check_reply(self, text: str, language: str | None = None) -> Verdict:
        """Whether a reply, or a part of one, may pass: the same with the thresholds of replies."""
        return self._check(text, language, self.thresholds | self.reply_thresholds)

    def _check(
        self, text: str, language: str | None, thresholds: dict[str, float], file: Path | None = None
    ) -> Verdict:
        """Whether a text may pass by these thresholds, however it is read. file: of the encoder, if it is used."""
        worst = Verdict(True, "", 0.0)
        for reading in readings(text):
            verdict = self._check_reading(reading, language or language_of(reading), thresholds, file)
            if not verdict.allowed:
                return verdict
            worst = max(worst, verdict, key=lambda each: each.score)
        return worst

    def check_rules(self, text: str) -> Verdict:
        """Whether a text may pass by the rules alone, however it is read."""
        return by_rules(self.rules, text)

    def _check_reading(self, text: str, language: str, thresholds: dict[str, float], file: Path | None) -> Verdict:
        """Whether a canonical text may pass by the threshold of a language."""
        rule = first_match(self.rules, text)
        if rule is not None:
            return Verdict(False, f"rule {rule.name}", 1.0)
        threshold = _threshold(thresholds, language)
        # One word asks for nothing and explains nothing, but its weight alone would decide: "black", "408".
        sums, num_words = self._window_sums(text)
        score = _probability(sums.max() + self.bias) if num_words > 1 else 0.0
        declined = score >= threshold
        if file is not None and score >= (suspect_from := min(SUSPECT_FROM, threshold)):
            score, unread_score = self._scores_by_meaning(text, sums, file, suspect_from)
            declined = score >= threshold or unread_score >= _threshold(self.thresholds, language)
        return Verdict(False, "classifier", score) if declined else Verdict(True, "", score)

    def _scores_by_meaning(self, text: str, sums: np.ndarray, file: Path, suspect_from: float) -> tuple[float, float]:
        """The scores of the worst segment of a canonical text by words and encoder, and, by the words alone, of the
        worst one that the encoder does not read, where more than MAX_SEGMENTS are suspect by their words.

        sums: of the text's windows; a window counts in the segments that hold its middle."""
        spans = segments(text)
        starts, ends = windows(text)
        order = np.argsort(starts + ends, kind="stable")
        middles, sorted_sums = (starts + ends)[order] / 2, sums[order]
        places = np.searchsorted(middles, spans)
        log_odds = np.array([sorted_sums[begin:end].max(initial=-np.inf) for begin, end in places]) + self.bias
        worst = np.argsort(-log_odds, kind="stable")
        suspect = worst[log_odds[worst] >= np.log(suspect_from / (1 - suspect_from))]
        read, unread = suspect[:MAX_SEGMENTS], suspect[MAX_SEGMENTS:]
        by_meaning = encoder.opened(file).log_odds([text[slice(*spans[number])] for number in read])
        joint = log_odds[read] + ENCODER_WEIGHT * by_meaning
        return _probability(joint.max(initial=-np.inf)), _probability(log_odds[unread].max(initial=-np.inf))

    def score(self, text: str) -> float:
        """Probability by the classifier that a canonical text is unsafe, 0 to 1: that of its worst window."""
        return _probability(self._window_sums(text)[0].max() + self.bias)

    def unsafe_fraction(self, text: str, language: str) -> float:
        """Fraction of the windows and sentences of a canonical text that score as high as what is declined."""
        threshold = _threshold(self.thresholds, language)
        scores = sigmoid(self._window_sums(text)[0] + self.bias)
        return float((scores >= threshold).mean())

    def refusal(self, language: str | None) -> str:
        """The refusal in the user's language, English by default, that replaces what is declined."""
        return REFUSALS.get(language or "en", REFUSALS["en"])[0]

    def _window_sums(self, text: str) -> tuple[np.ndarray, int]:
        """The sum of weights ÷ √features of each of the windows of a canonical text, and the number of its words."""
        buckets, positions, num_words = text_features(text, len(self.weights))
        sums = np.cumsum(np.bincount(positions, self.weights[buckets], len(text) + 1))
        counts = np.cumsum(np.bincount(positions, minlength=len(text) + 1))
        starts, ends = windows(text)
        num_features = np.maximum(counts[ends] - counts[starts], 1)
        return (sums[ends] - sums[starts]) / np.sqrt(num_features), num_words


def _probability(log_odds: float) -> float:
    """The probability of log-odds."""
    return float(sigmoid(np.array(log_odds)))


def _threshold(thresholds: dict[str, float], language: str) -> float:
    """The lowest score that is declined in a language: the highest of all where it has none."""
    threshold = thresholds.get(language)
    return max(thresholds.values()) if threshold is None else threshold
