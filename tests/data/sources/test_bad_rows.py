"""Limits on bad rows: a number, a share of a source's rows, and the default, which has both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.data.sources import SOURCES
from pipelines.data.sources.bad_rows import BadRowLimit, Problem, RejectedRows, parse_records
from pipelines.data.sources.source import Part, Source
from pipelines.errors import UserError
from pipelines.options import Options, RowLimit

PART = Part(index=0, where="a.jsonl", group="a")


def stops(limit: int | str | None, rows: int, bad: int) -> bool:
    """Whether a source stops its stage that has its bad rows at the end."""
    counted = BadRowLimit(limit, "conversations")
    try:
        counted.add("mine", rows=rows, bad=bad, first="a.jsonl:1: not JSON")
        counted.check()
    except UserError:
        return True
    return False


@pytest.mark.parametrize(
    ("rows", "allowed"),
    [(1, 0), (2, 1), (3, 1), (6, 3), (9, 4), (12, 5), (100, 5), (1000, 50), (2000, 100), (10**6, 100)],
)
def test_the_default_allows_few_of_few_and_few_of_many(rows: int, allowed: int) -> None:
    assert not stops(None, rows, allowed)
    assert stops(None, rows, allowed + 1)


@pytest.mark.parametrize(
    ("limit", "rows", "allowed"), [(100, 101, 100), (0, 9, 0), ("1%", 1000, 10), ("0.5%", 1000, 5), ("1%", 99, 0)]
)
def test_a_number_counts_rows_and_a_share_the_rows_of_a_source(limit: int | str, rows: int, allowed: int) -> None:
    assert not stops(limit, rows, allowed)
    assert stops(limit, rows, allowed + 1)


def test_a_share_is_of_each_source_and_a_number_of_all() -> None:
    share, number = BadRowLimit("10%"), BadRowLimit(10)
    for limit in (share, number):
        limit.add("good", rows=1000)
        limit.add("poor", rows=9, bad=6, first="poor.jsonl:2: not JSON")
    number.check()
    with pytest.raises(UserError, match=r"^poor.jsonl:2: not JSON. It is the first of 6 bad rows among 9 rows of poor"):
        share.check()
    with pytest.raises(UserError, match=r"first of 11 bad rows so far, and max_bad_rows allows 10: .* of the corpus"):
        number.add("good", rows=5, bad=5, first="good.jsonl:1001: not JSON")


def test_a_share_stops_before_the_end_only_where_it_is_exceeded_by_far() -> None:
    limit = BadRowLimit("10%")
    limit.add("mine", rows=600, bad=120, first="a.jsonl:1: not JSON")  # 20%: the rest may be good
    with pytest.raises(UserError, match="first of 121 bad rows among 600 rows of mine"):
        limit.add("mine", bad=1)


def test_values_of_the_option() -> None:
    class Limited(Options):
        max_bad_rows: RowLimit | None = None

    assert [Limited(max_bad_rows=value).max_bad_rows for value in (0, 100, "1%", " 2.5 % ", None)] == [
        0, 100, "1%", "2.5%", None,
    ]  # fmt: skip
    for value in (-1, "many", "101%", "%", 0.5):
        with pytest.raises(
            ValueError, match=r"whole number of rows such as 100, or a share of them such as 1%|integer"
        ):
            Limited.model_validate({"max_bad_rows": value})


def parse(record: object) -> str | Problem:
    assert isinstance(record, dict)
    if record.get("label") is False:
        return Problem("labelled_bad", "labelled false: not learnt", by_rule=True)
    return record["text"] if "text" in record else Problem("no_text", "no column text")


def read(folder: Path, lines: list[str], limit: int | str | None = None) -> RejectedRows:
    """Reads a file of these lines to its end."""
    (folder / "mine.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    sources: dict[str, Source] = {
        "mine": SOURCES["jsonl"].model_validate({"path": str(folder / "mine.jsonl"), "rows": "conversations"})
    }
    rejected = RejectedRows(folder / "rejected.jsonl", BadRowLimit(limit, "conversations"))
    for _ in parse_records(sources, rejected, parse, str, lambda number: None):
        pass
    return rejected


def test_rows_left_out_by_a_rule_are_counted_and_kept_but_are_not_bad(tmp_path: Path) -> None:
    rejected = read(tmp_path, ['{"text": "a"}', *['{"label": false}'] * 9, "oops"])
    assert rejected.facts("conversations") == {
        "rows/read": 11, "rows/used": 1, "rows/not_used_labelled_bad": 9, "rows/not_used_unreadable": 1,
        "conversations/rejected": 10, "conversations/rejected_labelled_bad": 9, "conversations/rejected_unreadable": 1,
    }  # fmt: skip
    rejected.write()
    assert len((tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()) == 10


def test_a_row_set_aside_after_reading_has_its_file(tmp_path: Path) -> None:
    rejected = read(tmp_path, ['{"label": false}', '{"text": "a"}'])
    rejected.add_by_rule("mine/0/2", "near_duplicate", "nearly the same", "a")
    kept = [json.loads(line) for line in rejected.lines]
    assert kept[1]["where"] == kept[0]["where"] and kept[0]["where"].endswith("mine.jsonl")
    assert (kept[1]["source"], kept[1]["row"]) == ("mine", 2)


def test_where_every_row_is_bad_the_first_is_named_and_all_are_kept(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"mine.jsonl:1: no column text. It is the first of 3 bad rows among 3 rows of mine"
    ):
        read(tmp_path, ['{"body": "a"}'] * 3)
    kept = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["row"], row["reason"]) for row in kept] == [(1, "no_text"), (2, "no_text"), (3, "no_text")]
