"""The metrics. Each says what it asks of a model and scores the answers; a new one is one file and one line here."""

from pipelines.metrics import (
    answer_f1,
    bits_per_byte,
    distinct_n,
    exact_match,
    few_shot,
    refusals,
    replies,
    reply_length,
    samples,
    win_rate,
)
from pipelines.metrics.metric import Metric

METRICS: dict[str, Metric] = {
    "bits_per_byte": bits_per_byte.METRIC,
    "samples": samples.METRIC,
    "exact_match": exact_match.METRIC,
    "few_shot": few_shot.METRIC,
    "answer_f1": answer_f1.METRIC,
    "win_rate": win_rate.METRIC,
    "refusals": refusals.METRIC,
    "distinct_n": distinct_n.METRIC,
    "reply_length": reply_length.METRIC,
    "replies": replies.METRIC,
}
