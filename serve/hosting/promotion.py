"""After a promotion: the version that took over is watched, and taken back where it does worse than the one before.

By the rules of a canary (canary.py), but one after the other: errors and thumbs from the first few requests on, and its
speed, which depends on the load of the hour, once, after all the requests that a canary needs to pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from serve.hosting.canary import PERIOD_S, count_thumbs, fault
from serve.hosting.figures import Figures
from serve.settings import Settings

Facts = dict[str, float]


def figures_of(settings: Settings, log: Callable[[str], object]) -> dict[str, Facts]:
    """The figures of each model of a running server so far, by its name."""
    figures = Figures(settings.app)
    try:
        figures.read()
    except Exception as error:  # of Ray: a version is taken over all the same
        log(f"what takes over is judged by itself, as the figures before it are lost: {type(error).__name__}: {error}")
    return {model.name: figures.facts(_key(model)) for model in settings.models if not model.canary}


class Promoted:
    """The models that took over since their aliases were moved. earlier: the settings before, figures: those of its
    models."""

    def __init__(self, earlier: Settings, figures: dict[str, Facts], settings: Settings):
        before = {model.name: model for model in earlier.models if not model.canary}
        self._settings, self._before, self._earlier_figures = settings, before, figures
        self._watched = [
            model for model in settings.models
            if not model.canary and model.alias and model.name in before
            and model.artifact != before[model.name].artifact and model.variant != before[model.name].variant
        ]  # fmt: skip
        self._figures, self._thumbs = Figures(settings.app), self._count_thumbs() if self._watched else {}
        self._next_s, self.problem = time.monotonic() + PERIOD_S, ""  # the last error of watching, or of taking back

    def goes_on(self, following: Settings) -> bool:
        """Ends the watch of what other settings, which took over, serve no more; returns whether any is left."""
        served = {(model.name, model.artifact, model.version) for model in following.models if not model.canary}
        self._watched = [each for each in self._watched if (each.name, each.artifact, each.version) in served]
        return bool(self._watched)

    def decisions(self) -> Iterator[dict[str, Any]]:
        """The evidence against each model that does worse: again where its caller breaks off, else once."""
        if not self._watched or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + PERIOD_S
        self._figures.read()
        thumbs, rules = self._count_thumbs(), self._settings.canary_rules
        for model in list(self._watched):
            before = self._before[model.name]
            facts = self._figures.facts(_key(model)) | self._new_thumbs(model, thumbs)
            earlier, is_last = self._earlier_figures.get(model.name, {}), facts["requests"] >= rules.requests
            reason = fault(facts if is_last else {**facts, "replies": 0}, earlier, rules)
            if reason is not None:
                yield {"model": model.name, "alias": model.alias, "artifact": model.artifact, "version": model.version,
                       "serving": before.version, "promoted": facts, "earlier": earlier, "rules": rules.model_dump(),
                       "reason": reason}  # fmt: skip
            if reason is not None or is_last:
                self._watched.remove(model)
        self.problem = ""

    def _count_thumbs(self) -> dict[str, dict[str, int]]:
        return count_thumbs(self._settings.feedback, self._settings.feedback_url)

    def _new_thumbs(self, model: Settings, thumbs: dict[str, dict[str, int]]) -> dict[str, int]:
        """The thumbs of a model's version since it took over."""
        earlier = self._thumbs.get(model.version, {})
        return {name: number - earlier.get(name, 0) for name, number in thumbs.get(model.version, {}).items()}


def _key(model: Settings) -> tuple[str, str, bool]:
    return model.name, model.version, False
