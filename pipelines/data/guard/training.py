"""Trains the guard's classifier: its training texts, weights and thresholds, and its evaluation on held-out prompts.

    conversations, corpus, lexicon, written texts ──► unsafe, benign look-alike, other ──logistic regression──► weights
                                         └──4 folds, each scored by a model trained on the others──► thresholds

A fixed order of sums: the same conversations give the same bytes on the same kind of CPU.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.tasks.task import LANGUAGES
from pipelines.data.guard import contrasts, lexicon
from pipelines.data.guard.classifier import (
    ENCODER_WEIGHT,
    NUM_BUCKETS,
    SEGMENT,
    SUSPECT_FROM,
    WINDOW,
    Guard,
    text_features,
    windows,
)
from pipelines.data.guard.disguises import canonical_text
from pipelines.data.guard.encoder import opened, out_of_fold, text_hashes
from pipelines.data.guard.regression import logistic_regression
from pipelines.data.guard.words import SENTENCE_END
from pipelines.data.text.ngram_classifier import Floats, TfIdfMatrix, sigmoid

UNSAFE, LOOK_ALIKE, OTHER = "unsafe", "look_alike", "other"
LABELS = {"unsafe": UNSAFE, "safe": LOOK_ALIKE}  # by a conversation's safety; OTHER where it has none
CONVERSATION, LEXICON, CONTRAST, ORDINARY = "conversation", "lexicon", "contrast", "ordinary"  # sources of texts
MIN_TEXTS = 2  # that a feature occurs in: what one text alone holds would be noise in every other text
LEXICON_WEIGHT = 0.3  # of a text composed of the lexicon, against one of a conversation or a writer
ORDINARY_WEIGHT = 10.0  # of a window of an ordinary line: the conversations' texts are much like each other
LABEL_WEIGHTS = {UNSAFE: 0.3, LOOK_ALIKE: 0.2, OTHER: 0.5}  # in the loss of each language
# Of the ordinary lines, in cross-validation, at least so many pass: as many as of ordinary instructions passed a guard
# of 116 pairs and the lexicon.
ORDINARY_PASS = {"en": 0.905, "zh": 0.975}
ORDINARY_PASS_BY_MEANING = {"en": 0.98, "zh": 0.98}  # the same of words and encoder together, which tell more apart
MAX_ENCODED = 2000  # texts of conversations that the encoder reads for its thresholds, a quarter of a minute
NUM_FOLDS = 4  # of the training texts, for cross-validation
BLOCK = 12  # neighbouring texts that stay in one fold
# Least score of a part of a reply that is declined. A long reply holds many parts, any of which would end it, and is of
# other kinds than the training texts: by a request's threshold every other one of 1,300 characters would be cut,
# by this one 0.21 of the English and 0.04 of the Chinese ones.
REPLY_THRESHOLD = 0.85


@dataclass(frozen=True)
class LabelledText:
    """A canonical text with its language and label: unsafe, look_alike or other; the last two may pass.

    source: where it is from; the texts of the lexicon are trained on, but left out of validation. weight: of the text
    in the loss, against the others of its language and label. line: number of the ordinary line that it is of."""

    text: str
    language: str
    label: str
    source: str = CONVERSATION
    weight: float = 1.0
    line: int = -1

    @property
    def unsafe(self) -> bool:
        return self.label == UNSAFE


def training_texts(
    train: Iterable[Conversation],
    held_out: Iterable[Conversation] = (),
    corpus_windows: Iterable[tuple[str, str]] = (),
    *,
    max_harmless: int,
    seed: int,
) -> list[LabelledText]:
    """Labels the texts of training conversations, each distinct one once, and adds the corpus and the lexicon.

    The last prompt turn of a conversation gets the label of the conversation's safety. All other turns are harmless,
    refusals among them: at most max_harmless texts of a language, in windows, as the guard scores them.
    corpus_windows: (text, language), harmless too. Lexicon actions that occur in prompts of `held_out` are left out,
    so that those prompts stay unseen."""
    labelled: dict[str, LabelledText] = {}
    harmless: dict[str, LabelledText] = {}
    for conversation in train:
        language, label = conversation.language, LABELS.get(conversation.safety, OTHER)
        turns = [canonical_text(turn["content"]) for turn in conversation.prompt if turn["role"] != "system"]
        request = turns.pop() if turns else ""
        turns.append(canonical_text(conversation.reply))
        if label == OTHER:
            turns.append(request)
        else:
            labelled.setdefault(request, LabelledText(request, language, label))
        for turn in turns:
            for start in range(0, len(turn), WINDOW):
                window = turn[start : start + WINDOW]
                harmless.setdefault(window, LabelledText(window, language, OTHER))
    texts = [text for text in labelled.values() if text.text]
    for language in sorted({text.language for text in harmless.values()}):
        candidates = [text for text in harmless.values() if text.language == language and text.text not in labelled]
        candidates.sort(key=lambda text: (xxhash.xxh3_64_intdigest(text.text.encode(), seed), text.text))
        texts += candidates[:max_harmless]
    for window, language in corpus_windows:
        texts += [LabelledText(text, language, OTHER) for text in with_random_sentence(canonical_text(window))]
    known = {text.text for text in texts}
    composed = [text for text in lexicon_texts(held_out, seed=seed) if text.text not in known]
    return texts + contrast_texts(held_out) + ordinary_texts() + composed


def with_random_sentence(text: str) -> list[str]:
    """A canonical text and one of its sentences, chosen by the text's hash, since the guard scores both forms."""
    sentences = [sentence.strip() for sentence in SENTENCE_END.split(text) if sentence.strip()]
    if not sentences:
        return []
    return [text, sentences[xxhash.xxh3_64_intdigest(text.encode()) % len(sentences)]]


