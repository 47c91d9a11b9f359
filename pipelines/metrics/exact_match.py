"""Exact match: fraction of prompts whose reply is the right answer, but for case, width and punctuation.

For tasks whose conversations carry an answer. The baseline it must beat is in few_shot.py.
"""

from __future__ import annotations

from pipelines.data.dialogues.answer_match import matches
from pipelines.metrics.exchanges import cell_means, exchanges, macro_averages
from pipelines.metrics.metric import Material, Outputs, Requests, Score


def score(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> Score:
    """heldout/exact_match: the macro average over tasks and languages; _en, _zh; and _<task>_<language> each."""
    means = cell_means(
        (exchange.conversation, float(matches(exchange.reply.text, exchange.conversation.answer)))
        for exchange in exchanges(material, requests, outputs, previous)
        if exchange.conversation.answer is not None
    )
    if not means:
        return Score()
    name = "heldout/exact_match"
    each = {f"{name}_{task}_{language}": value for (task, language), value in means.items()}
    return Score(macro_averages(name, means) | each)
