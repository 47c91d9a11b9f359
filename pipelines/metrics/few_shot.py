"""What exact match must beat: the better of the base model without a template, shown examples, and one fixed answer.

    question↵answer↵↵ … question↵   ──base model──► a line, compared with the answer
    the commonest training answer of each task and language, given to every prompt of it

Asked only where the model before is a base model: later ones have the template from it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from pipelines.data.dialogues.answer_match import matches, normalised
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.inference.reply import Sampling
from pipelines.metrics.exchanges import averaged, cells
from pipelines.metrics.metric import Answers, Material, Prompt, Requests, Score

BATCH = 1024  # tokens decoded at once


def question(conversation: Conversation) -> str:
    """A prompt as plain text: what was said, a line or more a turn."""
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


def commonest(shots: Iterable[Conversation]) -> dict[tuple[str, str], str]:
    """The answer that is given most often by (task, language); of equally common ones the first in the alphabet."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for one in shots:
        if one.answer is not None:
            counts.setdefault((one.task, one.language), Counter())[normalised(one.answer)] += 1
    return {cell: min(own, key=lambda answer: (-own[answer], answer)) for cell, own in counts.items()}


class FewShot:
    """heldout/exact_match_few_shot, heldout/exact_match_commonest, and the better of the two as
    heldout/exact_match_baseline; each with _en, _zh. No baseline where the base model could not be asked."""

    def requests(self, material: Material) -> Requests | None:
        if not material.previous_is_base or material.asked is None:
            return None
        pools: dict[tuple[str, str], list[Conversation]] = {}
        for one in material.shots:
            pools.setdefault((one.task, one.language), []).append(one)
        prompts = []
        for one in material.asked.prompts:
            asked: Conversation = one.about
            if asked.answer is not None:
                pool = pools.get((asked.task, asked.language), [])
                prompts.append(Prompt(_tokens(material, asked, pool), one.seed, about=asked))
        stop_ids = (*line_ends(material.encoder), material.encoder.eos_id)
        sampling = Sampling(0.0, max_new_tokens=material.chat_sampling.max_new_tokens, stop_ids=stop_ids)
        return Requests(prompts=prompts, sampling=sampling, asks="previous") if prompts else None

    def score(self, material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> Score:
        wanted: list[Conversation] = [prompt.about for prompt in requests.prompts]
        common = commonest(material.shots)
        fixed = [matches(common.get((one.task, one.language), ""), str(one.answer)) for one in wanted]
        by_fixed = averaged("", cells(zip(wanted, map(float, fixed), strict=True)))
        facts = {f"heldout/exact_match_commonest{language}": value for language, value in by_fixed.items()}
        if previous is None:
            return Score(facts)
        said = [material.encoder.tokenizer.decode(reply.tokens).partition("\n")[0] for reply in previous.replies]
        shown = [matches(reply, str(one.answer)) for reply, one in zip(said, wanted, strict=True)]
        by_shots = averaged("", cells(zip(wanted, map(float, shown), strict=True)))
        for language, value in by_shots.items():
            facts[f"heldout/exact_match_few_shot{language}"] = value
            facts[f"heldout/exact_match_baseline{language}"] = max(float(value), float(by_fixed[language]))
        return Score(facts)


def _tokens(material: Material, conversation: Conversation, pool: Sequence[Conversation]) -> list[int]:
    """Examples drawn for this prompt, as many as fit, and its question."""
    drawn = random.Random(f"{material.seed}/{conversation.id}").sample(pool, min(material.num_shots, len(pool)))
    *examples, asked = material.encoder.encode([*map(shot, drawn), question(conversation)])
    room = material.context - material.chat_sampling.max_new_tokens - 1
    tokens = asked.tolist()[-room:]
    for example in examples:
        if len(tokens) + len(example) <= room:
            tokens = [*example.tolist(), *tokens]
    return [material.start_id, *tokens]


METRIC = FewShot()
