"""Instruction rows, after Self-Instruct (Wang et al. 2023): instructions unlike the seeds, then a reply to each."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from pipelines.data.dialogues import similar_texts
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.synthetic.instructions import (
    ITEM,
    draw_examples,
    instruction_problem,
    numbered,
    parse_list,
    unwrapped,
)
from pipelines.data.sources.bad_rows import Problem
from pipelines.errors import UserError
from pipelines.stages.augment.augmentation import Augmentation
from pipelines.writers.requests import LENGTH, ChatAnswer, text_of

MAX_EXAMPLE_CHARACTERS = 1000  # of a seed's prompt; longer ones are no examples
# Rows begun at a time: what comes after them may use them as examples. Of many rows an eighth: work for many engines.
MIN_ROUND, ROUNDS = 64, 8


class Examples:
    """The prompts of seeds, by language, and those that were written and kept."""

    def __init__(self, augmentation: Augmentation):
        self._seeds: dict[str, dict[str, Conversation]] = defaultdict(dict)  # language → prompt → seed
        self._generated: dict[str, list[str]] = defaultdict(list)
        self._seed = augmentation.work.seed
        for seed in augmentation.seeds:
            prompt = first_prompt(seed)
            if len(prompt) <= MAX_EXAMPLE_CHARACTERS:
                self._seeds[seed.language].setdefault(prompt, seed)
        self._languages = [seed.language for seed in augmentation.seeds if seed.language in self._seeds]
        if not self._languages:
            number = len(augmentation.seeds)
            raise UserError(f"{augmentation.work.name}: the prompts of all {number:,} seeds are longer than "
                            f"{MAX_EXAMPLE_CHARACTERS:,} characters; expected shorter ones as examples")  # fmt: skip

    def draw(self, number: int, request: int) -> tuple[str, list[str], list[Conversation]]:
        """Language, examples, and the seeds among them of a request; languages are as frequent as among the seeds."""
        draw = f"{self._seed}/{request}"
        language = random.Random(draw).choice(self._languages)
        seeds = self._seeds[language]
        texts = draw_examples(list(seeds), self._generated[language], number, draw)
        return language, texts, [seeds[text] for text in texts if text in seeds]

    def add(self, language: str, prompt: str) -> None:
        self._generated[language].append(prompt)


def first_prompt(conversation: Conversation) -> str:
    """The first user's turn."""
    return next(turn["content"] for turn in conversation.messages if turn["role"] == "user")


def instructions(augmentation: Augmentation) -> None:
    """Writes instructions and replies, in rounds, until there are enough rows or no request is left."""
    options = augmentation.work.options
    examples = Examples(augmentation)
    existing = [first_prompt(seed) for seed in augmentation.seeds]
    largest = max(MIN_ROUND, -(-options.rows // ROUNDS))
    while augmentation.missing:
        num_rows = min(augmentation.missing, largest)
        candidates = _candidates(augmentation, examples, -(-num_rows // options.instructions_per_request))
        accepted = _unlike(augmentation, candidates, existing)
        for text, language, meta in accepted[num_rows:]:
            problem = f"one more than the rows that were missing, {num_rows}"
            augmentation.drop(Problem("not_needed", problem), text, language, meta)
        accepted = accepted[:num_rows]
        existing += [text for text, _, _ in accepted]
        answers = augmentation.answers([[{"role": "user", "content": text}] for text, _, _ in accepted])
        for (text, language, meta), answer in zip(accepted, answers, strict=False):
            reply = text_of(answer)
            if isinstance(reply, Problem):
                augmentation.drop(reply, text, language, meta)
                continue
            turns = [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]
            if augmentation.keep_or_drop(turns, language, meta):
                examples.add(language, text)
        for text, language, meta in accepted[len(answers) :]:
            problem = f"no reply: max_requests is {options.max_requests:,}"
            augmentation.drop(Problem("max_requests", problem), text, language, meta)


Candidate = tuple[str, str, dict[str, Any]]
"""Instruction, language, provenance."""


def _candidates(augmentation: Augmentation, examples: Examples, num_requests: int) -> list[Candidate]:
    """Instructions that pass the rules, from so many requests."""
    options = augmentation.work.options
    first = augmentation.requests.counts["requests"]
    drawn = [examples.draw(options.examples, first + number) for number in range(num_requests)]
    prompts = [
        augmentation.prompt("instructions", language, examples=numbered(texts), number=options.instructions_per_request)
        for language, texts, _ in drawn
    ]
    candidates: list[Candidate] = []
    for (language, _, seeds), answer in zip(drawn, augmentation.answers(prompts), strict=False):
        meta = augmentation.meta(f"instructions.{language}", seeds=seeds)
        texts = _instructions_of(augmentation, answer)
        if isinstance(texts, Problem):
            augmentation.drop(texts, answer.text, language, meta)
            continue
        for text in texts:
            problem = instruction_problem(text, language)
            if problem is None:
                candidates.append((text, language, meta))
            else:
                augmentation.drop(problem, text, language, meta)
    return candidates


def _instructions_of(augmentation: Augmentation, answer: ChatAnswer) -> list[str] | Problem:
    """The instructions in an answer: of one that is cut off all but the last, and the whole text of one that has no
    numbers where a single instruction was requested."""
    text, number = text_of(answer, partly=True), augmentation.work.options.instructions_per_request
    if isinstance(text, Problem):
        return text
    is_cut_off = answer.finish == LENGTH
    if ITEM.search(text):
        items = parse_list(text, cut_off=is_cut_off)
    elif number == 1:
        items = [] if is_cut_off else [item for item in [unwrapped(text)] if item]
    else:
        return Problem("no_list", f"a text without numbers; expected {number} numbered instructions")
    return items or Problem("cut_off", "no instruction that is whole; expected at least one within max_new_tokens")


def _unlike(augmentation: Augmentation, candidates: list[Candidate], existing: list[str]) -> list[Candidate]:
    """The candidates that are like none of the existing instructions, nor like an earlier candidate."""
    threshold = augmentation.work.options.max_similarity
    texts = [text for text, _, _ in candidates]
    like_existing = similar_texts.similar(texts, existing, threshold)
    unlike: list[Candidate] = []
    fresh = [candidate for candidate, like in zip(candidates, like_existing, strict=True) if not like]
    repeats = iter(similar_texts.repeats([text for text, _, _ in fresh], threshold))
    for candidate, like in zip(candidates, like_existing, strict=True):
        text, language, meta = candidate
        if like or next(repeats):
            problem = f"as similar to a seed or an earlier instruction as max_similarity, {threshold:g}, or more"
            augmentation.drop(Problem("similar", problem), text, language, meta)
        else:
            unlike.append(candidate)
    return unlike
