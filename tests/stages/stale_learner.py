"""A learner whose sampler never gets the updated weights."""

from __future__ import annotations

from pipelines.inference.sampler import PushResult
from pipelines.rollout.learner import Learner


class StaleLearner(Learner):
    """Publishes the initial weights in place of the policy's."""

    def publish(self) -> PushResult:
        policy = self._engines["policy"]
        if self._steps == 0:
            self._first = [
                (name.removeprefix("model."), weight.clone())
                for name, weight in policy.live_weights(lambda name: name.startswith("model."))
            ]
        return self._sampler.push(iter(self._first), self._probe, tied="embed_tokens.weight", prove_now=False)
