"""Task files of Natural Instructions: their instances are rows with the definition, their examples are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.dialogues.conversation_records import ParsedConversation, parse_conversation
from pipelines.data.sources.record_formats import columns_not_used
from pipelines.data.sources.source import BadRow, Row
from tests.data.sources.reading import make_source, rows

DEFINITION = "Name the month that follows."
INSTANCES = [
    {"id": "m-1", "input": "March", "output": ["April"]},
    {"id": "m-2", "input": "May", "output": ["June", "June.", "the sixth month", "June"]},
]
EXAMPLE = {"input": "June", "output": "July", "explanation": "July is the next one."}
TASK: dict[str, Any] = {
    "Contributors": ["A. Miller"],
    "Definition": ["Name the month", "that follows."],
    "Positive Examples": [EXAMPLE, EXAMPLE],
    "Negative Examples": [EXAMPLE],
    "Instances": INSTANCES,
    "Instance License": ["MIT"],
}
ROWS = [
    {"instruction": "Name the month\nthat follows.", "id": "m-1", "input": "March", "output": "April"},
    {"instruction": "Name the month\nthat follows.", "id": "m-2", "input": "May", "output": "June",
     "other outputs": ["June.", "the sixth month"]},
]  # fmt: skip


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("names", [list(TASK), sorted(TASK, reverse=True)], ids=["published", "reversed"])
def test_instances_are_rows_and_examples_are_counted(tmp_path: Path, names: list[str], indent: int | None) -> None:
    (tmp_path / "task.json").write_text(json.dumps({name: TASK[name] for name in names}, indent=indent))
    read = rows(make_source(tmp_path, "json", "task.json", rows="conversations"))
    assert [row.record for row in read if isinstance(row, Row)] == ROWS
    examples = [row for row in read if isinstance(row, BadRow)]
    assert [row.reason for row in examples] == ["example"] * 3
    assert sorted(row.problem for row in examples) == [
        "one of the 'Negative Examples' of a task, whose instances are the rows",
        *["one of the 'Positive Examples' of a task, whose instances are the rows"] * 2,
    ]
    assert all("July is the next one." in row.raw for row in examples)


def test_the_first_output_is_learnt_and_the_others_are_named() -> None:
    parsed = parse_conversation(ROWS[1])
    assert isinstance(parsed, ParsedConversation)
    assert [turn["content"] for turn in parsed.messages] == ["Name the month\nthat follows.\n\nMay", "June"]
    assert columns_not_used(ROWS[1], "conversations") == ("id", "other outputs")


def test_a_broken_instance_costs_no_other_its_definition(tmp_path: Path) -> None:
    text = json.dumps(TASK | {"Definition": DEFINITION}, indent=1)
    (tmp_path / "task.json").write_text(text.replace('"March"', '"March'))
    read = rows(make_source(tmp_path, "json", "task.json", rows="conversations"))
    (row,) = (row for row in read if isinstance(row, Row))
    assert row.record == ROWS[1] | {"instruction": DEFINITION}
    assert [row.reason for row in read if isinstance(row, BadRow)].count("") == 1


@pytest.mark.parametrize("name", ["Definition", "definitions"])
def test_other_documents_have_no_definition(tmp_path: Path, name: str) -> None:
    document = {name: [DEFINITION], "data": [{"question": "a", "answer": "b"}], "Positive Examples": [EXAMPLE]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    row, bad = rows(make_source(tmp_path, "json", "a.json", rows="conversations"))
    assert isinstance(row, Row) and row.record == {"question": "a", "answer": "b"}
    assert isinstance(bad, BadRow) and bad.reason == "" and "is not read" in bad.problem


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"definition": DEFINITION, "inputs": "March", "targets": "April"}, f"{DEFINITION}\n\nMarch"),
        ({"Definition": DEFINITION, "input": "March", "output": "April"}, f"{DEFINITION}\n\nMarch"),
        ({"definition": "", "inputs": "March", "targets": "April"}, "March"),
        ({"question": "Next month?", "definition": "A month is …", "answer": "April"}, "Next month?"),
    ],
)
def test_the_definition_beside_inputs_is_the_instruction(record: dict[str, str], prompt: str) -> None:
    parsed = parse_conversation(record)
    assert isinstance(parsed, ParsedConversation)
    assert [turn["content"] for turn in parsed.messages] == [prompt, "April"]


def test_all_lists_of_an_evaluation_set_are_read(tmp_path: Path) -> None:
    """What a task gives as examples is no row to learn from, and no text to have trained on."""
    (tmp_path / "task.json").write_text(json.dumps(TASK))
    read = rows(make_source(tmp_path, "json", "task.json", rows="prompts"))
    assert [row.record and row.record["input"] for row in read if isinstance(row, Row)] == ["June"] * 3 + [
        "March",
        "May",
    ]
    document = {"name": "months", "examples": INSTANCES[:1], "few_shot": [EXAMPLE], "test": INSTANCES}
    (tmp_path / "set.json").write_text(json.dumps(document, indent=1))
    read = rows(make_source(tmp_path, "json", "set.json", rows="prompts"))
    assert [row.record and row.record["input"] for row in read if isinstance(row, Row)] == [
        "March",
        "June",
        "March",
        "May",
    ]
    assert len(read) == 4
    (tmp_path / "two.json").write_text(
        '{"few_shot": [{"input": "May?", "input": "June?"}],\n"examples": [{"input": "July?"}]}'
    )
    broken, last = rows(make_source(tmp_path, "json", "two.json", rows="prompts"))
    assert isinstance(broken, BadRow) and "the key 'input' has two values" in broken.problem and isinstance(last, Row)
