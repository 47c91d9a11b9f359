"""The corpus stage on a real Ray: its documents and facts, determinism, and bad sources."""

from __future__ import annotations

import errno
import gzip
import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ClusterError
from cluster.session import Session
from pipelines.blocks import Block, write_arrow
from pipelines.data.corpus.data_card import summarise_rejected
from pipelines.data.corpus.documents import DOCUMENTS, NOT_USED, REJECTED, document_of
from pipelines.data.sources import SOURCES, ranges
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.errors import UserError
from pipelines.run.walk import explain
from pipelines.stages.corpus import STAGE, finish, hold_out, survivors, unpacking
from pipelines.stages.corpus.decontaminate import LEFT_OUT, SHARED, SIMILAR
from pipelines.store.artifacts import Store
from tests.stages.corpus_work import (
    Result,
    digests,
    english,
    sentence,
    sources,
    work,
    write,
    write_sources,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def result(session: Session, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    draft = tmp_path_factory.mktemp("draft")
    return Result(folder, draft, STAGE.run(work(session, draft, sources(folder))))


def test_the_funnel_adds_up(result: Result) -> None:
    facts = result.facts
    dropped = {name: number for name, number in facts.items() if name.startswith("documents/dropped_")}
    assert facts["documents/read"] == 20 * 15 + 60
    assert facts["documents/read"] == int(facts["documents/kept"]) + sum(int(number) for number in dropped.values())
    assert facts["documents/dropped_too_short"] == 20
    assert facts["documents/dropped_duplicate_exact"] == 20
    assert facts["documents/dropped_duplicate_near"] == 20
    assert facts["rows/bad"] == facts["rows/not_used_unreadable"] == 1
    assert facts["rows/read"] == int(facts["documents/read"]) + 1 and facts["rows/used"] == facts["documents/kept"]
    assert facts["rows/not_used_too_short"] == facts["rows/not_used_duplicate_near"] == 20
    for what in ("documents/kept", "bytes/kept", "documents/held_out", "bytes/held_out"):
        assert int(facts[what]) == int(facts[f"{what}_en"]) + int(facts[f"{what}_zh"])
    assert {f"documents/dropped_{r}" for r in ("empty", "stop_words", "contaminated", "mojibake")} <= facts.keys()


def test_files_agree_with_the_facts(result: Result) -> None:
    train, held = result.table("train"), result.table("held_out")
    assert train.schema.equals(DOCUMENTS)
    assert held.schema.equals(DOCUMENTS)
    assert train.num_rows + held.num_rows == result.facts["documents/kept"]
    assert held.num_rows == result.facts["documents/held_out"]
    text_bytes = sum(len(text.encode()) for table in (train, held) for text in table.column("text").to_pylist())
    assert text_bytes == result.facts["bytes/kept"]
    assert len(list((result.draft / "out" / "train").iterdir())) > 1
    rejected = pq.read_table(result.draft / "out" / "rejected.parquet")
    assert rejected.schema.equals(NOT_USED)
    unreadable = [row for row in rejected.to_pylist() if row["reason"] == "unreadable"]
    assert [(row["source"], row["where"], row["row"]) for row in unreadable] == [("web", "en/07.jsonl", 4)]
    short = [row["where"] for row in rejected.to_pylist() if row["reason"] == "too_short"]
    assert short == [f"en/{group:02}.jsonl" for group in range(20)]
    copies = [row for row in rejected.to_pylist() if row["reason"] == "duplicate_exact"]
    assert [(row["where"], row["row"]) for row in copies] == [
        (f"en/{group:02}.jsonl", 14 if group == 7 else 13) for group in range(20)
    ]


def test_each_duplicate_names_the_document_that_is_kept_instead(result: Result) -> None:
    """A copy of row 1 + group % 12 is kept nowhere; of row 1 + (group + 1) % 12 and its near copy the longer one is."""
    rejected = pq.read_table(result.draft / "out" / "rejected.parquet").to_pylist()
    found = {(row["reason"], row["where"]): row for row in rejected if row["reason"].startswith("duplicate")}
    assert len(found) == 40
    kept_ids = {id for split in ("train", "held_out") for id in result.table(split).column("id").to_pylist()}
    for group in range(20):
        where, shift = f"en/{group:02}.jsonl", [3] if group == 7 else []  # where a bad row stands before others

        def row_of(place: int, shift: list[int] = shift) -> int:
            return place + 1 + sum(place >= first for first in shift)

        copy, near = (found[reason, where] for reason in ("duplicate_exact", "duplicate_near"))
        assert (copy["row"], copy["kept_row"]) == (row_of(12), row_of(group % 12))
        assert {near["row"], near["kept_row"]} == {row_of((group + 1) % 12), row_of(13)}
        for row in (copy, near):
            assert (row["kept_source"], row["kept_where"]) == ("web", where)
            assert f"web/{group}/{row['kept_row']}" in kept_ids
    others = [row for row in rejected if not row["reason"].startswith("duplicate")]
    assert others and all(row["kept_source"] is row["kept_where"] is row["kept_row"] is None for row in others)


def test_the_data_card_agrees_with_the_facts_and_quotes_the_files(result: Result) -> None:
    card = json.loads((result.draft / "out" / "data_card.json").read_text(encoding="utf-8"))
    assert {source: counts["read"] for source, counts in card["documents"].items()} == {"web": 301, "poems": 60}
    counts = card["documents"]["web"]
    assert counts["dropped"] == {"duplicate_exact": 20, "duplicate_near": 20, "too_short": 20, "unreadable": 1}
    train, held_out = (sum(source[what] for source in card["documents"].values()) for what in ("train", "held_out"))
    assert (train + held_out, held_out) == (result.facts["documents/kept"], result.facts["documents/held_out"])
    assert card["languages"]["poems"]["zh"] == {"documents": 60, "bytes": result.facts["bytes/kept_zh"]}
    texts = {row["id"]: row["text"] for split in ("train", "held_out") for row in result.table(split).to_pylist()}
    lengths = [len(text) for id, text in texts.items() if id.startswith("web")]
    histogram = card["histograms"]["characters"]
    assert histogram["counts"]["en"] == np.histogram(lengths, histogram["edges"])[0].tolist()
    for sample in (*card["kept"]["web"]["en"], *card["kept"]["poems"]["zh"]):
        assert " ".join(texts[sample["place"]].split()).startswith(sample["text"].rstrip("…"))
    unreadable = {"source": "web", "place": "en/07.jsonl:4", "text": "{not json"}
    assert unreadable.items() <= card["dropped"]["unreadable"][0].items()
    assert [cluster["documents"] for cluster in card["near_duplicates"]] == [2] * 8
    for cluster in card["near_duplicates"]:
        kept, dropped = cluster["members"]
        assert kept["id"] in texts and dropped["id"] not in texts
        assert kept["text"][:200] == dropped["text"][:200]


def test_documents_are_in_the_order_of_their_sources(result: Result) -> None:
    ids = [tuple(id.split("/")) for id in result.table("train").column("id").to_pylist()]
    assert ids == sorted(ids, key=lambda id: (id[0], int(id[1]), int(id[2])))
    assert len(ids) == len(set(ids))


def test_held_out_groups_are_not_in_training_text(result: Result) -> None:
    split = {}
    for name in ("train", "held_out"):
        rows = result.table(name).select(["language", "group", "text"]).to_pylist()
        split[name] = [row for row in rows if row["language"] == "en"]
        assert any(row["language"] == "zh" for row in result.table(name).to_pylist())
    assert not {row["group"] for row in split["train"]} & {row["group"] for row in split["held_out"]}
    lines = [line for row in split["train"] for line in row["text"].split("\n") if len(line) > 60]
    assert not set(lines) & {line for row in split["held_out"] for line in row["text"].split("\n")}


def test_parts_of_a_book_stay_on_one_side_of_the_split(session: Session, tmp_path: Path) -> None:
    rng = random.Random(2)
    books = ["\n\n".join(sentence(rng) for _ in range(60)) for _ in range(20)]  # one group: it is split by documents
    write(tmp_path / "books.jsonl", [{"text": book} for book in books])
    source = SOURCES["jsonl"].model_validate({"path": "books.jsonl"}).at(tmp_path)
    results = []
    for tasks in (1, 2):
        draft = tmp_path / f"draft{tasks}"
        facts = STAGE.run(
            work(session, draft, {"books": source}, tasks=tasks, filters={"length": {"max_words": 200}}, held_out=0.2)
        )
        results.append(digests(draft))
    assert results[0] == results[1]
    assert facts["documents/split"] == 20
    assert facts["documents/read"] == facts["documents/parts"] == facts["documents/kept"]
    sides = [pq.read_table(draft / "out" / split).column("id").to_pylist() for split in ("train", "held_out")]
    train, held_out = ({document_of(id) for id in ids} for ids in sides)
    assert len(sides[1]) > len(held_out) > 0
    assert not train & held_out


@pytest.mark.parametrize("tasks", [1, 2])
def test_two_runs_write_the_same_bytes_with_any_parallelism(
    session: Session, result: Result, tmp_path: Path, tasks: int
) -> None:
    reversed_sources = dict(reversed(sources(result.folder).items()))  # the order in the recipe does not matter either
    facts = STAGE.run(work(session, tmp_path, reversed_sources, tasks=tasks))
    assert digests(tmp_path) == digests(result.draft)
    del facts["corpus/documents_per_s"]
    assert facts == {name: figure for name, figure in result.facts.items() if name in facts}


def test_too_many_bad_rows_name_the_first(session: Session, result: Result, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"en/07\.jsonl:4: not JSON.*max_bad_rows allows 0"):
        STAGE.run(work(session, tmp_path, sources(result.folder), max_bad_rows=0))


def test_an_unreadable_file_in_a_task_is_a_user_error(session: Session, tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00garbage")
    web = {"web": SOURCES["jsonl"].model_validate({"path": "cut.jsonl.gz"}).at(tmp_path)}
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz"):
        STAGE.run(work(session, tmp_path / "draft", web))


class FullDisk(Source):
    """A source whose reading fails as on a node with a full disk."""

    kind: str = "full"

    def each_part(self) -> Iterator[Part]:
        yield Part(index=0, where="here", group="here")

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_machine_failure_in_a_task_is_a_cluster_error(session: Session, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="No space left") as caught:
        STAGE.run(work(session, tmp_path / "draft", {"web": FullDisk()}))
    assert isinstance(explain(caught.value, Store(tmp_path)), ClusterError)


def test_error_names_the_reasons_if_no_document_is_left(session: Session, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "Short."}, {"text": ""}])
    web = {"web": SOURCES["jsonl"].model_validate({"path": "a.jsonl"}).at(tmp_path)}
    with pytest.raises(UserError, match=r"no document is left of 2 read \(1 empty, 1 too_short"):
        STAGE.run(work(session, tmp_path / "draft", web))


def test_held_out_text_similar_to_training_text_is_dropped_or_loses_shared_lines(
    session: Session, tmp_path: Path
) -> None:
    """Every held-out text here has a line, most of its lines or most of its phrases in common with training text."""
    rng = random.Random(3)
    template = "This function is deprecated since version 2.0 and will be removed from the library in a while."
    shared = [english(rng) for _ in range(30)]
    records = []
    for group in range(10):
        for n in range(30):
            unique = english(rng)
            text = [f"{unique}\n{template}", unique, f"{shared[n]}\n{sentence(rng)}"][n % 3]
            records.append({"text": text, "from": f"group {group}"})
    write(tmp_path / "a.jsonl", records)
    source = SOURCES["jsonl"].model_validate({"path": "a.jsonl", "group": "from"}).at(tmp_path)
    facts = STAGE.run(work(session, tmp_path / "draft", {"web": source}, near_duplicates=None, held_out=0.2))
    held = pq.read_table(tmp_path / "draft" / "out" / "held_out").column("text").to_pylist()
    train = "\n".join(pq.read_table(tmp_path / "draft" / "out" / "train").column("text").to_pylist())
    assert held
    assert not any(template in text for text in held)
    assert not any(line in train for text in held for line in text.split("\n") if len(line) > 60)
    assert template in train
    assert int(facts["documents/dropped_contaminated"]) >= len(held) // 4
    dropped = json.loads((tmp_path / "draft" / "out" / "data_card.json").read_bytes())["documents"]["web"]["dropped"]
    assert dropped == {"contaminated": facts["documents/dropped_contaminated"]}
    assert int(facts["lines/dropped_contaminated"]) > 0
    rejected = [row for row in pq.read_table(tmp_path / "draft" / "out" / "rejected.parquet").to_pylist()
                if row["reason"] == "contaminated"]  # fmt: skip
    assert len(rejected) == facts["documents/dropped_contaminated"]
    assert {row["problem"] for row in rejected} == {SIMILAR, SHARED}
    assert all(row["where"] == "a.jsonl" and row["raw"] == records[row["row"] - 1]["text"][:500] for row in rejected)


def test_parts_of_a_book_that_stands_there_twice_are_set_aside_with_its_row(tmp_path: Path) -> None:
    block = Block.of("books", (Part(index=0, where="books.jsonl", group="books"),), tmp_path)
    ids = ["books/0/1.1", "books/0/1.2", "books/0/2.1", "books/0/2.2", "books/0/3"]
    pq.write_table(pa.table({"id": ids, "text": ["One.", "Two.", "One.", "Two.", "Three."]}), block.file)
    pq.write_table(REJECTED.empty_table(), block.rejected)
    fates = np.array([hold_out.TRAIN, hold_out.TRAIN, hold_out.EXACT, hold_out.NEAR, hold_out.TRAIN], np.int8)
    write_arrow(pa.record_batch([np.zeros(5, np.int32), fates], schema=hold_out.FATES), tmp_path / "fates.arrow")
    kept = [np.array([2, 3]), np.zeros(2, np.int32), np.zeros(2, np.int32), np.array([1, 1])]
    write_arrow(pa.record_batch(kept, schema=survivors.SURVIVORS), tmp_path / "survivors.arrow")
    described = {"rejected": str(block.rejected), "source": "books", "fates": str(tmp_path / "fates.arrow"),
                 "survivors": str(tmp_path / "survivors.arrow"), "places": {"0": "books.jsonl"}}  # fmt: skip
    left_out = tmp_path / "left_out.parquet"
    pq.write_table(pa.table([["books/0/3"], ["books"], ["Three."], [SIMILAR]], schema=LEFT_OUT), left_out)
    path, summary = tmp_path / "rejected.parquet", tmp_path / "data_card" / "rejected.json"
    write_rejected = partial(
        finish.write_rejected_file,
        {"path": str(path)}, blocks=[described], files=[str(block.file)], left_out=[str(left_out)], summary=summary,
        seed=7,
    )  # fmt: skip
    with pytest.raises(FileNotFoundError):
        write_rejected()  # there is no such folder: without the summary the file would never be summarised
    assert not path.exists()
    summary.parent.mkdir()
    write_rejected()
    rows = pq.read_table(path).to_pylist()
    assert json.loads(summary.read_bytes()) == summarise_rejected(pq.read_table(path).to_batches(), seed=7)
    assert [(row["where"], row["row"], row["reason"], row["raw"], row["kept_row"]) for row in rows] == [
        ("books.jsonl", 2, "duplicate_exact", "One.", 1), ("books.jsonl", 2, "duplicate_near", "Two.", 1),
        ("books.jsonl", 3, "contaminated", "Three.", None),
    ]  # fmt: skip


def test_rows_of_a_file_that_is_read_in_ranges_are_numbered_by_its_lines(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(9)
    records: list[Any] = [{"text": english(rng)} for _ in range(200)]
    records[149] = "{not json"
    write(tmp_path / "a.jsonl", records)
    monkeypatch.setattr(ranges, "RANGE_BYTES", 3000)
    web = {"web": SOURCES["jsonl"].model_validate({"path": "a.jsonl"}).at(tmp_path)}
    assert len(web["web"].parts()) > 20
    STAGE.run(work(session, tmp_path / "draft", web, max_bad_rows=1))
    out = tmp_path / "draft" / "out"
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    assert [row["row"] for row in rejected if row["reason"] == "unreadable"] == [150]
    ids = [id for split in ("train", "held_out") for id in pq.read_table(out / split).column("id").to_pylist()]
    lines = [int(id.rsplit("/", 1)[1]) for id in ids] + [row["row"] for row in rejected]
    assert sorted(lines) == list(range(1, 201))


def test_ranges_of_tables_text_and_compressed_files_give_what_whole_files_give(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(10)
    documents = [english(rng) for _ in range(120)]
    paragraphs = [english(rng) for _ in range(120)]
    cells = ['{},"{}"'.format(number, document.replace('"', '""')) for number, document in enumerate(documents)]
    cells[70] = "70,one,too many"
    (tmp_path / "a.csv").write_text("\n".join(["id,text", *cells]))
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs))
    rows = "".join(json.dumps({"text": english(rng)}) + "\n" for _ in range(120)).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(rows[::-1].replace(b"\n", b"") + rows)[:-50])
    options = {
        "a.csv": {"kind": "csv"},
        "a.txt": {"kind": "text", "split": "blank_lines"},
        "*.jsonl.gz": {"kind": "jsonl"},
    }

    def read(folder: str) -> tuple[int, list[Any]]:
        """The number of blocks, and the rows of documents and rejected ones without the numbers of parts."""
        named = {kept["kind"]: SOURCES[kept["kind"]].model_validate({"path": path, **kept}).at(tmp_path)
                 for path, kept in options.items()}  # fmt: skip
        STAGE.run(work(session, tmp_path / folder, named, max_bad_rows=4, block_bytes=1))
        out = tmp_path / folder / "out"
        documents = [row for split in ("train", "held_out") for row in pq.read_table(out / split).to_pylist()]
        rows = [(*(row["id"].split("/")[::2]), row["text"]) for row in documents]
        rejected = pq.read_table(out / "rejected.parquet").to_pylist()
        rows += [(row["where"], str(row["row"]), row["raw"]) for row in rejected]
        return len(list((tmp_path / folder / "blocks").glob("*.rejected.parquet"))), sorted(rows)

    num_whole, whole = read("whole")
    monkeypatch.setattr(ranges, "RANGE_BYTES", 2000)
    monkeypatch.setattr(unpacking, "MUCH_BYTES", 2000)
    num_ranges, by_range = read("ranges")
    assert by_range == whole and len(whole) > 300
    assert num_whole == 4 and num_ranges > 30
    copies = sorted(file.stat().st_size for file in (tmp_path / "ranges" / "unpacked.partial").iterdir())
    assert copies == [0, len(rows)]  # of the damaged file there is none


def test_held_out_text_is_bounded_in_bytes(session: Session, result: Result, tmp_path: Path) -> None:
    facts = STAGE.run(work(session, tmp_path, sources(result.folder), held_out_bytes=8000))
    assert int(result.facts["bytes/held_out_en"]) > 8000
    assert 0 < int(facts["bytes/held_out_en"]) <= 8000
    assert facts["documents/kept"] == result.facts["documents/kept"]
