"""The YAML of recipes: strict, with the line of every key."""

import pytest

from pipelines.errors import UserError
from pipelines.recipe import yaml_lines


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-3", 0.003),
        ("1e5", 100_000.0),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("850_000", 850_000),
        ("010", 10),
        ("08", 8),
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_values_are_parsed_as_in_yaml_1_2(text: str, value: object) -> None:
    parsed = yaml_lines.scalar(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    "text", ["no", "on", "yes", "1:30", "2024-01-02", "1e", ".", "e5", "3e-3x", "0x10", ".inf", "中文"]
)
def test_text_that_resembles_another_type_stays_text(text: str) -> None:
    assert yaml_lines.scalar(text) == text


def test_every_key_and_item_has_its_line() -> None:
    tree, lines = yaml_lines.load("a: 1\n\nb:\n  c: [x,\n      y]\n  d: {e: 2}\n", "r.yaml")
    assert tree == {"a": 1, "b": {"c": ["x", "y"], "d": {"e": 2}}}
    assert lines[("a",)] == 1
    assert lines[("b",)] == 3
    assert lines[("b", "c")] == 4
    assert lines[("b", "c", 1)] == 5
    assert lines[("b", "d", "e")] == 6


def test_a_doubled_key_names_both_lines() -> None:
    with pytest.raises(UserError, match=r"r.yaml:4: b.x: doubled key, first on line 3; keep one"):
        yaml_lines.load("a: 1\nb:\n  x: 1\n  x: 2\n", "r.yaml")


def test_an_alias_is_a_copy() -> None:
    tree, _ = yaml_lines.load("a: &a {x: 1}\nb: *a\n", "r.yaml")
    tree["a"]["x"] = 2
    assert tree["b"] == {"x": 1}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: b: c\n", 1),
        ("a: 1\nb: !!python/object:os.system {}\n", 2),
        ("a: 1\nb: \x07\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: 1\nb: *unknown\n", 2),
        ("a: 1\nb: !!int word\n", 2),
        ("a: 1\nb: " + "9" * 5000, 2),
    ],
)
def test_unreadable_yaml_names_its_line(text: str, line: int) -> None:
    with pytest.raises(UserError, match=f"^r.yaml:{line}: "):
        yaml_lines.load(text, "r.yaml")


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "[" * 1500])
def test_endlessly_nested_yaml_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="nested too deeply"):
        yaml_lines.load(text, "r.yaml")


def test_an_empty_document_is_none() -> None:
    assert yaml_lines.load("# only a comment\n", "r.yaml") == (None, {})
