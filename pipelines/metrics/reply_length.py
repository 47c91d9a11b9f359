"""Reply length: whether a model became wordy, or silent."""

from __future__ import annotations

from statistics import fmean

from pipelines.metrics.exchanges import exchanges
from pipelines.metrics.metric import Answers, Material, Requests, Score


class ReplyLength:
    """heldout/reply_tokens, heldout/reply_tokens_before: means, the token that ends a reply not counted;
    heldout/replies_ended: share that ended by themselves; heldout/prompts: how many were asked."""

    def requests(self, material: Material) -> Requests | None:
        return material.asked

    def score(self, material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> Score:
        found = exchanges(material, requests, answers, previous)
        facts: dict[str, float | int | str] = {
            "heldout/prompts": len(found),
            "heldout/reply_tokens": fmean(len(one.reply.tokens) for one in found),
            "heldout/replies_ended": fmean(reply.finish == "stop" for reply in answers.replies),
        }
        before = [len(one.before.tokens) for one in found if one.before is not None]
        return Score(facts | ({"heldout/reply_tokens_before": fmean(before)} if before else {}))


METRIC = ReplyLength()
