"""Counts by group of people: which share filters keep, and when the difference to the others is warned of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from pipelines.data.corpus import group_counts
from pipelines.data.corpus.filters.verdict import Verdict
from pipelines.data.corpus.filters.verdicts import Verdicts

SHORT, BAD = Verdict(False, "too_short"), Verdict(False, "low/quality")


def counted(documents: Sequence[tuple[Sequence[str], Verdict | None]]) -> Counter[str]:
    """The counts of documents with these groups and verdicts; None: kept. Their own counts are among others."""
    verdicts = Verdicts(len(documents))
    for place, (_, verdict) in enumerate(documents):
        if verdict is not None:
            verdicts[place] = verdict
    return group_counts.count([groups for groups, _ in documents], verdicts) + Counter({"documents/read": 1})


def test_documents_are_counted_for_all_and_for_each_group_that_they_mention() -> None:
    counts = counted([(["men", "women"], None), (["women"], SHORT), ([], BAD), ([], None), (["jews"], BAD)])
    assert group_counts.shares(Counter({"documents/read": 3})) == {}
    of = group_counts.shares(counts)
    assert {name: (share.kept, share.dropped) for name, share in of.items()} == {
        "all": (2, {"too_short": 1, "low/quality": 2}), "women": (1, {"too_short": 1}), "men": (1, {}),
        "jews": (0, {"low/quality": 1}),
    }  # fmt: skip
    assert group_counts.group_facts(of) == {
        "groups/documents": 5, "groups/kept_fraction": 0.4, "groups/documents_women": 2,
        "groups/kept_fraction_women": 0.5, "groups/documents_men": 1, "groups/kept_fraction_men": 1,
        "groups/documents_jews": 1, "groups/kept_fraction_jews": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "dropped", "other_kept", "other_dropped", "is_low"),
    [
        (50, 50, 900, 100, True),
        (49, 50, 900, 100, False),  # too few
        (70, 30, 900, 100, True),  # 0.7 < 4/5 of 0.9
        (700, 300, 90, 10, True),  # most documents mention it: 0.7 is nearly the share of all, 0.72
        (75, 25, 900, 100, False),  # more than four fifths
        (34, 66, 52, 48, False),  # less than four fifths, by what may be chance: 2.6 deviations
        (340, 660, 520, 480, True),
        (0, 100, 0, 100, False),
        (50, 50, 0, 0, False),  # all documents mention it
    ],
)
def test_a_group_is_warned_of_by_share_number_and_chance(
    kept: int, dropped: int, other_kept: int, other_dropped: int, is_low: bool
) -> None:
    documents = [
        *[(["women"], None)] * kept, *[(["women"], SHORT)] * dropped,
        *[([], None)] * other_kept, *[([], BAD)] * other_dropped,
    ]  # fmt: skip
    warnings = group_counts.warnings(group_counts.shares(counted(documents)))
    assert list(warnings) == (["women"] if is_low else [])
    assert all(warning.endswith("most of the difference is too_short") for warning in warnings.values())
