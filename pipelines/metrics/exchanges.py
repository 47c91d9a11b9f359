"""Exchanges: a held-out conversation's prompt with the replies of this model and of the previous one; and their means.

What all metrics of replies have in common. Figures are macro averages: unweighted means over tasks and languages, so
that a task with many prompts counts no more than one with few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.inference.reply import Reply
from pipelines.metrics.metric import Material, Outputs, Prompt, Requests, named_seed

CellMeans = Mapping[tuple[str, str], float]
"""A figure by (task, language)."""


@dataclass(frozen=True)
class ReplyText:
    """A reply as text, and its tokens without the one that ends it."""

    text: str
    tokens: list[int]


@dataclass(frozen=True)
class Exchange:
    """A conversation, the reply to its prompt, and the previous model's where there is one that could run."""

    conversation: Conversation
    reply: ReplyText
    previous_reply: ReplyText | None = None


def chat_prompts(material: Material) -> Requests | None:
    """The prompts of the held-out conversations, for this model and the previous one.

    A prompt that leaves no room in the context for a whole reply is left out."""
    if material.chat is None:
        return None
    max_prompt_tokens = material.context - material.chat_sampling.max_new_tokens
    prompts = [
        Prompt(material.chat.prompt(c.prompt), named_seed(c.id, material.seed), c.language, conversation=c)
        for c in material.conversations
    ]
    prompts = [prompt for prompt in prompts if len(prompt.tokens) <= max_prompt_tokens]
    return Requests(prompts=prompts, sampling=material.chat_sampling, models="both") if prompts else None


def exchanges(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> list[Exchange]:
    """The outputs for `chat_prompts` as text."""
    assert material.chat is not None, "its template rendered the prompts"
    replies = [_text(material.chat, reply) for reply in outputs.replies]
    earlier = [None] * len(replies) if previous is None else [_text(material.chat, r) for r in previous.replies]
    conversations = [prompt.conversation for prompt in requests.prompts]
    return [Exchange(*columns) for columns in zip(conversations, replies, earlier, strict=True)]


def _text(chat: Chat, reply: Reply) -> ReplyText:
    return ReplyText(chat.text(reply.tokens), reply.tokens[:-1] if reply.finish == "stop" else reply.tokens)


def cell_means(values: Iterable[tuple[Conversation, float]]) -> dict[tuple[str, str], float]:
    """Means by (task, language), in alphabetical order."""
    cells: dict[tuple[str, str], list[float]] = {}
    for conversation, value in values:
        cells.setdefault((conversation.task, conversation.language), []).append(value)
    return {cell: fmean(cell_values) for cell, cell_values in sorted(cells.items())}


def macro_averages(name: str, means: CellMeans) -> dict[str, float | int | str]:
    """The unweighted mean over all cells as `name`, and over those of each language as `name_en`, `name_zh`."""
    facts: dict[str, float | int | str] = {name: fmean(means.values())}
    for code in sorted({language for _, language in means}):
        facts[f"{name}_{code}"] = fmean(value for (_, language), value in means.items() if language == code)
    return facts
