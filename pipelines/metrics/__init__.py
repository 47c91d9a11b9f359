"""The metrics, and the request sets whose outputs they score."""

from pipelines.metrics import (
    answer_f1,
    bits_per_byte,
    distinct_n,
    exact_match,
    exchanges,
    few_shot,
    refusals,
    replies,
    reply_length,
    reply_loss,
    samples,
    win_rate,
)
from pipelines.metrics.metric import MakeRequests, Metric

REQUEST_SETS: dict[str, MakeRequests] = {
    "windows": bits_per_byte.windows_of_documents,
    "samples": samples.beginnings,
    "few_shot": few_shot.few_shot_prompts,
    "replies": exchanges.chat_prompts,
}

METRICS: dict[str, Metric] = {
    "bits_per_byte": Metric("windows", bits_per_byte.score),
    "samples": Metric("samples", samples.score),
    "exact_match": Metric("replies", exact_match.score),
    "few_shot": Metric("few_shot", few_shot.score),
    "answer_f1": Metric("replies", answer_f1.score),
    "reply_loss": Metric("replies", reply_loss.score),
    "win_rate": Metric("replies", win_rate.score),
    "refusals": Metric("replies", refusals.score),
    "distinct_n": Metric("replies", distinct_n.score),
    "reply_length": Metric("replies", reply_length.score),
    "replies": Metric("replies", replies.score),
}