def contrast_texts(held_out: Iterable[Conversation]) -> list[LabelledText]:
    """The written pairs of requests and the harmless ones beside them, without pairs that hold a held-out prompt."""
    prompts = {canonical_text(each.prompt[-1]["content"]) for each in held_out if each.prompt}
    texts: list[LabelledText] = []
    for language in LANGUAGES:
        written = [list(zip(pair, (UNSAFE, LOOK_ALIKE), strict=True)) for pair in contrasts.pairs(language)]
        written += [[(text, LOOK_ALIKE)] for text in contrasts.harmless(language)]
        for labelled in written:
            group = [LabelledText(canonical_text(text), language, label, CONTRAST) for text, label in labelled]
            texts += [] if any(text.text in prompts for text in group) else group
    return texts


def ordinary_texts() -> list[LabelledText]:
    """The windows and sentences of ordinary written lines, as a check has them: all of a line's must pass."""
    texts: list[LabelledText] = []
    for language in LANGUAGES:
        for number, line in enumerate(map(canonical_text, contrasts.ordinary(language))):
            parts = (line[start:end].strip() for start, end in zip(*windows(line), strict=True))
            for part in dict.fromkeys(filter(None, parts)):
                texts.append(LabelledText(part, language, OTHER, ORDINARY, ORDINARY_WEIGHT, number))
    return texts


def written_texts() -> list[LabelledText]:
    """All written texts, without regard to held-out prompts."""
    return contrast_texts([]) + ordinary_texts()


def lexicon_texts(held_out: Iterable[Conversation], *, seed: int) -> list[LabelledText]:
    """Requests for the lexicon's actions, without those actions that occur in held-out prompts."""
    held_out_prompts = "\n".join(canonical_text(each.prompt[-1]["content"]) for each in held_out if each.prompt)
    texts: list[LabelledText] = []
    for language in LANGUAGES:
        for action, category in lexicon.actions(language, seed=seed):
            if canonical_text(action) in held_out_prompts:
                continue
            labelled = dict.fromkeys(lexicon.requests(action, language, seed=seed), UNSAFE if category else LOOK_ALIKE)
            if category:
                labelled |= dict.fromkeys(lexicon.harmless_requests(action, language, seed=seed), LOOK_ALIKE)
            for text, label in labelled.items():
                texts.append(LabelledText(canonical_text(text), language, label, LEXICON, LEXICON_WEIGHT))
    return texts


def sample_windows(
    documents: Iterable[tuple[str, str, str]], *, max_per_language: int, seed: int
) -> list[tuple[str, str]]:
    """Samples documents of each language by the lowest seeded hashes, and a window of each: (text, language).

    documents: (id, language, text), read once; memory holds the sampled windows only."""
    heaps: dict[str, list[tuple[int, str]]] = {}  # by language: (−hash, window), the highest hash on top
    for document_id, language, text in documents:
        hashed = xxhash.xxh3_64_intdigest(document_id.encode(), seed)
        heap = heaps.setdefault(language, [])
        if len(heap) < max_per_language or -hashed > heap[0][0]:
            start = hashed % max(len(text) - WINDOW, 1)
            heapq.heappush(heap, (-hashed, text[start : start + WINDOW]))
            if len(heap) > max_per_language:
                heapq.heappop(heap)
    return [(text, language) for language, heap in sorted(heaps.items()) for _, text in sorted(heap)]


