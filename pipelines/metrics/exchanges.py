"""Exchanges: a held-out conversation's prompt with what the model, and the one before it, replied; and means of them.

What all metrics of replies share. Figures are unweighted means over tasks and languages, so that a task with many
prompts says no more than one with few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from pipelines.data.dialogues.conversations import Conversation
from pipelines.inference.reply import Reply
from pipelines.metrics.metric import Answers, Material, Requests

Cells = Mapping[tuple[str, str], float]
"""A figure by (task, language)."""


@dataclass(frozen=True)
class Said:
    """A reply's words, and its tokens without the one that ends it."""

    text: str
    tokens: list[int]


@dataclass(frozen=True)
class Exchange:
    """A prompt and its replies. before: of the model before, where there is one that could be asked."""

    conversation: Conversation
    reply: Said
    before: Said | None = None


def exchanges(material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> list[Exchange]:
    """The answers to `material.asked`, as text."""
    before = [None] * len(requests.prompts) if previous is None else [_said(material, r) for r in previous.replies]
    return [
        Exchange(prompt.about, _said(material, reply), earlier)
        for prompt, reply, earlier in zip(requests.prompts, answers.replies, before, strict=True)
    ]


def _said(material: Material, reply: Reply) -> Said:
    assert material.chat is not None, "prompts were made with it"
    return Said(material.chat.text(reply.tokens), reply.tokens[:-1] if reply.finish == "stop" else reply.tokens)


def cells(values: Iterable[tuple[Conversation, float]]) -> dict[tuple[str, str], float]:
    """Means by (task, language), in alphabetical order."""
    found: dict[tuple[str, str], list[float]] = {}
    for conversation, value in values:
        found.setdefault((conversation.task, conversation.language), []).append(value)
    return {cell: fmean(own) for cell, own in sorted(found.items())}


def averaged(name: str, by_cell: Cells) -> dict[str, float | int | str]:
    """The unweighted mean over all cells as `name`, and over those of each language as `name_en`, `name_zh`."""
    languages = sorted({language for _, language in by_cell})
    facts: dict[str, float | int | str] = {name: fmean(by_cell.values())}
    for code in languages:
        facts[f"{name}_{code}"] = fmean(value for (_, language), value in by_cell.items() if language == code)
    return facts
