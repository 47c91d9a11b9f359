"""`rayse inspect NAME`: the rows of an artifact, those that are used and those set aside, filtered and bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from pipelines import cli
from pipelines.data.corpus.corpora import SPLITS
from pipelines.data.corpus.documents import DOCUMENTS, NOT_USED, REJECTED
from pipelines.data.dialogues.synthetic.rows import Written
from pipelines.data.images.documents import IMAGE_DOCUMENTS
from pipelines.store.artifacts import Manifest, Store
from pipelines.store.runs import RunRecord, StageRecord
from tests.stages.single import jsonl, make, talk

OOPS = "oops\u2028\u2029\x85!"  # with what str.splitlines takes for ends of lines
DROPPED = {"source": "web", "where": "web.jsonl", "problem": "left out by a filter of the corpus"}


def add(store: Store, record: RunRecord, kind: str, files: Path | dict[str, pa.Table]) -> None:
    """Adds an artifact of these files to the store and to the latest run."""
    draft = store.draft(f"{kind}-fingerprint")
    for name, table in {} if isinstance(files, Path) else files.items():
        (draft.out / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, draft.out / name)
    for file in files.iterdir() if isinstance(files, Path) else ():
        (draft.out / file.name).write_bytes(file.read_bytes())
    manifest = Manifest(kind=kind, fingerprint=f"{kind}-fingerprint", stage=kind, name=kind, stage_version=1, seed=7,
                        options={}, code="")  # fmt: skip
    store.commit(draft, manifest)
    record.stages[kind] = StageRecord(kind=kind, makes=kind, fingerprint=f"{kind}-fingerprint", made=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("inspect")
    store = Store(folder / "store").create()
    record = RunRecord.begin(store, recipe="mine", path=Path("mine.yaml"), seed=7)
    documents = [
        {"id": f"web/0/{n}", "source": "web", "group": "a", "language": "zh" if n % 2 else "en", "text": f"Text {n}.",
         "meta": []} for n in range(10)
    ]  # fmt: skip
    rejected = [{**DROPPED, "row": 11, "reason": "too_long", "raw": "Long \x1b[31m text"},
                {**DROPPED, "row": 12, "reason": "too_short", "raw": "Short."}]  # fmt: skip
    add(store, record, "corpus", {
        "train/part-00000.parquet": pa.Table.from_pylist(documents[:8], DOCUMENTS),
        "held_out/part-00000.parquet": pa.Table.from_pylist(documents[8:], DOCUMENTS),
        "rejected.parquet": pa.Table.from_pylist(rejected, REJECTED),
    })  # fmt: skip
    rows = [*(talk(f"Where is {n}?", "Here.") for n in range(9)), talk("Why?", ""), OOPS]
    jsonl(folder / "mine.jsonl", rows)
    made = make("conversations", folder, builtin_tasks=False, files={"mine": {"path": "mine.jsonl"}})
    add(store, record, "conversations", made.out)
    images = [{**document, "meta": [("file", f"{n}.jpg")], "image": b"x" * 1500, "width": 300, "height": 200,
               "phash": n, "augmented_from": None} for n, document in enumerate(documents[:2])]  # fmt: skip
    tables = {split: pa.Table.from_pylist([row], IMAGE_DOCUMENTS) for split, row in zip(SPLITS, images, strict=True)}
    add(store, record, "images", {f"{split}/part-00000.parquet": table for split, table in tables.items()})
    add(store, record, "guard", {"a.parquet": pa.table({"a": [1]})})
    record.save(store)
    return store


def inspect(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["inspect", *arguments, "--store", str(store.root)])


def facts(store: Store, *arguments: str) -> dict[str, Any]:
    done = inspect(store, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_all_rows_of_a_corpus_are_counted(store: Store) -> None:
    found = facts(store, "corpus")
    assert {key: found[key] for key in ("num_rows", "train", "held_out", "set_aside", "not_used")} == {
        "num_rows": 12, "train": 8, "held_out": 2, "set_aside": 2, "not_used": {"too_long": 1, "too_short": 1},
    }  # fmt: skip
    assert [row["split"] for row in found["rows"]] == ["train"] * 8 + ["held_out"] * 2 + ["set_aside"] * 2
    assert found["rows"][-1] == {**DROPPED, "split": "set_aside", "row": 12, "reason": "too_short", "raw": "Short."}


@pytest.mark.parametrize(
    ("where", "texts"),
    [
        (["reason=too_short"], ["Short."]),
        (["reason=length"], ["Long \x1b[31m text", "Short."]),
        (["reason=repetition"], []),
        (["language=zh", "split=held_out"], ["Text 9."]),
        (["source=web", "row=11"], ["Long \x1b[31m text"]),
        (["source=other"], []),
    ],
)
def test_rows_are_filtered(store: Store, where: list[str], texts: list[str]) -> None:
    found = facts(store, "corpus", *(argument for text in where for argument in ("--where", text)))
    assert [row.get("text") or row["raw"] for row in found["rows"]] == texts
    assert found["num_rows"] == len(texts)


@pytest.mark.parametrize(("limit", "kept", "set_aside"), [(0, 0, 0), (1, 1, 0), (4, 2, 2), (11, 9, 2), (99, 10, 2)])
def test_rows_are_bounded_and_both_kinds_are_shown(store: Store, limit: int, kept: int, set_aside: int) -> None:
    splits = [row["split"] for row in facts(store, "corpus", "--limit", str(limit))["rows"]]
    assert (len(splits) - splits.count("set_aside"), splits.count("set_aside")) == (kept, set_aside)


def test_a_duplicate_is_shown_with_what_is_kept_instead(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    record = RunRecord.begin(store, recipe="mine", path=Path("mine.yaml"), seed=7)
    copy = {**DROPPED, "row": 3, "reason": "duplicate_near", "problem": "nearly the same text", "raw": "Text 1!"}
    kept = {"kept_source": "books", "kept_where": "books.jsonl", "kept_row": 12}
    none = DOCUMENTS.empty_table()
    rejected = pa.Table.from_pylist([{**copy, **kept}, {**DROPPED, "row": 9, "reason": "length"}], NOT_USED)
    add(store, record, "corpus", {
        "train/part-00000.parquet": none, "held_out/part-00000.parquet": none, "rejected.parquet": rejected,
    })  # fmt: skip
    record.save(store)
    shown = inspect(store, "corpus").stdout
    assert "set_aside duplicate_near  web.jsonl:3  nearly the same text: books.jsonl:12\n    Text 1!\n" in shown
    assert "set_aside length  web.jsonl:9  left out by a filter of the corpus\n" in shown
    (row,) = facts(store, "corpus", "--where", "reason=duplicate_near")["rows"]
    assert row == {**copy, **kept, "split": "set_aside"}
    assert facts(store, "corpus", "--where", "kept_where=books.jsonl")["num_rows"] == 1


def test_rows_are_shown_with_place_reason_and_text(store: Store) -> None:
    shown = inspect(store, "corpus", "--where", "split=set_aside").stdout
    assert "set_aside too_long  web.jsonl:11  left out by a filter of the corpus\n    Long \\x1b[31m text\n" in shown
    assert shown.endswith("2 of 2 rows (2 set_aside: 1 too_long, 1 too_short)\n")
    shown = inspect(store, "conversations").stdout
    assert "    user: Where is 1? / assistant: Here." in shown
    assert "set_aside unreadable  mine.jsonl:11  not JSON" in shown and "    oops !\n" in shown


def test_images_are_shown_with_file_and_size(store: Store) -> None:
    shown = inspect(store, "images", "--where", "width=300").stdout
    assert "train en  web/0/0  0.jpg  300 × 200 pixels, 1,500 bytes\n    Text 0.\n" in shown
    assert shown.endswith("2 of 2 rows (1 train, 1 held_out)\n")


def test_conversations_have_their_turns_and_the_rows_set_aside(store: Store) -> None:
    found = facts(store, "conversations", "--where", "source=mine")
    assert (found["train"] + found["held_out"], found["set_aside"]) == (9, 2)
    assert found["not_used"] == {"empty_turn": 1, "unreadable": 1}
    assert [turn["role"] for turn in found["rows"][0]["messages"]] == ["user", "assistant"]
    (row,) = facts(store, "conversations", "--where", "reason=empty_turn")["rows"]
    assert (row["where"], row["row"]) == ("mine.jsonl", 10)
    (row,) = facts(store, "conversations", "--where", "reason=unreadable")["rows"]
    assert row["raw"].strip() == OOPS


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["guard"], "guard: holds no rows but guard; expected one of corpus, images, conversations, preferences"),
        (["corpus", "--where", "reason"], "--where reason: expected KEY=VALUE, such as reason=too_long"),
        (
            ["corpus", "--where", "colour=red"],
            "--where colour: no row has this key; expected one of group, id, language",
        ),
        (["nothing"], "nothing: neither a stage of the latest run"),
    ],
)
def test_what_is_wrong_is_named(store: Store, arguments: list[str], problem: str) -> None:
    done = inspect(store, *arguments)
    assert (done.exit_code, done.stdout) == (2, "") and problem in done.stderr


def test_rows_that_a_model_wrote(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    record = RunRecord.begin(store, recipe="mine", path=Path("mine.yaml"), seed=7)
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    meta = {"method": "rewrites", "template": "rewrite_prompt.en", "writer": "w", "seeds": [], "derived_from": "a/0/1"}
    written = Written()
    written.keep({"messages": messages}, "en", meta)
    written.drop("unchanged", "says the same", "Why?", "en", meta)
    (tmp_path / "made").mkdir()
    written.write(tmp_path / "made", {"rewrite_prompt.en": "{text}"}, [])
    add(store, record, "augmented", tmp_path / "made")
    record.save(store)
    done = CliRunner().invoke(cli.app, ["inspect", "augmented", "--store", str(store.root)])
    assert done.exit_code == 0, done.stderr
    assert "written en  1\n    user: Why? / assistant: So." in done.stdout
    assert "set_aside unchanged  dropped.jsonl:1  says the same" in done.stdout
