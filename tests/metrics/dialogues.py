"""Conversations, and models' replies to them, as metrics of replies meet them."""

from __future__ import annotations

import numpy as np

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.inference.reply import Reply, Sampling
from pipelines.metrics.metric import Answers, Material, Metric, Score
from tests.tiny_models import CONTEXT, Tiny

DECLINED = {"en": "I'm sorry, but I can't help with that.", "zh": "对不起，这个忙我不能帮。"}


def talk(name: str, task: str, language: str, asked: str = "?", answer: str | None = None, safety: str = ""):
    """A conversation of one turn each."""
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer or "…"}]
    return Conversation(name, language, "embedded", task, messages, answer, (), safety)


def material(tiny: Tiny, conversations: list[Conversation], **changes) -> Material:
    chat = Chat.open(tiny.first)
    values = {"encoder": Encoder.open(tiny.first), "context": CONTEXT, "seed": 7, "conversations": conversations,
              "chat": chat, "chat_sampling": Sampling(0.0, max_new_tokens=20, stop_ids=chat.stop_ids)}  # fmt: skip
    return Material(**(values | changes))


def replies(tiny: Tiny, texts: list[str], *, end: bool = True) -> Answers:
    """What a model that writes these texts answers; each ends with the token that ends a turn, or is cut."""
    encoder, stop = Encoder.open(tiny.first), Chat.open(tiny.first).stop_ids[0]
    rows = [[*ids.tolist(), *([stop] if end else [])] for ids in encoder.encode(texts)]
    finish = "stop" if end else "length"
    return Answers(replies=[Reply(row, np.zeros(len(row), np.float32), finish) for row in rows])


def score(metric: Metric, what: Material, now: Answers, before: Answers | None = None) -> Score:
    """A metric's score of one reply to each conversation."""
    requests = metric.requests(what)
    assert requests is not None and requests is what.asked, "all metrics of replies share one pass"
    return metric.score(what, requests, now, before)
