"""Aliases: names such as `production` for an artifact, moved by decisions, each a record with its evidence.

STORE/aliases/production.json      the artifact that it names now
STORE/decisions/<time>.json        who was promoted, rolled back or stopped, when, why, and from what figures
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel

from pipelines.errors import UserError
from pipelines.store.artifacts import Artifact, Store

NAME = re.compile(r"[A-Za-z][\w-]*")
Record = TypeVar("Record", bound=BaseModel)


class DamagedRecord(UserError):
    """The file of an alias or a decision is damaged: what it says is not known until it is mended."""


class Alias(BaseModel):
    """What a name refers to. previous: fingerprints that it referred to before, the last one last."""

    name: str
    fingerprint: str
    previous: list[str] = []
    changed: str = ""


class Decision(BaseModel):
    """A change of what is served, or of what is not. evidence: the figures that it rests on."""

    action: str  # promote | rollback | canary_stopped | canary_passed | canary_resumed | not_started
    alias: str
    at: str
    fingerprint: str = ""
    before: str = ""
    reason: str = ""
    evidence: dict[str, Any] = {}


def read(store: Store, name: str) -> Alias | None:
    """The alias of this name; None if there is none. Raises UserError where its file is damaged."""
    return _record(store, f"aliases/{name}.json", Alias) if NAME.fullmatch(name) else None


def promote(store: Store, name: str, artifact: Artifact, *, reason: str, evidence: dict[str, Any]) -> Decision:
    """Moves an alias to an artifact, and keeps the decision. Raises UserError where it is there already."""
    if not NAME.fullmatch(name):
        raise UserError(f"--alias {name}: expected letters, digits, hyphens and underscores, beginning with a letter")
    alias = read(store, name)
    before = alias.fingerprint if alias else ""
    if before == artifact.fingerprint:
        raise UserError(f"{name}: is {artifact.manifest.name} {artifact.fingerprint} already; nothing to promote")
    previous = [*alias.previous, before] if alias else []
    return _move(store, name, artifact.fingerprint, previous, action="promote", before=before, reason=reason,
                 evidence=evidence)  # fmt: skip


def rollback(store: Store, name: str, *, reason: str, evidence: dict[str, Any]) -> Decision:
    """Moves an alias back to the artifact before. Raises UserError where there is none, or the store lost it."""
    alias = read(store, name)
    if alias is None:
        raise UserError(f"{name}: no such alias in store {store.location}; expected one that `rayse promote` made")
    if not alias.previous:
        raise UserError(f"{name}: nothing was promoted before {alias.fingerprint}; expected an earlier promotion")
    *earlier, target = alias.previous
    if store.by_fingerprint(target) is None:
        raise UserError(f"{name}: {target}, promoted before, is no longer in store {store.location}; run its recipe "
                        f"again, or promote another")  # fmt: skip
    return _move(store, name, target, earlier, action="rollback", before=alias.fingerprint, reason=reason,
                 evidence=evidence)  # fmt: skip


def keep(store: Store, alias: str, action: str, **facts: Any) -> Decision:
    """Keeps a decision in STORE/decisions/."""
    now = datetime.now(UTC)
    decision = Decision(action=action, alias=alias, at=now.isoformat(), **facts)
    store.write(f"decisions/{now.strftime('%Y%m%dT%H%M%S.%f')}.json", decision.model_dump_json(indent=1))
    return decision


def decisions(store: Store) -> list[Decision]:
    """All decisions, the oldest first. Raises UserError where the file of one is damaged."""
    records = [_record(store, name, Decision) for name in store.names("decisions")]
    return [decision for decision in records if decision is not None]


def stopped_canary(store: Store, name: str, version: str, variant: str) -> Decision | None:
    """The decision that stopped this canary of a model; None where none did, or it was resumed since.

    variant: its version with the rest that its replies rest on. Decisions of earlier programs name the version alone:
    they are of all its variants."""
    actions = ("canary_stopped", "canary_resumed")
    of_it = [each for each in decisions(store) if each.action in actions and each.alias == name
             and each.fingerprint == version and each.evidence.get("variant", variant) == variant]  # fmt: skip
    return of_it[-1] if of_it and of_it[-1].action == "canary_stopped" else None


def _record(store: Store, name: str, cls: type[Record]) -> Record | None:
    """A record of the store; None if there is none."""
    try:
        text = store.read(name)
        return None if text is None else cls.model_validate_json(text)
    except ValueError:  # no JSON, other fields, no UTF-8
        raise DamagedRecord(f"{store.location}/{name}: is damaged, and is no {cls.__name__.lower()} any more; restore "
                            f"the file, or remove it") from None  # fmt: skip


def _move(store: Store, name: str, target: str, previous: list[str], **facts: Any) -> Decision:
    """The decision first, then the alias: nothing is served without a record."""
    decision = keep(store, name, fingerprint=target, **facts)
    alias = Alias(name=name, fingerprint=target, previous=previous, changed=decision.at)
    store.write(f"aliases/{name}.json", alias.model_dump_json(indent=1))
    return decision
