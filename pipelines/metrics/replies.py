"""Replies for people to read: a few of each task and language, beside those of the previous model. No figure."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pipelines.data.dialogues.verifier import is_acceptable
from pipelines.metrics.exchanges import Exchange, exchanges
from pipelines.metrics.metric import Material, Outputs, Requests, Score


def score(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> Score:
    """Rows {metric, language, task, prompt, reply, right, answer?, reply_before?, right_before?}; right: by the rule of
    data/dialogues/verifier.py; …_before: of the previous model."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for exchange in exchanges(material, requests, outputs, previous):
        cell = rows[exchange.conversation.language, exchange.conversation.task]
        if len(cell) < material.max_reply_rows:
            cell.append(_row(exchange))
    return Score(rows=[row for _, cell in sorted(rows.items()) for row in cell])


def _row(exchange: Exchange) -> dict[str, Any]:
    conversation, earlier = exchange.conversation, exchange.previous_reply
    row: dict[str, Any] = {
        "metric": "replies",
        "language": conversation.language,
        "task": conversation.task,
        "prompt": conversation.prompt[-1]["content"],
        "reply": exchange.reply.text,
        "right": is_acceptable(conversation, exchange.reply.text),
    }
    if conversation.answer is not None:
        row["answer"] = conversation.answer
    if earlier is not None:
        row |= {"reply_before": earlier.text, "right_before": is_acceptable(conversation, earlier.text)}
    return row
