"""The scanner extracts the docstrings that Python's parser does, from source by many authors."""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from pipelines.data.sources.docstring_scan import docstrings

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
TRICKY = '''#!/usr/bin/env python
# """ not a docstring
"""Module."""
x = """text"""
y = '"""'  # an opening that is none
def f(a="(", b='"""'):  # """
    # a comment
    r"""Raw \\d."""
    def g(
        a: "str" = ":",
        *b,
    ) -> dict[str,
              int]:

        \'\'\'With "quotes" and a \\\\ backslash\\tand a tab.\'\'\'
async def h():
    """Async."""
class C(
    object):
    u"""C's."""
    z: int = 3
    """An attribute's, which is none."""
    if z:
        """Not one either."""
    def m(self): return 1
    """Nor this."""
def k():
    f"""No {x}."""
def n() -> int | \\
        str:
    """Continued."""
def lambda_default(a=lambda x: {"a": 1}):
    """

    Indented

        more.
    """
'''


def by_parser(source: str) -> list[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    docstrings_raw = (ast.get_docstring(node, clean=False) for node in nodes)
    return [text for raw in docstrings_raw if raw and (text := inspect.cleandoc(raw))]


def test_tricky_source_gives_the_docstrings_of_the_parser() -> None:
    assert docstrings(TRICKY) == by_parser(TRICKY)


@pytest.mark.parametrize(
    "source", ["", "def f(:", '"""never closed', "'''", 'x = "', '"""a"""' * 3, "\x00", 'def f():\n "\\', "class"]
)
def test_invalid_source_raises_no_error(source: str) -> None:
    assert isinstance(docstrings(source), list)


def test_standard_library_gives_nearly_all_docstrings_and_no_other_strings() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"))[::3] + sorted(folder.glob("asyncio/*.py"))
    scanned: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for file in files:
        source = file.read_text(encoding="utf-8", errors="replace")
        scanned.update(docstrings(source))
        expected.update(by_parser(source))
    assert expected.total() > 500
    assert not scanned - expected  # only docstrings
    assert (expected - scanned).total() < 0.03 * expected.total()  # those in single quotes
