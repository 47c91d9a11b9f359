"""Exchanges: a held-out conversation's prompt with the replies of this model and of the previous one; and their means.

What all metrics of replies have in common. Figures are macro averages: unweighted means over tasks and languages, so
that a task with many prompts counts no more than one with few. Each prompt comes with a row of its whole conversation,
by which a model's likelihood of the conversation's own replies is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import CallsRefusal, Chat
from pipelines.errors import UserError
from pipelines.inference.reply import Reply
from pipelines.metrics.metric import Material, Outputs, Prompt, Requests, Row, named_seed

CellMeans = Mapping[tuple[str, str], float]
"""A figure by (task, language)."""


@dataclass(frozen=True)
class ReplyText:
    """A reply as text, and its tokens without the one that ends it."""

    text: str
    tokens: list[int]


@dataclass(frozen=True)
class Likelihood:
    """Of a conversation's own last reply under a model: nats, summed over tokens, and the number of these tokens."""

    nats: float
    num_tokens: int


@dataclass(frozen=True)
class Exchange:
    """A conversation, the reply to its prompt, and the previous model's where there is one that could run."""

    conversation: Conversation
    reply: ReplyText
    likelihood: Likelihood
    previous_reply: ReplyText | None = None
    previous_likelihood: Likelihood | None = None


def chat_prompts(material: Material) -> Requests | None:
    """The prompts of the held-out conversations, and the conversations as rows, for this model and the previous one.

    Left out and counted: a prompt without room in the context for a whole reply (too_long), and a conversation that the
    template refuses, or writes otherwise than its prompt (template_refuses; tools, where it writes no calls). A row is
    cut at the context; its mask is that of the last reply. None without a template or conversations."""
    chat = material.chat
    if chat is None or not material.conversations:
        return None
    max_prompt_tokens = material.context - material.chat_sampling.max_new_tokens
    tokens_of_prompts = chat.prompts(
        [c.prompt for c in material.conversations], [c.tools for c in material.conversations]
    )
    scored: list[tuple[Prompt, Row]] = []
    not_used: Counter[str] = Counter()
    for conversation, tokens in zip(material.conversations, tokens_of_prompts, strict=True):
        if isinstance(tokens, list) and len(tokens) > max_prompt_tokens:
            not_used["too_long"] += 1
            continue
        seed = named_seed(conversation.id, material.seed)
        prompt = tokens if isinstance(tokens, UserError) else Prompt(tokens, seed, conversation.language, conversation)
        row = prompt if isinstance(prompt, UserError) else _row(chat, prompt, material.context)
        if isinstance(prompt, UserError) or isinstance(row, UserError):
            not_used["tools" if isinstance(row, CallsRefusal) else "template_refuses"] += 1
        else:
            scored.append((prompt, row))
    rows, prompts = [row for _, row in scored], [prompt for prompt, _ in scored]
    return Requests(rows, prompts, material.chat_sampling, "both", dict(sorted(not_used.items())))


def _row(chat: Chat, prompt: Prompt, context: int) -> Row | UserError:
    """A prompt's whole conversation, or why it cannot be scored."""
    try:
        rendered = chat.conversation(prompt.conversation.messages, prompt.conversation.tools)
    except UserError as error:
        return error
    loss_mask = rendered.loss_mask[:context].copy()
    loss_mask[: len(prompt.tokens)] = False
    if not loss_mask.any():
        return UserError("the model's chat template writes no reply after the prompt")
    return Row(rendered.ids[:context].tolist(), prompt.language, loss_mask)


def exchanges(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> list[Exchange]:
    """The outputs for `chat_prompts` as text, with the likelihoods of the conversations' own replies."""
    assert material.chat is not None, "its template rendered the prompts"
    conversations = [prompt.conversation for prompt in requests.prompts]
    columns: list[Any] = [conversations, *_read(material.chat, requests, outputs)]
    columns += [[None] * len(conversations)] * 2 if previous is None else _read(material.chat, requests, previous)
    return [Exchange(*values) for values in zip(*columns, strict=True)]


def _read(chat: Chat, requests: Requests, outputs: Outputs) -> tuple[list[ReplyText], list[Likelihood]]:
    """A model's replies and likelihoods."""
    return [_text(chat, reply) for reply in outputs.replies], likelihoods(requests, outputs)


def likelihoods(requests: Requests, outputs: Outputs) -> list[Likelihood]:
    """Of each conversation's own replies under the model."""
    values = []
    for row, logprobs in zip(requests.rows, outputs.logprobs, strict=True):
        assert row.loss_mask is not None, "chat_prompts sets it"
        of_replies = np.asarray(logprobs, np.float64)[row.loss_mask[1:]]
        values.append(Likelihood(-float(of_replies.sum()), len(of_replies)))
    return values


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
