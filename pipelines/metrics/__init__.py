"""The metrics. Each says what it asks of a model and scores the answers; a new one is one file and one line here."""

from pipelines.metrics import bits_per_byte, samples
from pipelines.metrics.metric import Metric

METRICS: dict[str, Metric] = {
    "bits_per_byte": bits_per_byte.METRIC,
    "samples": samples.METRIC,
}
