"""Functions of the user: the file is read as Python reads it, and runs with nothing of this project's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import user_functions

CODE = "def length(text: str) -> int:\n    return len(text)\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_may_begin_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE, encoding=encoding)
    function = user_functions.read(f"{tmp_path / 'mine.py'}:length")
    assert function.code == CODE and function.load()("four") == 4


def test_annotations_are_what_the_file_says(tmp_path: Path) -> None:
    """As in Python, they are text only where the file imports that from __future__."""
    (tmp_path / "mine.py").write_text(CODE)
    assert user_functions.read(f"{tmp_path / 'mine.py'}:length").load().__annotations__ == {"text": str, "return": int}
    (tmp_path / "lazy.py").write_text(f"from __future__ import annotations\n{CODE}")
    assert user_functions.read(f"{tmp_path / 'lazy.py'}:length").load().__annotations__["text"] == "str"
