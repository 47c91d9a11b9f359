"""The verbs `rayse promote` and `rayse rollback`: which model an alias names, decided with a record of the evidence.

A server of the alias (`rayse serve production`) follows: the other version starts beside the one that answers, takes
over once it has answered warm-up requests, and the earlier one ends with its last reply.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pipelines.errors import UserError
from pipelines.store import aliases
from pipelines.store.aliases import Decision
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.runs import latest, resolve
from serve.hosting import artifacts
from serve.hosting.canary import count_thumbs
from serve.settings import feedback_place

NO_WATCH = "no_watch"  # in the evidence of a promotion that no server takes back


def promote(
    store: Store, name: str | None, alias: str, *, reason: str, as_json: bool, feedback_url: str | None = None,
    watch: bool = True,
) -> None:  # fmt: skip
    """`rayse promote`: moves an alias to a model or a trial. Raises UserError for an artifact of another kind.

    watch: whether a server that follows takes it back where it does worse. feedback_url: PostgreSQL database, or path
    of a file, whose thumbs are evidence; default: those in the store's."""
    if name is None:
        raise UserError("NAME: missing; expected a model or trial to promote, or --list, which lists the decisions")
    artifact = resolve(store, name)
    artifacts.serving_spec(store, artifact)  # refuses other kinds
    if store.names("runs") and alias in latest(store).stages:
        raise UserError(f"--alias {alias}: is a stage of the latest run, and means that; expected another name")
    evidence = _evidence(store, artifact, feedback_url) | ({} if watch else {NO_WATCH: True})
    _report(aliases.promote(store, alias, artifact, reason=reason, evidence=evidence), as_json)


def rollback(store: Store, alias: str, *, reason: str, as_json: bool, feedback_url: str | None = None) -> None:
    """`rayse rollback`: moves an alias back to what it named before. feedback_url: as promote takes it."""
    feedback_place(store.root, feedback_url)
    current = aliases.read(store, alias)
    served = store.by_fingerprint(current.fingerprint) if current else None
    evidence = _evidence(store, served, feedback_url) if served is not None else {}
    _report(aliases.rollback(store, alias, reason=reason, evidence=evidence), as_json)


def take_back(store: Store, evidence: dict[str, Any]) -> bool:
    """Moves an alias back, from the evidence that a server has against what it names; returns whether it did: not where
    that was promoted with --no-watch or rolled back to, or another was promoted meanwhile, be it the same model with
    other settings."""
    name = evidence["alias"]
    alias = aliases.read(store, name)
    if alias is None or not alias.previous or alias.fingerprint != evidence["artifact"]:
        return False
    # Not the last decision: one that was kept and could not be carried out has moved nothing.
    move = next((each for each in aliases.decisions(store) if (each.alias, each.at) == (name, alias.changed)), None)
    if move is None or move.action != "promote" or move.evidence.get(NO_WATCH):
        return False
    aliases.rollback(store, name, reason=f"by the server: {evidence['reason']}", evidence=evidence)
    return True


def show_decisions(store: Store, name: str | None, alias: str | None, *, as_json: bool) -> None:
    """`rayse promote --list`: prints the decisions that the store keeps, on one alias or on all, the oldest first."""
    if name is not None:
        raise UserError(f"{name}: not together with --list, which lists the decisions on all aliases; leave one out")
    decisions = [decision for decision in aliases.decisions(store) if alias in (None, decision.alias)]
    if as_json:
        rows = [decision.model_dump() for decision in decisions]
        return print(json.dumps({"decisions": rows}, indent=1, ensure_ascii=False))
    for decision in decisions:
        before = f", before {decision.before}" if decision.before else ""
        reason = f": {decision.reason}" if decision.reason else ""
        print(f"{decision.at[:19]}  {decision.action} {decision.alias} {decision.fingerprint}{before}{reason}")
    if not decisions:
        of = f" on {alias}" if alias else ""
        print(f"no decisions{of} in store {store.location}")


def _evidence(store: Store, artifact: Artifact, feedback_url: str | None) -> dict[str, Any]:
    """What the store knows of a model: its facts, those of its trial and evaluation, and the thumbs of its users."""
    model = artifacts.serving_spec(store, artifact).model
    evidence: dict[str, Any] = {artifact.kind: artifact.manifest.facts}
    for other in store.artifacts():
        if other.kind in ("trial", "evaluation") and model in other.manifest.parents.values():
            evidence[other.kind] = other.manifest.facts
    try:
        thumbs = count_thumbs(*feedback_place(store.root, feedback_url)).get(model)
    except UserError as error:
        if feedback_url is not None:
            raise
        print(f"without the thumbs of the store's file: {error}", file=sys.stderr)  # the feedback may be elsewhere now
        thumbs = None
    return evidence | ({"feedback": thumbs} if thumbs else {})


def _report(decision: Decision, as_json: bool) -> None:
    if as_json:
        return print(json.dumps(decision.model_dump(), indent=1, ensure_ascii=False))
    before = f", before {decision.before}" if decision.before else ""
    print(f"{decision.alias}: {decision.fingerprint}{before}; servers of {decision.alias} follow")


def parse_canary(text: str) -> tuple[str, float]:
    """Reads `NAME:SHARE`. Raises UserError.

    >>> parse_canary("sft:0.1")
    ('sft', 0.1)
    """
    name, _, number = text.rpartition(":")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not name or not 0 < share < 1:
        raise UserError(f"--canary {text}: expected NAME:SHARE with a share between 0 and 1, such as sft:0.1")
    return name, share
