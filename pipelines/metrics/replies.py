"""Replies for people to read: a few of each task and language, beside those of the model before. No figure."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pipelines.data.dialogues.verifier import is_acceptable
from pipelines.metrics.exchanges import Exchange, exchanges
from pipelines.metrics.metric import Answers, Material, Requests, Score


class Replies:
    """Rows {metric, language, task, prompt, reply, right, answer?, reply_before?, right_before?}; right: by the rule
    of data/dialogues/verifier.py."""

    def requests(self, material: Material) -> Requests | None:
        return material.asked

    def score(self, material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> Score:
        shown: Counter[tuple[str, str]] = Counter()
        rows = []
        for one in exchanges(material, requests, answers, previous):
            cell = (one.conversation.language, one.conversation.task)
            shown[cell] += 1
            if shown[cell] <= material.num_shown:
                rows.append((cell, _row(one)))
        rows.sort(key=lambda found: found[0])
        return Score(rows=[row for _, row in rows])


def _row(one: Exchange) -> dict[str, Any]:
    asked = one.conversation
    row: dict[str, Any] = {
        "metric": "replies",
        "language": asked.language,
        "task": asked.task,
        "prompt": asked.prompt[-1]["content"],
        "reply": one.reply.text,
        "right": is_acceptable(asked, one.reply.text),
    }
    if asked.answer is not None:
        row["answer"] = asked.answer
    if one.before is not None:
        row |= {"reply_before": one.before.text, "right_before": is_acceptable(asked, one.before.text)}
    return row


METRIC = Replies()
