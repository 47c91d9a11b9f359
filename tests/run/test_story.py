"""The story that a run prints is the one in docs/files.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipelines.recipe import reader
from pipelines.stages import STAGES
from pipelines.verbs.run import run_recipe

DOCS = Path(__file__).parent.parent.parent / "docs" / "files.md"
RECIPE = """name: chats
store: ./store
sources:
  chats: {kind: jsonl, path: chats.jsonl, rows: conversations, language: auto}
stages:
  conversations: {}
"""
EXCHANGES = [
    ("How do I descale a kettle?", "Fill it with water and a little vinegar, let it stand for an hour, and rinse it."),
    ("When do swifts leave?", "Most of them leave at the beginning of August."),
    ("怎样保存茶叶？", "放在密封的罐子里，避光、避潮。"),
    ("When do swifts leave?", "Most of them leave at the beginning of August."),
    ("Why is the sky red at night?", "Low light has a long way through the air, which scatters blue light away."),
]


def test_rows_that_are_set_aside_are_named_as_the_docs_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": number, "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]}
        for number, (prompt, reply) in enumerate(EXCHANGES)
    ]
    lines = [json.dumps(row) for row in (*rows, {"id": 5, "messages": rows[0]["messages"][:1]})]
    (tmp_path / "chats.jsonl").write_text("\n".join([*lines, '{"id": 6, "messages": [']) + "\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    run_recipe(reader.load("recipe.yaml", STAGES))
    documented = re.search(r"```\n\$ rayse run recipe.yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert documented is not None
    assert _without_figures(capsys.readouterr().err).startswith(_without_figures(documented.group(1)))


def _without_figures(story: str) -> str:
    """A story without the fingerprint and the seconds, which differ from run to run."""
    return re.sub(r"done in [\d.]+ s", "done in … s", re.sub(r"\b[0-9a-f]{16}\b", "…", story))
