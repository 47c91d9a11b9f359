"""Conversations, and models' replies to them, as metrics of replies get them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.inference.reply import Reply, Sampling
from pipelines.metrics.exchanges import chat_prompts
from pipelines.metrics.metric import Material, Outputs, Requests, Score, Scorer
from tests.tiny_models import CONTEXT, Tiny

DECLINED = {"en": "I'm sorry, but I can't help with that.", "zh": "对不起，这个忙我不能帮。"}


def dialogue(
    name: str, task: str, language: str, prompt: str = "?", answer: str | None = None, safety: str = "",
    reply: str = "…",
) -> Conversation:  # fmt: skip
    """A conversation of one turn each. reply: the assistant's, where there is no answer."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer or reply}]
    return Conversation(name, language, "embedded", task, messages, answer, (), safety)


def material(tiny: Tiny, conversations: list[Conversation], **changes: Any) -> Material:
    chat = Chat.open(tiny.first)
    values = {"encoder": Encoder.open(tiny.first), "context": CONTEXT, "seed": 7, "conversations": conversations,
              "chat": chat, "chat_sampling": Sampling(0.0, max_new_tokens=20, stop_ids=chat.stop_ids)}  # fmt: skip
    return Material(**(values | changes))


def replies(tiny: Tiny, texts: list[str], *, end: bool = True) -> Outputs:
    """Outputs of a model that writes these texts; each ends with the token that ends a turn, or is cut."""
    encoder, stop = Encoder.open(tiny.first), Chat.open(tiny.first).stop_ids[0]
    rows = [[*ids.tolist(), *([stop] if end else [])] for ids in encoder.encode(texts)]
    finish = "stop" if end else "length"
    return Outputs(replies=[Reply(row, np.zeros(len(row), np.float32), finish) for row in rows])


def score(scorer: Scorer, what: Material, now: Outputs, previous: Outputs | None = None) -> Score:
    """A metric's score of one reply to each conversation."""
    requests = chat_prompts(what)
    assert requests is not None
    return scorer(what, requests, likely(requests, now), None if previous is None else likely(requests, previous))


def likely(requests: Requests, outputs: Outputs, nats: Sequence[float] = ()) -> Outputs:
    """The outputs of a model that gives every token of a conversation's row so many nats; default: 1."""
    each = nats or [1.0] * len(requests.rows)
    logprobs = [
        np.full(len(row.tokens) - 1, -value, np.float32) for row, value in zip(requests.rows, each, strict=True)
    ]
    return outputs if outputs.logprobs else replace(outputs, logprobs=logprobs)
