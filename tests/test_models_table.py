"""docs/models.md says what the tests prove."""

from __future__ import annotations

from tests.families import FAMILIES
from tests.models_table import BEGIN, END, table
from tests.runs import ROOT


def test_the_table_in_the_docs_is_the_one_of_the_tests() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == table()
    assert len(FAMILIES) == table().count("\n") - 1
