"""Conversations and preference pairs of the built-in tasks.

    TASKS ──split by argument──► conversations ──wrong answers; refusals and helpful replies──► pairs

Pairs follow three rules, and both the chosen and the rejected replies have the same distribution: whatever text is
chosen is rejected as often. So neither length nor wording tells which reply is the better one; only the prompt does.

    correct_before_wrong       the correct answer over one of the wrong answers that came with it
    decline_unsafe             a refusal of an unsafe request over the helpful reply to some harmless prompt
    helpful_before_evasive     that helpful reply to its own prompt over that refusal

Replies of a model that the verifier rejects can be used as well (`pairs_from_model_replies`), so that a reward model
also learns from mistakes which this model really makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.preferences import Pair
from pipelines.data.dialogues.prompt_splits import prompt_key
from pipelines.data.dialogues.tasks.table import TASKS
from pipelines.data.dialogues.tasks.task import LANGUAGES, Example, split
from pipelines.data.dialogues.verifier import is_acceptable

SOURCE = "embedded"  # source of these conversations and pairs
HELPFUL_TASKS = ("look_alike", "small_talk")  # tasks whose helpful replies are paired with refusals


def make_conversations(*, rows: int, held_out_rows: int, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """Training and held-out conversations, up to `rows` and `held_out_rows` of each task and language.

    No argument and no prompt is on both sides."""
    train: list[Conversation] = []
    held_out: list[Conversation] = []
    for name, task in TASKS.items():
        for language in LANGUAGES:
            examples = split(task, language, rows=rows, held_out_rows=held_out_rows, seed=seed)
            train += _conversations(examples.train, name, language, "train")
            held_out += _conversations(examples.held_out, name, language, "held_out")
    held_out_keys = {prompt_key(conversation.prompt) for conversation in held_out}
    train = [conversation for conversation in train if prompt_key(conversation.prompt) not in held_out_keys]
    return train, held_out


def _conversations(examples: Iterable[Example], task: str, language: str, side: str) -> Iterator[Conversation]:
    """Examples of a task as conversations of one exchange."""
    for number, example in enumerate(examples):
        yield Conversation(
            id=f"{SOURCE}/{task}/{language}/{side}/{number}",
            language=language,
            source=SOURCE,
            task=task,
            messages=[{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.reply}],
            answer=example.answer,
            wrong=example.wrong,
            safety=example.safety,
        )


def make_pairs(conversations: Sequence[Conversation], *, wrong_per_prompt: int, seed: int) -> list[Pair]:
    """Preference pairs on the prompts of the built-in tasks' conversations, in the order of those.

    conversations: one split's, so that pairs stay on their side; those of other sources are ignored.
    wrong_per_prompt: pairs for each prompt with a checkable answer, at most as many as it has wrong answers."""
    builtin = [conversation for conversation in conversations if conversation.source == SOURCE]
    unordered = [
        *correct_before_wrong(builtin, wrong_per_prompt=wrong_per_prompt, seed=seed),
        *refusal_pairs(builtin, seed=seed),
    ]
    positions = {conversation.id: position for position, conversation in enumerate(builtin)}
    return sorted(unordered, key=lambda pair: positions[pair.id.rpartition("/")[0]])


def correct_before_wrong(conversations: Iterable[Conversation], *, wrong_per_prompt: int, seed: int) -> Iterator[Pair]:
    """Pairs of the correct answer and a wrong one, for each conversation with a checkable answer."""
    for conversation in conversations:
        if conversation.answer is not None:
            rng = Random(f"{seed}/{conversation.id}")
            number = min(wrong_per_prompt, len(conversation.wrong))
            for index, wrong in enumerate(rng.sample(conversation.wrong, number)):
                yield _pair(conversation, "correct_before_wrong", conversation.reply, wrong, index)


def refusal_pairs(conversations: Sequence[Conversation], *, seed: int) -> Iterator[Pair]:
    """Two pairs for each harmless conversation and an unsafe one of its language, with their two replies swapped.

    There are more harmless conversations, so unsafe ones are reused, each time with another reply as the rejected."""
    for language in LANGUAGES:
        rng = Random(f"{seed}/refusals/{language}")
        candidates = [conversation for conversation in conversations if conversation.language == language]
        unsafe = _shuffled([candidate for candidate in candidates if candidate.safety == "unsafe"], rng)
        helpful = _shuffled([candidate for candidate in candidates if candidate.task in HELPFUL_TASKS], rng)
        if not unsafe:
            continue
        for position, harmless in enumerate(helpful):
            num_reused, index = divmod(position, len(unsafe))
            refused = unsafe[index]
            yield _pair(refused, "decline_unsafe", refused.reply, harmless.reply, num_reused)
            yield _pair(harmless, "helpful_before_evasive", harmless.reply, refused.reply)


def pairs_from_model_replies(conversation: Conversation, replies: Iterable[str]) -> Iterator[Pair]:
    """Pairs of the conversation's reply and each distinct reply of a model that the verifier rejects."""
    if conversation.safety == "unsafe":
        rule = "decline_unsafe"
    elif conversation.answer is not None:
        rule = "correct_before_wrong"
    else:
        rule = "helpful_before_evasive"
    for number, reply in enumerate(dict.fromkeys(replies)):
        if reply.strip() and not is_acceptable(conversation, reply):
            yield _pair(conversation, rule, conversation.reply, reply, f"written-{number}")


def _shuffled(conversations: list[Conversation], rng: Random) -> list[Conversation]:
    return rng.sample(conversations, len(conversations))


def _pair(conversation: Conversation, rule: str, chosen: str, rejected: str, number: int | str = 0) -> Pair:
    """A pair on a conversation's prompt. Raises ValueError where the verifier of win rates would not agree."""
    if not is_acceptable(conversation, chosen) or is_acceptable(conversation, rejected):
        raise ValueError(
            f"{conversation.id}: chosen {chosen!r}, rejected {rejected!r}; expected the verifier to accept the chosen "
            f"reply and to reject the other"
        )
    return Pair(
        id=f"{conversation.id}/{number}",
        language=conversation.language,
        source=SOURCE,
        task=conversation.task,
        rule=rule,
        prompt=conversation.prompt,
        chosen=chosen,
        rejected=rejected,
        answer=conversation.answer,
    )
