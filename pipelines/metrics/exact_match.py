"""Exact match: how many prompts of narrow tasks get the one right answer, forgiving only case, width and punctuation.

A task is narrow where its conversations carry an answer. The baseline it must beat is in few_shot.py.
"""

from __future__ import annotations

from pipelines.data.dialogues.answer_match import matches
from pipelines.metrics.exchanges import averaged, cells, exchanges
from pipelines.metrics.metric import Answers, Material, Requests, Score


class ExactMatch:
    """heldout/exact_match: the mean over tasks and languages; _en, _zh; and _<task>_<language> each."""

    def requests(self, material: Material) -> Requests | None:
        return material.asked

    def score(self, material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> Score:
        by_cell = cells(
            (one.conversation, float(matches(one.reply.text, one.conversation.answer)))
            for one in exchanges(material, requests, answers, previous)
            if one.conversation.answer is not None
        )
        if not by_cell:
            return Score()
        name = "heldout/exact_match"
        each = {f"{name}_{task}_{language}": value for (task, language), value in by_cell.items()}
        return Score(averaged(name, by_cell) | each)


METRIC = ExactMatch()
