"""Baselines of exact match: the base model with few-shot prompts, without a template; and one fixed answer.

    question↵answer↵↵ … question↵   ──base model──► a line, compared with the answer
    the commonest training answer of each task and language, as the reply to every prompt of it

Only where the previous model is a base model: later ones have learnt the template from it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipelines.data.dialogues.answer_match import matches, normalised
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.inference.reply import Sampling
from pipelines.metrics.exchanges import cell_means, chat_prompts, macro_averages
from pipelines.metrics.metric import Material, Outputs, Requests, Score

BATCH = 1024  # tokens decoded at once


def question(conversation: Conversation) -> str:
    """A prompt as plain text: its messages, a line or more each."""
    return "\n".join(message["content"].strip() for message in conversation.prompt) + "\n"


def shot(conversation: Conversation) -> str:
    """A training example as plain text."""
    return f"{question(conversation)}{conversation.answer}\n\n"


def line_ends(encoder: Encoder) -> tuple[int, ...]:
    """Every token whose text has a line break: a reply that is one line ends with the first of them."""
    ids = range(encoder.vocabulary)
    texts = [
        text
        for first in range(0, len(ids), BATCH)
        for text in encoder.tokenizer.decode_batch([[i] for i in ids[first : first + BATCH]], skip_special_tokens=False)
    ]
    return tuple(i for i, text in zip(ids, texts, strict=True) if "\n" in text)


def commonest_answers(shots: Iterable[Conversation]) -> dict[tuple[str, str], str]:
    """The most frequent answer by (task, language); of equally frequent ones the first in the alphabet."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for example in shots:
        if example.answer is not None:
            counts.setdefault((example.task, example.language), Counter())[normalised(example.answer)] += 1
    return {cell: min(answers, key=lambda answer: (-answers[answer], answer)) for cell, answers in counts.items()}


def few_shot_prompts(material: Material) -> Requests | None:
    """A few-shot prompt for each held-out conversation with an answer, for the previous model where it is a base."""
    chat = chat_prompts(material) if material.previous_is_base else None
    if chat is None or chat.is_empty:
        return None
    pools: dict[tuple[str, str], list[Conversation]] = {}
    for example in material.shots:
        pools.setdefault((example.task, example.language), []).append(example)
    prompts = []
    for prompt in chat.prompts:
        conversation: Conversation = prompt.conversation
        if conversation.answer is not None:
            pool = pools.get((conversation.task, conversation.language), [])
            prompts.append(replace(prompt, tokens=_tokens(material, conversation, pool)))
    stop_ids = (*line_ends(material.encoder), material.encoder.eos_id)
    sampling = Sampling(0.0, max_new_tokens=material.chat_sampling.max_new_tokens, stop_ids=stop_ids)
    return Requests(prompts=prompts, sampling=sampling, models="previous") if prompts else None


def score(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> Score:
    """heldout/exact_match_few_shot, heldout/exact_match_commonest, and the better of the two as
    heldout/exact_match_baseline; each with _en, _zh. No baseline where the base model could not run."""
    conversations: list[Conversation] = [prompt.conversation for prompt in requests.prompts]
    commonest = commonest_answers(material.shots)
    fixed_replies = [commonest.get((c.task, c.language), "") for c in conversations]
    fixed = _exact_match(conversations, fixed_replies)
    facts = {f"heldout/exact_match_commonest{suffix}": value for suffix, value in fixed.items()}
    if previous is None:
        return Score(facts)
    lines = [material.encoder.tokenizer.decode(reply.tokens).partition("\n")[0] for reply in previous.replies]
    for suffix, value in _exact_match(conversations, lines).items():
        facts[f"heldout/exact_match_few_shot{suffix}"] = value
        facts[f"heldout/exact_match_baseline{suffix}"] = max(float(value), float(fixed[suffix]))
    return Score(facts)


def _exact_match(conversations: Sequence[Conversation], replies: Sequence[str]) -> dict[str, float | int | str]:
    """Macro averages by suffix: "" for all languages, "_en", "_zh"."""
    right = [float(matches(reply, str(c.answer))) for c, reply in zip(conversations, replies, strict=True)]
    return macro_averages("", cell_means(zip(conversations, right, strict=True)))


def _tokens(material: Material, conversation: Conversation, pool: Sequence[Conversation]) -> list[int]:
    """Examples drawn for this prompt, as many as fit, and its question."""
    drawn = random.Random(f"{material.seed}/{conversation.id}").sample(pool, min(material.num_shots, len(pool)))
    *examples, last = material.encoder.encode([*map(shot, drawn), question(conversation)])
    max_tokens = material.context - material.chat_sampling.max_new_tokens - 1
    tokens = last.tolist()[-max_tokens:]
    for example in examples:
        if len(tokens) + len(example) <= max_tokens:
            tokens = [*example.tolist(), *tokens]
    return [material.start_id, *tokens]
