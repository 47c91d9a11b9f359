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

    def is_low(self, everyone: Share) -> bool:
        """Whether so much less of them is kept than of all documents that the filters should be looked at.

        The test is that of two proportions, pooled: those that mention the group against those that do not."""
        others = everyone.read - self.read
        if self.read < MIN_DOCUMENTS or not others or self.kept_fraction >= MIN_RATIO * everyone.kept_fraction:
            return False
        difference = (everyone.kept - self.kept) / others - self.kept_fraction
        variance = everyone.kept_fraction * (1 - everyone.kept_fraction) * (1 / self.read + 1 / others)
        return difference >= MIN_DEVIATIONS * math.sqrt(variance)

    def reason(self, everyone: Share) -> str:
        """The reason that drops more of them than of all documents, by the largest difference."""
        surplus = {name: n / self.read - everyone.dropped[name] / everyone.read for name, n in self.dropped.items()}
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
    """What is said of each group of which much less is kept than of all documents."""
    return {
        name: f"{share.kept_fraction:.1%} of the documents that mention {name} are kept, {of[ALL].kept_fraction:.1%} "
        f"of all; most of the difference is {share.reason(of[ALL])}"
        for name, share in of.items()
        if name != ALL and share.is_low(of[ALL])
    }


def table(of: Mapping[str, Share]) -> dict[str, dict[str, Any]]:
    """The rows of the data card: documents read, kept and dropped by reason, and the warning if there is one."""
    warned = warnings(of)
    return {
        name: {"read": share.read, "kept": share.kept, "dropped": dict(sorted(share.dropped.items()))}
        | ({"warning": warned[name]} if name in warned else {})
        for name, share in of.items()
    }
