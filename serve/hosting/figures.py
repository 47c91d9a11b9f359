"""The figures of the versions that a server answers with, over all of its routers, or replicas where it has none."""

from __future__ import annotations

import contextlib
from typing import Any

from serve.hosting.outcomes import Key, Outcomes, total

TIMEOUT_S = 10.0


class Figures:
    """What became of the requests of a running application; of a router that ended, what it last said. app: its
    name."""

    def __init__(self, app: str):
        self._app, self._counted = app, dict[str, dict[Key, Outcomes]]()  # by router

    def read(self) -> None:
        """Reads what all that run have counted so far: nothing new where none runs, as while a model is idle."""
        from ray.serve.exceptions import DeploymentUnavailableError

        with contextlib.suppress(DeploymentUnavailableError):
            self._counted |= dict(tell(self._app, "outcomes"))

    def facts(self, key: Key) -> dict[str, float]:
        """Those of a model: as Outcomes.facts."""
        return total(counted[key] for counted in self._counted.values() if key in counted).facts()


def tell(app: str, method: str, *arguments: str) -> list[Any]:
    """What a method of every router of an application returns, or of every replica of its only model; of one that ends
    meanwhile, or does not answer, nothing."""
    import ray.serve

    call = ray.serve.get_app_handle(app).broadcast(method, *arguments)
    answers = call.results(timeout_s=TIMEOUT_S, return_exceptions=True)
    return [answer for answer in answers if not isinstance(answer, Exception)]
