"""Instructions in the lists that models write, good ones and bad ones."""

from __future__ import annotations

import pytest

from pipelines.data.dialogues.synthetic.instructions import parse_list


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("There are no tasks yet.", []),
        ("1. 1. Name a river.\n2. 2. Name a hill.", ["Name a river.", "Name a hill."]),
        ("**1. Name a river.**\n**2. A hill:** name one.", ["Name a river.", "A hill: name one."]),
        ("1. **Name a river.**\n2. **A hill:** name one.", ["Name a river.", "**A hill:** name one."]),
        ('1. "Why?"\n2. “为什么？”', ["Why?", "为什么？"]),
        ('1. "**Name a river.**"\n2. **“Name a hill.”**\n3. "', ["Name a river.", "Name a hill."]),
        ('1. Put into French: "I miss you."\n2. "Yes" or "no"?', ['Put into French: "I miss you."', '"Yes" or "no"?']),
        ("1. Compute 2**10.\n2. Add 1 and 1 * 2*", ["Compute 2**10.", "Add 1 and 1 * 2*"]),
    ],
)
def test_items_are_what_was_asked(text: str, items: list[str]) -> None:
    assert parse_list(text) == items


def test_a_remark_after_the_list_is_no_instruction() -> None:
    remark = "\n\nNote: all of these are in English."
    assert parse_list("1. Name a river.\n\n2. Name a hill." + remark) == ["Name a river.", "Name a hill."]
    with_texts = "1. Shorten this:\n\nA long text.\n\n2. Correct this:\n\nA text with erors."
    assert parse_list(with_texts) == ["Shorten this:\n\nA long text.", "Correct this:\n\nA text with erors."]
    assert parse_list("1. Shorten this:\n\nA long text.") == ["Shorten this:\n\nA long text."]
    assert parse_list("1. Name a river.\n2. Name a h", cut_off=True) == ["Name a river."]
