"""When a canary is stopped, from its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from serve.gateway.database import Sqlite
from serve.gateway.feedback import FeedbackStore, Opinion, Reply
from serve.hosting.canary import count_thumbs, fault
from serve.settings import CanaryRules

STABLE = {"requests": 1000, "error_rate": 0.01, "first_bytes_s": 0.2}


@pytest.mark.parametrize(
    ("canary", "reason"),
    [
        ({}, None),
        ({"requests": 100, "error_rate": 0.03, "first_bytes_s": 0.4}, None),  # both at the bound
        ({"requests": 100, "error_rate": 0.04, "first_bytes_s": 0.2}, "error rate 0.04 of 100 requests"),
        ({"requests": 19, "error_rate": 1.0, "first_bytes_s": 9.0}, None),  # too few to say
        ({"requests": 20, "error_rate": 1.0, "first_bytes_s": 0.0}, "error rate 1.00 of 20"),
        ({"requests": 100, "error_rate": 0.0, "first_bytes_s": 0.41}, "0.41 s to the first bytes"),
        ({"requests": 1, "up": 4, "down": 5}, None),
        ({"requests": 1, "up": 5, "down": 5}, None),  # at the bound
        ({"requests": 1, "up": 4, "down": 6}, "6 of 10 thumbs are down"),
    ],
)
def test_a_canary_is_stopped_by_errors_latency_or_feedback(canary: dict[str, float], reason: str | None) -> None:
    actual = fault(canary, STABLE, CanaryRules())
    assert actual is None if reason is None else actual is not None and actual.startswith(reason)


def test_thumbs_are_counted_by_version(tmp_path: Path) -> None:
    file = tmp_path / "feedback.sqlite"
    assert count_thumbs(None) == count_thumbs(file) == {}
    store = FeedbackStore(Sqlite(file))
    assert count_thumbs(file) == {}
    votes: list[tuple[str, Literal["up", "down"]]] = [("a", "up"), ("b", "down"), ("a", "up"), ("a", "down")]
    for number, (version, thumb) in enumerate(votes):
        store.save(str(number), Opinion(thumb), Reply(str(number), [], "text", "m", version, {}, 0.0))
    store.close()
    assert count_thumbs(file) == {"a": {"up": 2, "down": 1}, "b": {"up": 0, "down": 1}}
