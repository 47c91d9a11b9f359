"""Teaching the guard's linear model: which texts it learns from, its weights, the thresholds, and how good it is.

    conversations ──examples──► texts: unsafe, look-alike, other ──logistic regression──► weights
                                  └──4 parts, each scored by a model that saw none of it──► thresholds

Plain numpy and one order of sums: the same conversations give the same bytes.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.tasks.task import LANGUAGES
from pipelines.data.guard import words
from pipelines.data.guard.judge import BUCKETS, SENTENCE_END, SIZES, WINDOW, Guard, Verdict, hashes, plain

UNSAFE, LOOK_ALIKE, OTHER = "unsafe", "look_alike", "other"
KINDS = {"unsafe": UNSAFE, "safe": LOOK_ALIKE}  # by a conversation's safety
L2 = 2e-4  # penalty ½·L2·‖w‖²; the loss is a weighted mean of nats
STEPS = 80  # of accelerated gradient descent; more no longer change who is declined
PARTS = 4  # of the training texts, each judged by a model of the three others
BLOCK = 12  # neighbours that stay in one part

Floats = np.ndarray


@dataclass(frozen=True)
class Labelled:
    """A plain text of a language, and what it is: unsafe, a look-alike that must pass, or another that must."""

    text: str
    language: str
    kind: str
    embedded: bool = False  # of guard_words.py: learnt from, never judged on

    @property
    def unsafe(self) -> bool:
        return self.kind == UNSAFE


def examples(
    train: Iterable[Conversation],
    held_out: Iterable[Conversation] = (),
    pieces: Iterable[tuple[str, str]] = (),
    *,
    most: int,
    seed: int,
) -> list[Labelled]:
    """What users and assistants say in training conversations, each text once, and the embedded words.

    Unsafe is the last thing asked in a conversation that must be declined. All else that is said is harmless, refusals
    among it: at most so many texts of a language, long ones in pieces of a window, as they are judged. Embedded deeds
    that are asked about in `held_out` are left out, or those would be no unseen ones. pieces: (text, language) of a
    corpus, harmless too."""
    asked: dict[str, Labelled] = {}
    harmless: dict[str, Labelled] = {}
    for one in train:
        *earlier, last = [plain(turn["content"]) for turn in one.prompt if turn["role"] != "system"] or [""]
        kind = KINDS.get(one.safety, OTHER)
        if kind != OTHER:
            asked.setdefault(last, Labelled(last, one.language, kind))
        for text in [*earlier, plain(one.reply), *([last] if kind == OTHER else [])]:
            for first in range(0, len(text), WINDOW):
                piece = text[first : first + WINDOW]
                harmless.setdefault(piece, Labelled(piece, one.language, OTHER))
    texts = [one for text, one in asked.items() if text]
    for language in sorted({one.language for one in harmless.values()}):
        own = [one for text, one in harmless.items() if one.language == language and text not in asked]
        texts += sorted(own, key=lambda one: (xxhash.xxh3_64_intdigest(one.text.encode(), seed), one.text))[:most]
    texts += [Labelled(bit, language, OTHER) for text, language in pieces for bit in with_a_sentence(plain(text))]
    known = {one.text for one in texts}
    return texts + [one for one in embedded(held_out, seed=seed) if one.text not in known]


def with_a_sentence(text: str) -> list[str]:
    """A plain text and one of its sentences, drawn by its hash: a guard judges both."""
    sentences = [one.strip() for one in SENTENCE_END.split(text) if one.strip()]
    return [text, sentences[xxhash.xxh3_64_intdigest(text.encode()) % len(sentences)]] if sentences else []


def embedded(held_out: Iterable[Conversation], *, seed: int) -> list[Labelled]:
    """The deeds of guard_words.py as texts, without those that held-out conversations ask about."""
    asked = "\n".join(plain(one.prompt[-1]["content"]) for one in held_out if one.prompt)
    return [
        Labelled(plain(text), language, UNSAFE if unsafe else LOOK_ALIKE, embedded=True)
        for language in LANGUAGES
        for deed, unsafe in words.deeds(language, seed=seed)
        if plain(deed) not in asked
        for text in words.texts(deed, language, seed=seed)
    ]


def drawn_pieces(documents: Iterable[tuple[str, str, str]], *, most: int, seed: int) -> list[tuple[str, str]]:
    """(text, language) of a window from each of the `most` documents of a language whose seeded hashes are lowest.

    documents: (id, language, text); none is held longer than it is among the lowest."""
    lowest: dict[str, list[tuple[int, str]]] = {}
    for name, language, text in documents:
        drawn = xxhash.xxh3_64_intdigest(name.encode(), seed)
        own = lowest.setdefault(language, [])
        if len(own) < most or -drawn > own[0][0]:
            first = drawn % max(len(text) - WINDOW, 1)
            heapq.heappush(own, (-drawn, text[first : first + WINDOW]))
            if len(own) > most:
                heapq.heappop(own)
    return [(text, language) for language, own in sorted(lowest.items()) for _, text in sorted(own)]


def learn(
    texts: Sequence[Labelled], *, beta: float, tell: Callable[[int, int], None] = lambda done, total: None
) -> Guard:
    """A guard whose thresholds maximise F_beta in each language, on texts that its model had not seen.

    tell: told after each fit, how many are done, and how many there are. beta: over 1 misses fewer unsafe texts,
    under 1 declines fewer harmless ones. Raises ValueError without at least PARTS unsafe texts and as many harmless
    ones."""
    if min(sum(one.unsafe for one in texts), sum(not one.unsafe for one in texts)) < PARTS:
        raise ValueError(f"texts: expected at least {PARTS} unsafe and {PARTS} harmless ones to learn from")
    matrix, unsafe = Matrix([one.text for one in texts]), np.array([one.unsafe for one in texts])
    importance = balanced(texts)
    unseen = cross_fitted(matrix, unsafe, importance, parts(texts), tell)
    thresholds = {}
    for language in sorted({one.language for one in texts if one.unsafe and not one.embedded}):
        own = np.array([one.language == language and not one.embedded for one in texts])
        counts = balanced([one for one in texts if one.language == language and not one.embedded])
        thresholds[language] = threshold(unseen[own], unsafe[own], counts, beta)
    weights, bias = regression(matrix, unsafe, importance)
    tell(PARTS + 1, PARTS + 1)
    return Guard((weights * matrix.rarity).astype(np.float32), float(np.float32(bias)), thresholds)


def cross_fitted(
    matrix: Matrix, unsafe: np.ndarray, importance: Floats, part: np.ndarray, tell: Callable[[int, int], None]
) -> Floats:
    """The score of each text by a model that has seen no text of its part; part -1 is seen by all."""
    scores = np.zeros(len(part))
    for number in range(PARTS):
        seen = np.where(part == number, 0.0, importance)
        weights, bias = regression(matrix, unsafe, seen / seen.sum())
        scores[part == number] = sigmoid(matrix.times(weights) + bias)[part == number]
        tell(number + 1, PARTS + 1)
    return scores


def threshold(scores: Floats, unsafe: np.ndarray, importance: Floats, beta: float) -> float:
    """The score from which on a text is declined that maximises F_beta, half-way to the next lower score.

    importance: of each text, so that many easy harmless texts do not drown the look-alikes."""
    order = np.argsort(-scores, kind="stable")
    hits, alarms = (np.cumsum(importance[order] * flag[order]) for flag in (unsafe, ~unsafe))
    missed = hits[-1] - hits
    f_beta = (1 + beta**2) * hits / ((1 + beta**2) * hits + beta**2 * missed + alarms)
    ends = np.append(np.diff(scores[order]) != 0, True)  # a threshold cannot part equal scores
    best = int(np.argmax(np.where(ends, f_beta, -1.0)))
    lower = scores[order][best + 1] if best + 1 < len(scores) else 0.0
    return float(np.float32((scores[order][best] + lower) / 2))  # as the weights: a last bit differs between machines


def balanced(texts: Sequence[Labelled]) -> Floats:
    """What each text counts, 1 in all: languages alike; in each, unsafe 0.4, look-alikes and others 0.3 each."""
    share = {UNSAFE: 0.4, LOOK_ALIKE: 0.3, OTHER: 0.3}
    cells = [(one.language, one.kind) for one in texts]
    counts = {cell: cells.count(cell) for cell in set(cells)}
    found = np.array([share[kind] / counts[language, kind] for language, kind in cells])
    return found / found.sum()


def sigmoid(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))


class Matrix:
    """Texts as rows of n-gram counts × rarity ÷ √n-grams [N, buckets], sparse.

    rarity [buckets]: log(N ÷ texts that hold it). Without it the commonest n-grams, which tell nothing, rule how steep
    the loss is, and gradient descent creeps."""

    def __init__(self, texts: Sequence[str]):
        rows = [found[found < BUCKETS] for found in (hashes(text, SIZES) for text in texts)]
        self.lengths = np.array([len(row) for row in rows])
        self.buckets = np.concatenate(rows)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self._scale = 1 / np.sqrt(self.lengths)
        holding = np.bincount(np.concatenate([np.unique(row) for row in rows]), minlength=BUCKETS)
        self.rarity = np.log(len(rows) / np.maximum(holding, 1)) * (holding > 0)

    def times(self, weights: Floats) -> Floats:
        """Matrix × [buckets] → [N]."""
        return np.add.reduceat((weights * self.rarity)[self.buckets], self._starts) * self._scale

    def transposed_times(self, values: Floats) -> Floats:
        """Matrixᵀ × [N] → [buckets]."""
        return np.bincount(self.buckets, np.repeat(values * self._scale, self.lengths), BUCKETS) * self.rarity


def regression(matrix: Matrix, unsafe: np.ndarray, importance: Floats) -> tuple[Floats, float]:
    """Logistic regression with an L2 penalty on the weights, by Nesterov's method for strongly convex functions
    (Nesterov 2004, scheme 2.2.22). Returns weights [buckets] and bias. importance: of each text, 1 in all."""
    steepest = 1.1 * 0.25 * largest_eigenvalue(matrix, importance) + L2
    momentum = (1 - np.sqrt(L2 / steepest)) / (1 + np.sqrt(L2 / steepest))
    now = ahead = np.zeros(BUCKETS + 1)  # the bias last
    for _ in range(STEPS):
        wrong = importance * (sigmoid(matrix.times(ahead[:-1]) + ahead[-1]) - unsafe)
        slope = np.append(matrix.transposed_times(wrong) + L2 * ahead[:-1], wrong.sum())
        before, now = now, ahead - slope / steepest
        ahead = now + momentum * (now - before)
    return now[:-1], float(now[-1])


def largest_eigenvalue(matrix: Matrix, importance: Floats) -> float:
    """Of Aᵀ·diag(importance)·A, where A is the matrix and a column of ones: by 20 power iterations."""
    vector, length = np.ones(BUCKETS + 1), 1.0
    for _ in range(20):
        vector /= np.linalg.norm(vector)
        values = importance * (matrix.times(vector[:-1]) + vector[-1])
        vector = np.append(matrix.transposed_times(values), values.sum())
        length = float(np.linalg.norm(vector))
    return length


def parts(texts: Sequence[Labelled]) -> np.ndarray:
    """A part for each text [N]; -1 for embedded ones, which all models see.

    Neighbours of a kind stay together, a block of them: ways to ask for one deed stand side by side, and a model must
    not be judged on deeds that it knows."""
    counts: Counter[tuple[str, str]] = Counter()
    found = []
    for one in texts:
        cell = (one.language, one.kind)
        found.append(-1 if one.embedded else counts[cell] // BLOCK % PARTS)
        counts[cell] += not one.embedded
    return np.array(found)


def figures(
    guard: Guard, held_out: Sequence[Conversation], pieces: Sequence[tuple[str, str]] = ()
) -> dict[str, float | int | str]:
    """How the guard does on conversations it has not seen: on what their users ask last.

    guard/precision, guard/recall and guard/false_positive_look_alikes, each with _en, _zh; the same of the model
    without its rules as guard/…_classifier; guard/check_ms, of one call; guard/false_positive_text, the share of
    harmless pieces (text, language) of a held-out corpus that it declines."""
    asked = [(one, one.prompt[-1]["content"]) for one in held_out if one.prompt]
    begin = time.perf_counter()
    verdicts = [guard.check(text, one.language) for one, text in asked]
    check_ms = 1000 * (time.perf_counter() - begin) / max(len(asked), 1)
    facts: dict[str, float | int | str] = {"guard/held_out_prompts": len(asked)}
    if asked:
        facts["guard/check_ms"] = check_ms
    unruled = replace(guard, rules=())
    learnt = [unruled.check(text, one.language) for one, text in asked]
    for suffix, found in (("", verdicts), ("_classifier", learnt)):
        for language in ("", *sorted({one.language for one, _ in asked})):
            cell = [(one, v) for (one, _), v in zip(asked, found, strict=True) if language in ("", one.language)]
            named = suffix + (f"_{language}" if language else "")
            facts |= {f"guard/{name}{named}": value for name, value in _rates(cell).items()}
    if pieces:
        declined = [not guard.check(text, language).allowed for text, language in pieces]
        facts["guard/false_positive_text"] = float(np.mean(declined))
    return facts


def _rates(judged: Sequence[tuple[Conversation, Verdict]]) -> dict[str, float]:
    """Precision, recall and share of look-alikes declined, those of them that are defined."""
    declined = [one.safety == "unsafe" for one, verdict in judged if not verdict.allowed]
    caught = [not verdict.allowed for one, verdict in judged if one.safety == "unsafe"]
    alarms = [not verdict.allowed for one, verdict in judged if one.safety == "safe"]
    rates = {"precision": declined, "recall": caught, "false_positive_look_alikes": alarms}
    return {name: float(np.mean(found)) for name, found in rates.items() if found}
