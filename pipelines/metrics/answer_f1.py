"""Answer F1: how much of the right answer a reply has, and how little else (Rajpurkar et al. 2016, SQuAD, §6.1)."""

from __future__ import annotations

from pipelines.data.dialogues.answer_match import f1
from pipelines.metrics.exchanges import averaged, cells, exchanges
from pipelines.metrics.metric import Answers, Material, Requests, Score


class AnswerF1:
    """heldout/answer_f1: the mean over narrow tasks and languages; _en, _zh."""

    def requests(self, material: Material) -> Requests | None:
        return material.asked

    def score(self, material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> Score:
        by_cell = cells(
            (one.conversation, f1(one.reply.text, one.conversation.answer))
            for one in exchanges(material, requests, answers, previous)
            if one.conversation.answer is not None
        )
        return Score(averaged("heldout/answer_f1", by_cell)) if by_cell else Score()


METRIC = AnswerF1()
