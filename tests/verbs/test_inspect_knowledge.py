"""`rayse inspect` on documents: what a question finds, the passages, the documents that are not used."""

from __future__ import annotations

import json
import shutil

import pytest

from pipelines.errors import UserError
from pipelines.store.artifacts import Manifest, Store
from pipelines.verbs.inspect_knowledge import show_hits
from pipelines.verbs.inspect_rows import show_rows
from tests.knowledge_index import make_index

DOCUMENTS = {
    "kettle.md": "# Kettle K2\n\nIt boils water in 173 seconds.\n\n## Descaling\n\nPress the red button.",
    "fan.md": "# 风扇 F3\n\n风扇有三档风速，重641克。",
    "empty.md": "# Nothing\n",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("inspected")
    store = Store(folder / "store").create()
    for kind, fingerprint in (("knowledge", "abcd1234"), ("guard", "ffff1234")):
        draft = store.draft(fingerprint)
        if kind == "knowledge":
            shutil.copytree(make_index(folder / "index", DOCUMENTS), draft.out, dirs_exist_ok=True)
        (draft.out / "more.json").write_text("{}")
        store.commit(draft, Manifest(kind=kind, fingerprint=fingerprint, stage=kind, name=kind, stage_version=1,
                                     seed=0, options={}, parents={}, code=""))  # fmt: skip
    return store


def test_a_query_shows_the_passages_it_finds(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    show_hits(store, "abcd1234", "Which button descales it?", limit=1, as_json=True)
    (passage,) = json.loads(capsys.readouterr().out)["passages"]
    assert passage["id"] == "documents/kettle.md:1#2" and passage["ranks"] == {"keywords": 1} and passage["score"] > 0
    show_hits(store, "abcd1234", "风扇多重", limit=5, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "documents/fan.md:1#1" in lines[0] and "641克" in lines[1] and lines[-1] == "1 of 3 passages"
    with pytest.raises(UserError, match="this is of kind guard"):
        show_hits(store, "ffff1234", "x", limit=1, as_json=False)


def test_rows_are_the_passages_and_the_documents_that_are_not_used(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    show_rows(store, "abcd1234", where=(), limit=10, card=False, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["passages"], shown["set_aside"], shown["not_used"]) == (3, 1, {"empty": 1})
    show_rows(store, "abcd1234", where=["language=zh"], limit=10, card=False, as_json=False)
    assert "641克" in capsys.readouterr().out
