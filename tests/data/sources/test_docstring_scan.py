"""The scanner finds what Python's parser finds, in source written by many hands."""

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
    found = (ast.get_docstring(node, clean=False) for node in nodes)
    return [text for raw in found if raw and (text := inspect.cleandoc(raw))]


def test_finds_what_the_parser_finds_in_tricky_source() -> None:
    assert docstrings(TRICKY) == by_parser(TRICKY)


@pytest.mark.parametrize(
    "source", ["", "def f(:", '"""never closed', "'''", 'x = "', '"""a"""' * 3, "\x00", 'def f():\n "\\', "class"]
)
def test_broken_source_is_no_error(source: str) -> None:
    assert isinstance(docstrings(source), list)


def test_finds_nearly_all_and_nothing_else_in_the_standard_library() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"))[::3] + sorted(folder.glob("asyncio/*.py"))
    found: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for file in files:
        source = file.read_text(encoding="utf-8", errors="replace")
        found.update(docstrings(source))
        expected.update(by_parser(source))
    assert expected.total() > 500
    assert not found - expected  # nothing that is no docstring
    assert (expected - found).total() < 0.03 * expected.total()  # those in single quotes
