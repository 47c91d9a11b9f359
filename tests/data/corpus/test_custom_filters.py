"""Filters that the user wrote: what they are called with, what their answers mean, and errors that name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.data.corpus import cleaning
from pipelines.data.corpus.filters import Filters
from pipelines.data.corpus.rules import Rules
from pipelines.data.sources.jsonl import Jsonl
from pipelines.errors import UserError
from tests.data.corpus.test_cleaning import GOOD, RECORDS, cleaned

CUSTOM = """
def no_moon(text):
    return "face" not in text, "no moon!"

def short(text):
    return len(text) < 80

def broken(text):
    return 1 / (len(text) - 96)

def wrong(text):
    return "yes"

def reserved(text):
    return False, "duplicate near"

def unsafe(text):
    return False

def no_shops(text, meta):
    return "/shop/" not in meta.pop("url", ""), "shop"

def no_shops_by_default(text, meta=None):
    return no_shops(text, meta)

def with_an_option(text, longest=80):
    return len(text) < longest

def three(text, meta, row):
    return True

def named(text, *, meta):
    return True

def none():
    return True

def any_number(*arguments):
    return len(arguments) == 1
"""


def test_filters_of_the_user_drop_documents_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CUSTOM)
    filters = Filters.model_validate({"custom": [f"{tmp_path}/mine.py:no_moon"]})
    (batch,) = cleaned(tmp_path, RECORDS, filters=filters)
    assert batch.counts["documents/dropped_no_moon"] == 2 and batch.counts["documents/dropped_too_short"] == 1
    filters = Filters.model_validate({"custom": [f"{tmp_path}/mine.py:short"]})
    (batch,) = cleaned(tmp_path, RECORDS, filters=filters)
    assert batch.counts["documents/dropped_short"] == 2


@pytest.mark.parametrize(
    ("name", "dropped"),
    [("no_shops", "shop"), ("no_shops_by_default", "shop"), ("with_an_option", "with_an_option"), ("any_number", "")],
)
def test_filters_of_the_user_with_two_parameters_get_the_meta_of_the_row(
    tmp_path: Path, name: str, dropped: str
) -> None:
    (tmp_path / "mine.py").write_text(CUSTOM)
    urls = ["https://a.org/shop/1", "https://a.org/news", None]
    records = [{"text": GOOD.format(number), "url": url} for number, url in enumerate(urls) if url]
    records.append({"text": GOOD.format(3), "url": ""})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = Jsonl.model_validate({"path": str(tmp_path / "rows.jsonl"), "meta": ["url"]})
    filters = Filters.model_validate({"custom": [f"{tmp_path}/mine.py:{name}"]})
    rules = Rules(filters.enabled(), filters.split_words, {}, seed=7)
    (batch,) = cleaning.clean("web", source, source.parts(), rules=rules, permutations=32)
    number = {"shop": 1, "with_an_option": 3, "": 0}[dropped]
    assert batch.counts[f"documents/dropped_{dropped}"] == number and batch.documents.num_rows == 3 - number
    metas = [dict(meta) for meta in batch.documents.column("meta").to_pylist()]
    assert ({"url": urls[1]} in metas) == (number < 3)  # what a function does to its meta changes nothing


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("broken", "rows.jsonl:1: filters.custom: {}/mine.py:broken raised ZeroDivisionError: "),
        (
            "wrong",
            "rows.jsonl:1: filters.custom: {}/mine.py:wrong returned 'yes'; expected whether the document is kept",
        ),
        (
            "reserved",
            "rows.jsonl:1: filters.custom: {}/mine.py:reserved gave the reason duplicate_near; expected another than "
            "duplicate_exact, duplicate_near, semantic_duplicate, contaminated, boilerplate, unreadable, low_quality, "
            "toxicity, "
            "discrimination, unsafe, personal_data, which",
        ),
        ("unsafe", "rows.jsonl:1: filters.custom: {}/mine.py:unsafe gave the reason unsafe; expected another than "),
        ("missing", "rows.jsonl:1: {}/mine.py has no function missing"),
        (
            "three",
            "rows.jsonl:1: filters.custom: {}/mine.py:three has the parameters (text, meta, row); expected (text)",
        ),
        ("named", "mine.py:named has the parameters (text, *, meta); expected (text) or (text, meta)"),
        ("none", "mine.py:none has the parameters (); expected (text) or (text, meta)"),
    ],
)
def test_errors_of_the_users_filters_name_file_function_and_document(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "mine.py").write_text(CUSTOM)
    filters = Filters.model_validate({"custom": [f"{tmp_path}/mine.py:{name}"]})
    with pytest.raises(UserError) as caught:
        cleaned(tmp_path, [{"text": GOOD, "from": "a"}], filters=filters)
    assert problem.format(tmp_path) in str(caught.value)
