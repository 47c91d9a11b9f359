"""The data card of a corpus: as a section of the page, and in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipelines import cli
from pipelines.report.card import card
from pipelines.report.page import page
from pipelines.store.artifacts import Store
from pipelines.store.runs import RunRecord, StageRecord
from tests.report.test_report import EVIL, Parsed, commit


def sample(source: str, place: str, text: str, **more: str) -> dict[str, str]:
    return {"source": source, "place": place, "text": text, **more}


DATA_CARD: dict[str, Any] = {
    "documents": {"web <b>": {"read": 900, "train": 700, "held_out": 100,
                              "dropped": {"duplicate_near": 60, "理由": 40}},
                  "诗": {"read": 100, "train": 70, "held_out": 30, "dropped": {}}},
    "languages": {"web <b>": {"en": {"documents": 800, "bytes": 1_500_000}},
                  "诗": {"zh": {"documents": 100, "bytes": 9000}}},
    "histograms": {"characters": {"edges": [0.0, 16.0, 32.0, 64.0, 1448.0, 2048.0],
                                  "counts": {"en": [0, 600, 199, 1, 0], "zh": [0, 0, 25, 75, 0]}},
                   "quality": {"edges": [0.0, 0.5, 1.0], "counts": {"en": [200, 600], "zh": [100, 0]}}},
    "kept": {"web <b>": {"en": [sample("web <b>", "web/0/1", "Kept one."), sample("web <b>", "web/0/2", "Kept two.")],
                         "zh": [sample("web <b>", "web/0/3", "留下的。")]}},
    "dropped": {"理由": [sample("web <b>", "a.jsonl:7", EVIL, problem="0.5 > 0.3"),
                        sample("web <b>", "a.jsonl:9", "Dropped\u202e two.", problem="0.6 > 0.3")],
                "duplicate_near": [sample("诗", "b.jsonl:1", "床前明月光", problem="nearly the same text")]},
    "near_duplicates": [{"documents": 61, "members": [{"id": "web/0/4", "text": "The longest."},
                                                      {"id": "web/0/5", "text": "The longest"}]}],
    "groups": {"all": {"read": 1000, "kept": 900, "dropped": {"理由": 100}},
               "old_people": {"read": 200, "kept": 100, "dropped": {"理由": 100}, "warning": "50.0% <i>are kept"}},
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store").create()
    corpus = commit(store, "corpus", "corpus", {}, {"data_card.json": json.dumps(DATA_CARD)})
    older = commit(store, "corpus", "corpus", {}, {"a": "1"})
    words = commit(store, "tokenizer", "tokenizer", {}, {"a": "1"})
    record = RunRecord.begin(store, recipe="small", path=Path("recipe.yaml"), seed=7)
    for name, fingerprint in (("corpus", corpus), ("older", older)):
        record.stages[name] = StageRecord(kind="corpus", makes="corpus", fingerprint=fingerprint)
    record.stages["words"] = StageRecord(kind="tokenizer", makes="tokenizer", fingerprint=words)
    record.end(store, "done")
    return store


def inspect(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["inspect", *arguments, "--store", str(store.root)])


def test_the_page_has_the_data_card_with_drawings_samples_side_by_side_and_clusters(store: Store) -> None:
    parsed = Parsed(page(store, card(store)))
    text = " ".join("".join(parsed.texts).split())
    assert "Data card of corpus" in text and "Data card of older" not in text
    assert parsed.tags.count("svg") == 5  # a funnel for each stage; of the card one by source, and two histograms
    assert parsed.open == [] and not set(parsed.tags) & {"script", "img"}
    assert "web <b>English, 1.5 MB" in text.replace("<b> English", "<b>English") and "中文, 9.0 kB" in text
    assert text.count(EVIL) == 1 and "理由: 40" in text and "duplicate near: 60" in text
    dropped = text.split("Dropped documents")[1]
    assert dropped.index("床前明月光") < dropped.index("a.jsonl:7 · 0.5 > 0.3") < dropped.index("Kept one.")
    assert dropped.index("Kept one.") < dropped.index("a.jsonl:9") < dropped.index("留下的。")  # languages in turn
    assert "old people20050.0%50.0% <i>are kept" in text and "all1,00090.0%" in text
    assert "61 documents: The longest." in dropped and "and 59 more" in dropped


def test_the_card_is_printed_in_short(store: Store) -> None:
    output = inspect(store, "corpus", "--card").stdout
    assert [line.split() for line in output.split("\n") if line.startswith("诗")] == [["诗", "100", "70", "30"]]
    assert ["all", "1,000", "90.0%"] in [line.split() for line in output.split("\n")]
    assert "old people 200 50.0% 50.0% <i>are kept" in " ".join(output.split())
    assert "60 duplicate_near, 40 理由" in " ".join(output.split())
    assert "16 – 32" in output and "75%" in output and "0.5 – 1" in output and "1,448 – 2,048" not in output
    assert "\n理由  a.jsonl:7  0.5 > 0.3\n    <script>" in output and "Dropped" not in output
    assert "61 near duplicates, kept web/0/4  The longest.\n    dropped web/0/5  The longest" in output
    assert "near duplicates" not in inspect(store, "corpus", "--card", "--limit", "2").stdout
    assert json.loads(inspect(store, "corpus", "--card", "--json").stdout) == {"artifact": f"{1:016x}", **DATA_CARD}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["older"], "older: was made before corpora had data cards; it gets one when it is made again, with all that"),
        (["older"], "made of it: rayse run RECIPE --force corpus"),  # the name that the recipe has
        (["words"], "words: --card shows the data card of a corpus, and this is of the kind tokenizer; leave --card"),
        (["corpus", "--where", "language=zh"], "--where language=zh: chooses rows, but --card prints no rows"),
    ],
)
def test_what_is_wrong_is_named(store: Store, arguments: list[str], problem: str) -> None:
    done = inspect(store, *arguments, "--card")
    assert done.exit_code == 2 and problem in " ".join(done.output.split())
