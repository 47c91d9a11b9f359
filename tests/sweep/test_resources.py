"""CPUs and GPUs that a trial of a sweep reserves, with the options that stages really have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.engines import EngineCluster
from pipelines.stage import ClusterOptions
from pipelines.training import TrainCluster
from pipelines.verbs.sweep import _resources


def candidate(*clusters: ClusterOptions) -> Any:
    steps = [
        SimpleNamespace(fingerprint=str(n), entry=SimpleNamespace(cluster=each)) for n, each in enumerate(clusters)
    ]
    return SimpleNamespace(steps=steps)


@pytest.mark.parametrize(
    ("train", "engine", "cluster_gpus", "expected"),
    [
        ({}, {}, 0, (2.0, 0.0)),  # auto, and no GPU in the cluster
        ({}, {}, 1, (2.0, 1.0)),  # too few for two workers, but one for the evaluation
        ({}, {}, 8, (2.0, 2.0)),
        ({"workers": 4, "gpus_per_worker": 1}, {"gpus": 0.5}, 8, (4.0, 4.0)),
        ({"gpus_per_worker": 0}, {"gpus": 0}, 8, (2.0, 0.0)),
    ],
)
def test_a_trial_reserves_the_maximum_of_its_stages(
    train: dict[str, Any], engine: dict[str, Any], cluster_gpus: float, expected: tuple[float, float]
) -> None:
    one = candidate(TrainCluster.model_validate(train), EngineCluster.model_validate(engine))
    assert _resources(one, set(), cluster_gpus) == expected
    assert _resources(one, {"0", "1"}, cluster_gpus) == (1.0, 0.0), "stages that all trials share are not theirs"
