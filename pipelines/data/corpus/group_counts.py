"""Counts by group of people: how many of the documents that mention one the filters and checks keep, beside all.

    documents' groups, verdicts ──count──► counts of batches, added up ──Shares──► facts, the card's table, warnings

They show whether cleaning silences a group: a filter that names nobody may still drop what most is written about one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.data.corpus.filters.verdicts import Verdicts
from pipelines.data.text.harm_words import GROUPS

AREA = "groups/"  # of counts and facts
ALL = "all"  # documents, whatever they mention
# A group is warned of where all three hold: enough documents to say something; four fifths, the bound by which courts
# and employers judge whether a selection treats a group worse; and a difference that chance seldom makes: for 14
# groups, once in fifty corpora in which nobody is treated worse.
MIN_DOCUMENTS = 100
MIN_RATIO = 0.8
MIN_DEVIATIONS = 3.0


def count(groups: Sequence[Sequence[str]], verdicts: Verdicts) -> Counter[str]:
    """Counts of documents and their verdicts, by group. groups: those that each document mentions."""
    counts: Counter[str] = Counter()
    for verdict, number in verdicts.counts():
        counts[f"{AREA}{ALL}/{_outcome(verdict.keep, verdict.reason)}"] += number
    for place, names in enumerate(groups):
        if names:
            verdict = verdicts.shared[verdicts.numbers_D[place]]
            counts.update(f"{AREA}{name}/{_outcome(verdict.keep, verdict.reason)}" for name in names)
    return counts


def _outcome(keep: bool, reason: str) -> str:
    return "kept" if keep else f"dropped/{reason}"


@dataclass
class Share:
    """What became of the documents that mention a group."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by reason

    @property
    def read(self) -> int:
        """Documents that were read."""
        return self.kept + self.dropped.total()

    @property
    def kept_fraction(self) -> float:
        """Of those that were read."""
        return self.kept / max(self.read, 1)

    def without(self, group: Share) -> Share:
        """What became of those of these documents that do not mention a group."""
        return Share(self.kept - group.kept, self.dropped - group.dropped)

    def is_low(self, others: Share) -> bool:
        """Whether so much less of them is kept than of the documents that do not mention the group that the filters
        should be looked at.

        The test is that of two proportions, pooled."""
        if self.read < MIN_DOCUMENTS or not others.read or self.kept_fraction >= MIN_RATIO * others.kept_fraction:
            return False
        pooled = (self.kept + others.kept) / (self.read + others.read)
        variance = pooled * (1 - pooled) * (1 / self.read + 1 / others.read)
        return others.kept_fraction - self.kept_fraction >= MIN_DEVIATIONS * math.sqrt(variance)

    def reason(self, others: Share) -> str:
        """The reason that drops more of them than of the documents that do not mention the group, by the largest
        difference."""
        surplus = {name: n / self.read - others.dropped[name] / others.read for name, n in self.dropped.items()}
        return max(sorted(surplus), key=surplus.__getitem__)


def shares(counts: Mapping[str, int]) -> dict[str, Share]:
    """What became of all documents, then of those of each group that any mentions; empty where none were counted.

    counts: of `count`, among others."""
    found: dict[str, Share] = {}
    for name, number in counts.items():
        if name.startswith(AREA):
            group, outcome, *reason = name.removeprefix(AREA).split("/", 2)
            share = found.setdefault(group, Share())
            if outcome == "kept":
                share.kept += number
            else:
                share.dropped[reason[0]] += number
    return {name: found[name] for name in (ALL, *GROUPS) if name in found}


def group_facts(of: Mapping[str, Share]) -> dict[str, int | float]:
    """Facts: groups/documents and groups/kept_fraction, of all and with _<group> of each."""
    facts: dict[str, int | float] = {}
    for name, share in of.items():
        suffix = "" if name == ALL else f"_{name}"
        facts |= {f"{AREA}documents{suffix}": share.read, f"{AREA}kept_fraction{suffix}": share.kept_fraction}
    return facts


def warnings(of: Mapping[str, Share]) -> dict[str, str]:
    """What is said of each group of which much less is kept than of the documents that do not mention it."""
    others = {name: of[ALL].without(share) for name, share in of.items() if name != ALL}
    return {
        name: f"{of[name].kept_fraction:.1%} of the documents that mention {name} are kept, "
        f"{rest.kept_fraction:.1%} of the others; most of the difference is {of[name].reason(rest)}"
        for name, rest in others.items()
        if of[name].is_low(rest)
    }


def table(of: Mapping[str, Share]) -> dict[str, dict[str, Any]]:
    """The rows of the data card: documents read, kept and dropped by reason, and the warning if there is one."""
    warned = warnings(of)
    return {
        name: {"read": share.read, "kept": share.kept, "dropped": dict(sorted(share.dropped.items()))}
        | ({"warning": warned[name]} if name in warned else {})
        for name, share in of.items()
    }
