"""Facts: the figures an artifact carries in its manifest."""

Facts = dict[str, float | int | str]
"""Flat figures of an artifact, named `area/what_unit`: {"train/loss_nats": 3.1, "documents/kept": 1200}."""

NOT_USED = "rows/not_used_"  # and the reason: numbers of rows that a stage set aside


def rows_used(facts: Facts) -> str:
    """What a stage read, and what it set aside; empty for a stage without rows of its own.

    >>> rows_used({"rows/read": 9, "rows/used": 3, "rows/not_used_empty_turn": 2, "rows/not_used_unreadable": 4})
    'read 9 rows, used 3; not used: 4 unreadable, 2 empty_turn'
    """
    if not facts.get("rows/read"):
        return ""
    rows = "row" if facts["rows/read"] == 1 else "rows"
    text = f"read {facts['rows/read']:,} {rows}, used {facts['rows/used']:,}"
    reasons = reasons_not_used(facts)
    return f"{text}; not used: {reasons}" if reasons else text


def reasons_not_used(facts: Facts, limit: int | None = None) -> str:
    """Numbers of rows not used by reason, the most frequent first; limit: of the reasons, "…" stands for the others."""
    numbers = {key.removeprefix(NOT_USED): int(value) for key, value in facts.items() if key.startswith(NOT_USED)}
    reasons = [f"{number:,} {reason}" for reason, number in sorted(numbers.items(), key=lambda item: -item[1])]
    return ", ".join(reasons if limit is None or len(reasons) <= limit else [*reasons[:limit], "…"])
