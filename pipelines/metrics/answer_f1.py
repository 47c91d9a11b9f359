"""Answer F1: overlap of a reply with the right answer, in words (Rajpurkar et al. 2016, SQuAD, §6.1)."""

from __future__ import annotations

from pipelines.data.dialogues.answer_match import f1
from pipelines.metrics.exchanges import cell_means, exchanges, macro_averages
from pipelines.metrics.metric import Material, Outputs, Requests, Score


def score(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> Score:
    """heldout/answer_f1: the macro average over tasks with answers and languages; _en, _zh."""
    means = cell_means(
        (exchange.conversation, f1(exchange.reply.text, exchange.conversation.answer))
        for exchange in exchanges(material, requests, outputs, previous)
        if exchange.conversation.answer is not None
    )
    return Score(macro_averages("heldout/answer_f1", means)) if means else Score()
