"""Reply length: whether a model became wordy, or silent."""

from __future__ import annotations

from statistics import fmean

from pipelines.metrics.exchanges import exchanges
from pipelines.metrics.metric import Material, Outputs, Requests, Score


def score(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> Score:
    """heldout/reply_tokens, heldout/reply_tokens_before (of the previous model): means, the token that ends a reply not
    counted; heldout/replies_ended: fraction that end before the limit; heldout/prompts: number of prompts."""
    pairs = exchanges(material, requests, outputs, previous)
    facts: dict[str, float | int | str] = {
        "heldout/prompts": len(pairs),
        "heldout/reply_tokens": fmean(len(exchange.reply.tokens) for exchange in pairs),
        "heldout/replies_ended": fmean(reply.finish == "stop" for reply in outputs.replies),
    }
    lengths = [len(exchange.previous_reply.tokens) for exchange in pairs if exchange.previous_reply is not None]
    if lengths:
        facts["heldout/reply_tokens_before"] = fmean(lengths)
    return Score(facts)
