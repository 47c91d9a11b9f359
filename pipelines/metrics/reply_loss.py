"""Loss on the replies of the held-out conversations: how likely the model finds what the assistant said there."""

from __future__ import annotations

from pipelines.metrics.exchanges import likelihoods
from pipelines.metrics.metric import Material, Outputs, Requests, Score


def score(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> Score:
    """heldout/loss_nats, the mean of a token of these replies; heldout/loss_nats_before, of the previous model."""
    facts: dict[str, float | int | str] = {"heldout/loss_nats": _mean(requests, outputs)}
    if previous is not None:
        facts["heldout/loss_nats_before"] = _mean(requests, previous)
    return Score(facts)


def _mean(requests: Requests, outputs: Outputs) -> float:
    each = likelihoods(requests, outputs)
    return sum(one.nats for one in each) / sum(one.num_tokens for one in each)