@dataclass(frozen=True)
class Material:
    """The features of training texts: a matrix whose columns are the buckets that they use, int64 [used]."""

    matrix: TfIdfMatrix
    used: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[LabelledText]) -> Material:
        """The features of texts; those of fewer than MIN_TEXTS texts have no influence."""
        rows = [text_features(text.text)[0] for text in texts]
        used = np.unique(np.concatenate(rows))
        matrix = TfIdfMatrix([np.searchsorted(used, row) for row in rows], len(used))
        matrix.idf[matrix.idf > np.log(len(texts) / (MIN_TEXTS - 0.5))] = 0.0
        return cls(matrix, used)

    def fitted(self, unsafe: np.ndarray, sample_weight: Floats) -> Guard:
        """A guard with the weights of logistic regression, without thresholds."""
        fitted_weights, bias = logistic_regression(self.matrix, unsafe, sample_weight)
        weights = np.zeros(NUM_BUCKETS, np.float32)
        weights[self.used] = fitted_weights * self.matrix.idf
        return Guard(weights, float(np.float32(bias)), {})


def train_guard(
    texts: Sequence[LabelledText],
    *,
    beta: float,
    encoder: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Guard:
    """Trains a guard whose threshold in each language maximises F_beta in cross-validation, or is the higher one by
    which ORDINARY_PASS of the ordinary lines pass; replies are declined from REPLY_THRESHOLD on.

    encoder: file of the encoder for requests, whose thresholds are chosen alike; it is not trained here.
    beta: over 1 weighs recall of unsafe texts more, under 1 precision. on_progress: called after each fit with the
    number done and in all. Raises ValueError without at least NUM_FOLDS unsafe and NUM_FOLDS harmless texts."""
    num_unsafe = sum(text.unsafe for text in texts)
    if min(num_unsafe, len(texts) - num_unsafe) < NUM_FOLDS:
        raise ValueError(
            f"texts: {num_unsafe} unsafe, {len(texts) - num_unsafe} harmless; expected at least {NUM_FOLDS} of each"
        )
    material = Material.of(texts)
    sample_weight = balanced_weights(texts)
    scores = cross_validated_scores(texts, material, sample_weight, on_progress)
    thresholds = chosen_thresholds(texts, scores, beta, ORDINARY_PASS)
    guard = material.fitted(np.array([text.unsafe for text in texts]), sample_weight)
    reply_thresholds = {language: max(REPLY_THRESHOLD, score) for language, score in thresholds.items()}
    guard = replace(guard, thresholds=thresholds, reply_thresholds=reply_thresholds)
    if encoder is not None:
        indices, joint_scores = scores_by_meaning(texts, scores, encoder)
        scored = [texts[index] for index in indices]
        request_thresholds = chosen_thresholds(scored, joint_scores, beta, ORDINARY_PASS_BY_MEANING)
        rounded = {language: round(score, 3) for language, score in request_thresholds.items()}  # differ by machine
        guard = replace(guard, encoder=encoder, request_thresholds=thresholds | rounded)
    on_progress(NUM_FOLDS + 1, NUM_FOLDS + 1)
    return guard


def chosen_thresholds(
    texts: Sequence[LabelledText], scores: Floats, beta: float, ordinary_pass: dict[str, float]
) -> dict[str, float]:
    """The threshold of each language that has unsafe texts: the one that maximises F_beta, or the higher one by which
    this fraction of the ordinary lines pass. scores: of each text [N]."""
    unsafe = np.array([text.unsafe for text in texts])
    thresholds: dict[str, float] = {}
    for language in sorted({text.language for text in texts if text.unsafe and text.source != LEXICON}):
        chosen = [index for index, text in enumerate(texts) if text.language == language and text.source != LEXICON]
        of_language = [texts[index] for index in chosen]
        least = ordinary_threshold(of_language, scores[chosen], ordinary_pass.get(language, 0.0))
        best = best_threshold(scores[chosen], unsafe[chosen], balanced_weights(of_language), beta)
        thresholds[language] = max(best, least)
    return thresholds


def scores_by_meaning(texts: Sequence[LabelledText], scores: Floats, file: Path) -> tuple[list[int], Floats]:
    """(indices, scores) of texts as a check of requests has them: by words and encoder where the words do not say at
    once that they are harmless, else 0. Without the lexicon.

    scores: by the words of other folds [N]. Written texts have the log-odds of an encoder of other folds, and
    are left out where they have none; the conversations' have those of the one in the file: at most MAX_ENCODED of
    those that are one segment, chosen by hash."""
    odds = out_of_fold(file)
    hashes = text_hashes([text.text for text in texts]).tolist()
    indices = [
        index for index, text in enumerate(texts)
        if text.source != LEXICON
        and (hashes[index] in odds if text.source in (CONTRAST, ORDINARY) else len(text.text) <= SEGMENT)
    ]  # fmt: skip
    missing = sorted(
        (hashes[index], texts[index].text) for index in indices
        if scores[index] >= SUSPECT_FROM and hashes[index] not in odds
    )[:MAX_ENCODED]  # fmt: skip
    computed = opened(file).log_odds([text for _, text in missing])
    odds |= zip([number for number, _ in missing], computed.tolist(), strict=True)
    indices = [index for index in indices if scores[index] < SUSPECT_FROM or hashes[index] in odds]
    joint_scores = np.zeros(len(indices))
    for place, index in enumerate(indices):
        if (score := scores[index]) >= SUSPECT_FROM:
            by_words = np.log(score / max(1 - score, 1e-9))
            joint_scores[place] = sigmoid(by_words + ENCODER_WEIGHT * odds[hashes[index]])
    return indices, joint_scores


def cross_validated_scores(
    texts: Sequence[LabelledText], material: Material, sample_weight: Floats, on_progress: Callable[[int, int], None]
) -> Floats:
    """The score of each text by a guard trained on the other folds [N]: of its worst window, as a check has it; 0 in
    fold -1, on which all train."""
    unsafe, fold = np.array([text.unsafe for text in texts]), folds(texts)
    scores = np.zeros(len(texts))
    for number in range(NUM_FOLDS):
        train_weight = np.where(fold == number, 0.0, sample_weight)
        guard = material.fitted(unsafe, train_weight / train_weight.sum())
        for index in np.flatnonzero(fold == number):
            scores[index] = guard.score(texts[index].text)
        on_progress(number + 1, NUM_FOLDS + 1)
    return scores


def best_threshold(scores: Floats, unsafe: np.ndarray, sample_weight: Floats, beta: float) -> float:
    """The threshold that maximises the weighted F_beta: half-way between a score to decline and the next lower one.

    sample_weight: of each text, so that many easy harmless texts do not outweigh the look-alikes."""
    order = np.argsort(-scores, kind="stable")
    true_positives = np.cumsum(sample_weight[order] * unsafe[order])
    false_positives = np.cumsum(sample_weight[order] * ~unsafe[order])
    false_negatives = true_positives[-1] - true_positives
    weighted_hits = (1 + beta**2) * true_positives
    f_beta = weighted_hits / (weighted_hits + beta**2 * false_negatives + false_positives)
    is_last = np.append(np.diff(scores[order]) != 0, True)  # a threshold cannot separate equal scores
    best = int(np.argmax(np.where(is_last, f_beta, -1.0)))
    lower = scores[order][best + 1] if best + 1 < len(scores) else 0.0
    return float(np.float32((scores[order][best] + lower) / 2))  # float32, as the weights: last bits vary by machine


def ordinary_threshold(texts: Sequence[LabelledText], scores: Floats, least_pass: float) -> float:
    """The threshold by which this fraction of the ordinary lines among texts pass; 0 without such lines."""
    worst: dict[int, float] = {}
    for text, score in zip(texts, scores, strict=True):
        if text.source == ORDINARY:
            worst[text.line] = max(worst.get(text.line, 0.0), float(score))
    if not worst:
        return 0.0
    return float(np.float32(np.quantile(list(worst.values()), least_pass)))


def balanced_weights(texts: Sequence[LabelledText]) -> Floats:
    """Sample weights [N], 1 in sum: equal for each language, and within it divided by LABEL_WEIGHTS."""
    cells = [(text.language, text.label) for text in texts]
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    for cell, text in zip(cells, texts, strict=True):
        sums[cell] += text.weight
    weights = np.array(
        [LABEL_WEIGHTS[cell[1]] * text.weight / sums[cell] for cell, text in zip(cells, texts, strict=True)]
    )
    return weights / weights.sum()


def folds(texts: Sequence[LabelledText]) -> np.ndarray:
    """The fold of each text [N]; -1 for the lexicon's, on which all models train.

    Blocks of neighbours with the same language and label stay together: requests for one action are neighbours, and a
    model must not be validated on actions that it was trained on."""
    counts: Counter[tuple[str, str]] = Counter()
    numbers: list[int] = []
    for text in texts:
        if text.source == LEXICON:
            numbers.append(-1)
            continue
        if text.source == ORDINARY:
            numbers.append(text.line // BLOCK % NUM_FOLDS)
            continue
        # The two of a pair are validated together: they share their words.
        cell = (text.language, text.source if text.source == CONTRAST else text.label)
        numbers.append(counts[cell] // BLOCK % NUM_FOLDS)
        counts[cell] += 1
    return np.array(numbers)
