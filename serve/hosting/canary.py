"""A canary: another version that gets a share of a model's requests, and none any more where it does worse.

Compared are the share of failed requests, the time to the first bytes and that for each token of whole replies, as the
routers count them (outcomes.py), and the thumbs of the database of feedback. Every decision is handed out with its
evidence.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve.gateway.database import DatabaseError, open_database
from serve.gateway.feedback import FeedbackStore
from serve.hosting.figures import Figures, tell
from serve.settings import CanaryRules, Settings

PERIOD_S = 5.0
SLOWNESS = {"first_bytes_s": "to the first bytes", "token_s": "for each token of a whole reply"}


class Watch:
    """Watches the canaries of a server that runs. settings: of the server; canaries that were stopped stay so."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._canaries = [model for model in settings.models if model.canary and not model.canary_stopped]
        self._stopped = {(model.name, model.variant) for model in settings.models if model.canary_stopped}
        self._figures = Figures(settings.app)
        self._next_s = time.monotonic() + PERIOD_S

    def with_stopped(self, settings: Settings) -> Settings:
        """Settings in which the canaries that were stopped here are stopped too, of the same names and variants."""
        others = tuple(
            other.model_copy(update={"canary_stopped": True})
            if other.canary and (other.name, other.variant) in self._stopped
            else other
            for other in settings.others
        )
        return settings.model_copy(update={"others": others})

    def decisions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Decisions since the last call: (canary_stopped or canary_passed, evidence). A stopped one gets no request
        any more."""
        if not (self._canaries or self._stopped) or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + PERIOD_S
        for name in {name for name, _ in self._stopped}:  # one that was started anew meanwhile does not know of it
            tell(self.settings.app, "stop_canary", name)
        if not self._canaries:
            return
        self._figures.read()
        counted = count_thumbs(self.settings.feedback, self.settings.feedback_url)
        for canary in list(self._canaries):
            stable = next(model for model in self.settings.models if model.name == canary.name and not model.canary)
            thumbs = counted if canary.version != stable.version else {}  # which are counted by version
            of_canary, of_stable = (self._figures.facts((each.name, each.version, bool(each.canary)))
                                    for each in (canary, stable))  # fmt: skip
            evidence = {
                "model": canary.name, "share": canary.canary, "version": canary.version, "variant": canary.variant,
                "serving": stable.version,
                "canary": {**of_canary, **thumbs.get(canary.version, {})},
                "stable": {**of_stable, **thumbs.get(stable.version, {})},
                "rules": self.settings.canary_rules.model_dump(),
            }  # fmt: skip
            reason = fault(evidence["canary"], evidence["stable"], self.settings.canary_rules)
            if reason is None and evidence["canary"].get("requests", 0) < self.settings.canary_rules.requests:
                continue  # not enough to say
            if reason is not None:
                tell(self.settings.app, "stop_canary", canary.name)
                self._stopped.add((canary.name, canary.variant))
                self.settings = self.with_stopped(self.settings)
            self._canaries.remove(canary)
            action = "canary_passed" if reason is None else "canary_stopped"
            is_compared = _are_replies_enough(evidence["canary"], evidence["stable"], self.settings.canary_rules)
            reason = reason or _passed(evidence, is_compared)
            yield action, {**evidence, "speed_compared": is_compared, "reason": reason}


def fault(canary: dict[str, float], stable: dict[str, float], rules: CanaryRules) -> str | None:
    """Why a canary is stopped, from its figures and those of the version beside it; None where nothing speaks against
    it so far. Figures: those of Outcomes.facts, up and down (thumbs). A token takes longer where replies are short, so
    that a canary whose whole replies come no later is not too slow.

    >>> fault({"requests": 50, "error_rate": 0.5}, {}, CanaryRules())
    'error rate 0.50 of 50 requests; expected at most 0.02 more than 0.00'
    """
    requests = canary.get("requests", 0)
    if requests >= rules.least_requests:
        rate, usual = canary.get("error_rate", 0.0), stable.get("error_rate", 0.0)
        if rate > usual + rules.max_error_rate:
            return (f"error rate {rate:.2f} of {requests:.0f} requests; expected at most {rules.max_error_rate:g} more "
                    f"than {usual:.2f}")  # fmt: skip
    if _are_replies_enough(canary, stable, rules):
        for name, what in SLOWNESS.items():
            seconds, usual_s = canary.get(name, 0.0), stable.get(name, 0.0)
            is_brief = name == "token_s" and canary.get("reply_s", 0.0) <= stable.get("reply_s", 0.0)
            if seconds > rules.max_latency_ratio * usual_s and not is_brief:
                return (f"{seconds:.3g} s {what}; expected at most {rules.max_latency_ratio:g} x the {usual_s:.3g} s "
                        f"of the version beside it")  # fmt: skip
    num_thumbs = canary.get("up", 0) + canary.get("down", 0)
    if num_thumbs >= rules.least_thumbs and canary.get("down", 0) > rules.max_thumbs_down * num_thumbs:
        return (f"{canary['down']:.0f} of {num_thumbs:.0f} thumbs are down; expected at most a share of "
                f"{rules.max_thumbs_down:g}")  # fmt: skip
    return None


def _are_replies_enough(canary: dict[str, float], stable: dict[str, float], rules: CanaryRules) -> bool:
    """Whether there are enough replies of both versions to compare their times."""
    return min(canary.get("replies", 0), stable.get("replies", 0)) >= rules.least_requests


def _passed(evidence: dict[str, Any], is_compared: bool) -> str:
    """The reason why a canary has passed, which says so where its speed was not compared."""
    if is_compared:
        return "no worse than the version beside it"
    replies = [f"{evidence[which].get('replies', 0):.0f}" for which in ("canary", "stable")]
    return (f"no more failures than the version beside it; its speed was not compared: {replies[0]} whole replies, and "
            f"{replies[1]} of the other, where {evidence['rules']['least_requests']} of each are needed")  # fmt: skip


def count_thumbs(file: Path | None, url: str | None = None) -> dict[str, dict[str, int]]:
    """Thumbs up and down in the database of feedback, by the version of the model; empty where there is none yet, or it
    does not answer: a canary is then judged by its requests."""
    if url is None and (file is None or not file.is_file()):
        return {}
    with contextlib.suppress(DatabaseError), contextlib.closing(open_database(file, url)) as database:
        return FeedbackStore(database).thumbs()
    return {}
