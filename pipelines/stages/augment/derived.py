"""Rows made from one seed each: rewrites of its last prompt or reply, and translations of all its turns."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipelines.data.dialogues.answer_match import normalised
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.sources.bad_rows import Problem, row_language
from pipelines.data.text.languages import language_name
from pipelines.stages.augment.augmentation import Augmentation
from pipelines.writers.requests import ChatAnswer, text_of
from pipelines.writers.writer import ROUND

Turns = list[dict[str, str]]


def rewrites(augmentation: Augmentation) -> None:
    """Writes the last prompt, or the last reply, of each seed in other words."""
    options = augmentation.work.options
    name = f"rewrite_{options.rewrite}"
    back = 1 if options.rewrite == "reply" else 2  # of the turn, from the end

    def prompts(seed: Conversation) -> list[Turns]:
        style = f" {options.style.strip()}" if options.style.strip() else ""
        text = seed.messages[-back]["content"]
        return [augmentation.prompt(name, seed.language, text=text, style=style)]

    def turns(seed: Conversation, texts: Sequence[str]) -> Turns | Problem:
        original = seed.messages[-back]["content"]
        if normalised(texts[0]) == normalised(original):
            return Problem("unchanged", "says the same in the same words; expected other words")
        actual, expected = row_language(texts[0], "auto"), row_language(original, "auto")
        if actual != expected:
            return Problem("language", f"is in {language_name(actual)}; the {options.rewrite} of the seed is in "
                                       f"{language_name(expected)}")  # fmt: skip
        messages = [dict(turn) for turn in seed.messages]
        messages[-back]["content"] = texts[0]
        return messages

    _each(augmentation, name, options.variants, prompts, turns)


def translations(augmentation: Augmentation) -> None:
    """Writes each seed in the other language, turn by turn."""

    def prompts(seed: Conversation) -> list[Turns]:
        return [augmentation.prompt("translate", _other(seed), text=turn["content"]) for turn in seed.messages]

    def turns(seed: Conversation, texts: Sequence[str]) -> Turns | Problem:
        target = _other(seed)
        # A turn of a Chinese row may well be code, a number or a name, which are no Chinese.
        expected = [{target}, *({target, "en"} for _ in texts)]
        for text, languages in zip(["\n".join(texts), *texts], expected, strict=True):
            actual = row_language(text, "auto")
            if actual not in languages:
                return Problem("language", f"is in {language_name(actual)}; expected {language_name(target)}")
        pairs = zip(seed.messages, texts, strict=True)
        return [{"role": turn["role"], "content": text} for turn, text in pairs]

    _each(augmentation, "translate", 1, prompts, turns)


def _other(seed: Conversation) -> str:
    return "zh" if seed.language == "en" else "en"


def _each(
    augmentation: Augmentation,
    name: str,
    variants: int,
    prompts: Callable[[Conversation], list[Turns]],
    turns: Callable[[Conversation, Sequence[str]], Turns | Problem],
) -> None:
    """Makes rows of the seeds in random order, in rounds, until there are enough or nothing is left.

    name: of the template. prompts: of the requests for a seed; turns: its messages with the texts of the answers."""
    order = list(augmentation.seeds)
    random.Random(augmentation.work.seed).shuffle(order)
    seeds = iter([seed for _ in range(variants) for seed in order])
    while begun := _begin(augmentation, seeds, prompts):
        answers = iter(augmentation.answers([prompt for _, several in begun for prompt in several]))
        for seed, several in begun:
            language = _other(seed) if name == "translate" else seed.language
            meta = augmentation.meta(f"{name}.{language}", derived_from=seed)
            _make(augmentation, seed, [next(answers, None) for _ in several], turns, language, meta)


def _begin(
    augmentation: Augmentation, seeds: Iterator[Conversation], prompts: Callable[[Conversation], list[Turns]]
) -> list[tuple[Conversation, list[Turns]]]:
    """The next seeds with their prompts: as many as rows are missing and as there are requests left for."""
    begun: list[tuple[Conversation, list[Turns]]] = []
    left = augmentation.requests.left
    while len(begun) < min(augmentation.missing, ROUND) and left > 0 and (seed := next(seeds, None)) is not None:
        begun.append((seed, prompts(seed)))
        left -= len(begun[-1][1])
    return begun


def _make(
    augmentation: Augmentation,
    seed: Conversation,
    answers: Sequence[ChatAnswer | None],
    turns: Callable[[Conversation, Sequence[str]], Turns | Problem],
    language: str,
    meta: dict[str, Any],
) -> None:
    """Keeps or drops what was written of a seed. answers: None for those that max_requests left out."""
    texts: list[str] = []
    for answer in answers:
        if answer is None:
            limit = augmentation.work.options.max_requests
            text = Problem("max_requests", f"not every turn was requested: max_requests is {limit:,}")
        else:
            text = text_of(answer)
        if isinstance(text, Problem):
            augmentation.drop(text, "" if answer is None else answer.text, language, meta)
            return
        texts.append(text)
    made = turns(seed, texts)
    if isinstance(made, Problem):
        augmentation.drop(made, "\n".join(texts), language, meta)
    else:
        augmentation.keep_or_drop(made, language, meta, seed)
