"""The embedded tasks as rows: conversations, and preference pairs made of them by the rule of judging.py.

    TASKS ──split by argument──► conversations ──wrong answers; refusals against replies──► pairs

Three rules make pairs, and each is blind to all but the prompt: whatever stands among the chosen replies stands among
the rejected ones as often. So neither length nor wording tells which reply is the better one.

    correct_before_wrong       the right answer before one of the wrong ones that came with it
    decline_unsafe             a refusal of an unsafe request before the helpful reply to some harmless one
    helpful_before_evasive     that helpful reply to its own prompt before that refusal

Replies that a model wrote itself and that miss the rule can be rejected too (`turned_down`): then a reward model knows
the mistakes that this model makes, and not only those that were thought of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random

from pipelines.data.dialogues import prompt_splits
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.judging import meets
from pipelines.data.dialogues.preferences import Pair
from pipelines.data.dialogues.tasks.table import TASKS
from pipelines.data.dialogues.tasks.task import LANGUAGES, Example, split

SOURCE = "embedded"
ANSWERED = ("look_alike", "small_talk")  # whose helpful replies stand against refusals


def conversations(*, rows: int, held_out_rows: int, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """(training, held out): up to so many of each task and language, no argument and no prompt on both sides."""
    train: list[Conversation] = []
    held_out: list[Conversation] = []
    for name, task in TASKS.items():
        for language in LANGUAGES:
            found = split(task, language, rows=rows, held_out_rows=held_out_rows, seed=seed)
            place = f"{SOURCE}/{name}/{language}"
            train += [_conversation(f"{place}/train/{n}", one) for n, one in enumerate(found.train)]
            held_out += [_conversation(f"{place}/held_out/{n}", one) for n, one in enumerate(found.held_out)]
    asked = {prompt_splits.key(one.prompt) for one in held_out}
    return [one for one in train if prompt_splits.key(one.prompt) not in asked], held_out


def _conversation(name: str, example: Example) -> Conversation:
    _, task, language, *_ = name.split("/")
    messages = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.reply}]
    return Conversation(
        id=name,
        language=language,
        source=SOURCE,
        task=task,
        messages=messages,
        answer=example.answer,
        wrong=example.wrong,
        safety=example.safety,
    )


def pairs(found: Sequence[Conversation], *, wrong_per_prompt: int, seed: int) -> list[Pair]:
    """Pairs on the prompts of embedded conversations, in their order; those of one split at a time."""
    own = [one for one in found if one.source == SOURCE]
    made = [*correct_before_wrong(own, wrong_per_prompt=wrong_per_prompt, seed=seed), *refusals(own, seed=seed)]
    places = {one.id: place for place, one in enumerate(own)}
    return sorted(made, key=lambda pair: places[pair.id.rpartition("/")[0]])


def correct_before_wrong(found: Iterable[Conversation], *, wrong_per_prompt: int, seed: int) -> Iterator[Pair]:
    """For each conversation with an answer that can be checked: the right one before so many of its wrong ones."""
    for one in found:
        if one.answer is not None:
            rng = Random(f"{seed}/{one.id}")
            for number, wrong in enumerate(rng.sample(one.wrong, min(wrong_per_prompt, len(one.wrong)))):
                yield _pair(one, "correct_before_wrong", one.reply, wrong, number)


def refusals(found: Sequence[Conversation], *, seed: int) -> Iterator[Pair]:
    """Harmless prompts, each with an unsafe one of its language: what the one chooses is what the other rejects.

    There are more harmless prompts, so unsafe ones come again, each time with another reply to reject."""
    for language in LANGUAGES:
        rng = Random(f"{seed}/refusals/{language}")
        own = [one for one in found if one.language == language]
        unsafe = _shuffled([one for one in own if one.safety == "unsafe"], rng)
        answered = _shuffled([one for one in own if one.task in ANSWERED], rng)
        for place, harmless in enumerate(answered if unsafe else []):
            time, which = divmod(place, len(unsafe))
            declined = unsafe[which]
            yield _pair(declined, "decline_unsafe", declined.reply, harmless.reply, time)
            yield _pair(harmless, "helpful_before_evasive", harmless.reply, declined.reply)


def turned_down(one: Conversation, replies: Iterable[str]) -> Iterator[Pair]:
    """The given reply before each of a model's replies that misses the rule; equal ones once."""
    if one.safety == "unsafe":
        rule = "decline_unsafe"
    else:
        rule = "helpful_before_evasive" if one.answer is None else "correct_before_wrong"
    for number, reply in enumerate(dict.fromkeys(replies)):
        if reply.strip() and not meets(one, reply):
            yield _pair(one, rule, one.reply, reply, f"written-{number}")


def _shuffled(values: list[Conversation], rng: Random) -> list[Conversation]:
    return rng.sample(values, len(values))


def _pair(one: Conversation, rule: str, chosen: str, rejected: str, number: int | str = 0) -> Pair:
    """A pair, held against the rule that win rates are judged by."""
    if not meets(one, chosen) or meets(one, rejected):
        raise ValueError(f"{one.id}: {chosen!r} before {rejected!r} is not what judging.meets says")
    return Pair(
        id=f"{one.id}/{number}",
        language=one.language,
        source=SOURCE,
        task=one.task,
        rule=rule,
        prompt=one.prompt,
        chosen=chosen,
        rejected=rejected,
        answer=one.answer,
    )
