"""README and docs/ against the code: links, commands, recipes, tests and the form of the figures."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import cli
from pipelines.recipe import reader
from tests.benchmarks.__main__ import BENCHMARKS
from tests.runs import ROOT
from tests.test_cli import COMMANDS

README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
COMMAND = re.compile(r"\brayse ((?:feedback )?[a-z]+)\b([^`#·\n]*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@pytest.fixture(params=DOCUMENTS, ids=lambda file: file.stem)
def document(request: pytest.FixtureRequest) -> Path:
    return request.param


def anchors(document: Path) -> set[str]:
    """The names of a document's sections, as links have them."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_files_and_sections(document: Path) -> None:
    for file, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_commands_have_the_flags_that_a_document_gives_them(document: Path) -> None:
    for verb, arguments in COMMAND.findall(document.read_text(encoding="utf-8")):
        assert verb in COMMANDS, f"rayse {verb}"
        known = {flag for each in COMMANDS[verb].params for flag in (*each.opts, *each.secondary_opts)}
        assert not set(FLAG.findall(arguments)) - known, f"rayse {verb}{arguments}"


def test_programs_and_tests_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module
    for name in re.findall(r"python -m tests\.benchmarks ([a-z]\w*)", text):
        assert name in BENCHMARKS, name
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    for test in re.findall(r"`(test_\w+)`", text):
        assert f"def {test}(" in sources, test


def test_a_row_of_figures_is_one_number_with_unit_machine_command_and_date() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in (ROOT / "docs" / "figures.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| quantity", "| figure"))
    ]
    assert len(rows) > 300
    for row in rows:
        assert len(row) == 6 and all(row), row
        assert re.fullmatch(r"[+-]?[\d,]+(\.\d+)?(e-?\d+)?", row[1]), row
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row[5]), row


def test_the_recipes_are_read(tmp_path: Path) -> None:
    """Whole ones and parts of one, after what the text around them takes for granted: a base, and a corpus."""
    file, num_read = tmp_path / "recipe.yaml", 0
    for document in DOCUMENTS:
        for block in re.findall(r"```yaml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            tree = yaml.safe_load(re.sub(r"(?m)^ *\.\.\.$", "", block))
            if "stages" not in tree:
                continue
            stages_before = {"corpus": {}} if {"tokens", "tokenizer"} & tree["stages"].keys() else {}
            whole = {"name": "x", "seed": 1, **tree, "stages": stages_before | tree["stages"]}
            if "pretrain" not in tree["stages"]:
                whole.setdefault("base", {"model": "Qwen/Qwen3-0.6B"})
            file.write_text(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True), encoding="utf-8")
            assert reader.load(file, cli._stages()).entries, document
            num_read += 1
    assert num_read > 5


def test_the_python_of_the_readme_gives_what_it_says() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    *before, last = block.strip().splitlines()
    code, expected = last.split("  # ")
    names: dict[str, Any] = {}
    exec("\n".join(before), names)
    assert repr(eval(code, names)) == expected


def test_the_readme_stays_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 220
