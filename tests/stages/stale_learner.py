"""A learner whose sampler does not get the weights of its third iteration."""

from __future__ import annotations

from pipelines.inference.probe import PushResult
from pipelines.rollout.learner import Learner


class StaleLearner(Learner):
    """Publishes the initial weights in place of the policy's, from the fourth time on."""

    _num_published = 0

    def publish(self) -> PushResult:
        policy = self._engines["policy"]
        if self._num_published == 0:
            self._first = [
                (name.removeprefix("model."), weight.clone())
                for name, weight in policy.live_weights(lambda name: name.startswith("model."))
            ]
        self._num_published += 1
        if self._num_published <= 3:
            return super().publish()
        return self._sampler.push(iter(self._first), self._probe, tied="embed_tokens.weight", prove_now=False)
