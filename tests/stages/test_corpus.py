"""The corpus stage on a real Ray: its documents and facts, determinism, and that a kill loses at most one block."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ClusterError
from cluster.session import Session
from pipelines.blocks import Block, write_arrow
from pipelines.data.corpus import splitting
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED, document_of
from pipelines.data.sources import SOURCES, jsonl
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.errors import UserError
from pipelines.run.walk import explain
from pipelines.stage import Facts, Work
from pipelines.stages.corpus import STAGE, blocks, finish, hold_out
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions
from pipelines.store.artifacts import Draft, Store

ROOT = Path(__file__).parents[2]
SMALL = {"block_bytes": 4000, "part_bytes": 20_000, "held_out": 0.1}
WORDS = ("time", "way", "year", "work", "day", "man", "world", "life", "hand", "part", "child", "eye", "place", "case",
         "week", "company", "system", "program", "question", "night", "water", "room", "friend", "power")  # fmt: skip
FUNCTION_WORDS = (
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
)
HAN = "天地人山水火木土日月星雲雨風花草鳥魚馬牛羊手足目口心言行食衣住學書文字詩歌酒茶路門城國家父母子女兄弟友"


@dataclass
class RecordingProgress:
    """A progress that records notes and calls back after each block."""

    on_block: Callable[[float], None] = lambda done: None
    notes: list[str] = field(default_factory=list)

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        if unit == "blocks":
            self.on_block(done)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Stopped(Exception):
    pass


@dataclass
class StoppingProgress(RecordingProgress):
    """A progress that ends the run at the first update in a unit."""

    unit: str = ""
    units: set[str] = field(default_factory=set)

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        self.units.add(unit)
        if unit == self.unit:
            raise Stopped


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session(cpus=2, on_message=lambda text: None) as session:
        yield session


def sentence(rng: random.Random) -> str:
    words = [rng.choice(FUNCTION_WORDS if n % 2 else WORDS) for n in range(rng.randint(8, 20))]
    return " ".join(words).capitalize() + f" {rng.randint(0, 9999)}."


def english(rng: random.Random) -> str:
    return "\n".join(" ".join(sentence(rng) for _ in range(4)) for _ in range(rng.randint(1, 3)))


def chinese(rng: random.Random) -> str:
    return "。".join("，".join("".join(rng.choices(HAN, k=7)) for _ in range(4)) for _ in range(3)) + "。"


def write(file: Path, records: list[Any]) -> None:
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty English groups in twenty files, with duplicates and bad rows; one Chinese file."""
    folder = tmp_path_factory.mktemp("sources")
    rng = random.Random(0)
    (folder / "en").mkdir()
    for group in range(20):
        records: list[Any] = [{"text": english(rng)} for _ in range(12)]
        records.append(records[group % 12])  # an exact duplicate
        near = records[(group + 1) % 12]["text"].split(" ")
        records.append({"text": " ".join([*near[:-1], "otherwise"])})  # a near duplicate
        records.append({"text": "Too short."})
        if group == 7:
            records.insert(3, "{not json")
        write(folder / "en" / f"{group:02}.jsonl", records)
    write(folder / "zh.jsonl", [{"text": chinese(rng)} for _ in range(60)])
    return folder


def sources(folder: Path) -> dict[str, Source]:
    options = {"web": {"path": "en"}, "poems": {"path": "zh.jsonl", "language": "zh"}}
    return {
        name: SOURCES["jsonl"].model_validate({"kind": "jsonl", **source_options}).at(folder)
        for name, source_options in options.items()
    }


def work(
    session: Session,
    draft: Path,
    sources: dict[str, Source],
    *,
    tasks: int = 2,
    progress: RecordingProgress | None = None,
    **options: Any,
) -> Work:
    return Work(
        name="corpus",
        options=CorpusOptions.model_validate({**SMALL, **options}),
        cluster=CorpusCluster(tasks=tasks),
        seed=7,
        inputs={},
        sources=sources,
        draft=Draft(draft, "fingerprint"),
        progress=progress or RecordingProgress(),
        session=session,
    )


def digests(draft: Path) -> dict[str, str]:
    files = sorted(path for path in (draft / "out").rglob("*") if path.is_file())
    return {file.relative_to(draft).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclass(frozen=True)
class Result:
    folder: Path
    draft: Path
    facts: Facts

    def table(self, split: str) -> pa.Table:
        return pa.concat_tables(
            [pq.read_table(part) for part in sorted((self.draft / "out" / split).glob("*.parquet"))]
        )


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
    assert rejected.schema.equals(REJECTED)
    unreadable = [row for row in rejected.to_pylist() if row["reason"] == "unreadable"]
    assert [(row["source"], row["where"], row["row"]) for row in unreadable] == [("web", "en/07.jsonl", 4)]
    short = [row["where"] for row in rejected.to_pylist() if row["reason"] == "too_short"]
    assert short == [f"en/{group:02}.jsonl" for group in range(20)]
    copies = [row for row in rejected.to_pylist() if row["reason"] == "duplicate_exact"]
    assert [(row["where"], row["row"]) for row in copies] == [
        (f"en/{group:02}.jsonl", 14 if group == 7 else 13) for group in range(20)
    ]


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


def test_finished_blocks_are_not_read_again(session: Session, result: Result, tmp_path: Path) -> None:
    def stop(done: float) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        STAGE.run(work(session, tmp_path, sources(result.folder), progress=RecordingProgress(stop)))
    folder = tmp_path / "blocks"
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}
    assert 6 <= len(before) < len(list((result.draft / "blocks").glob("*.parquet")))
    lines: list[float] = []
    STAGE.run(work(session, tmp_path, sources(result.folder), progress=RecordingProgress(lines.append)))
    assert min(lines) > 3
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert digests(tmp_path) == digests(result.draft)


def test_a_run_with_all_blocks_reads_no_source_and_writes_the_same_bytes(session: Session, result: Result) -> None:
    before = digests(result.draft)
    seen: list[float] = []
    facts = STAGE.run(work(session, result.draft, sources(result.folder), progress=RecordingProgress(seen.append)))
    assert seen == []
    assert "corpus/documents_per_s" not in facts
    assert digests(result.draft) == before


def test_a_killed_worker_does_not_change_the_result(session: Session, result: Result, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(done: float) -> None:
        for process in psutil.process_iter(["cmdline"]):
            title = " ".join(process.info["cmdline"] or [])
            if not killed and title.startswith("ray::MapBatches") and is_descendant(process):
                os.kill(process.pid, 9)
                killed.append(process.pid)

    STAGE.run(work(session, tmp_path, sources(result.folder), progress=RecordingProgress(kill)))
    assert killed
    assert digests(tmp_path) == digests(result.draft)


def is_descendant(process: psutil.Process) -> bool:
    return os.getpid() in [parent.pid for parent in process.parents()]


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

    def parts(self) -> list[Part]:
        return [Part(index=0, where="here", group="here")]

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
    assert int(facts["lines/dropped_contaminated"]) > 0


def test_parts_of_a_book_that_stands_there_twice_are_set_aside_with_its_row(tmp_path: Path) -> None:
    block = Block("books", (Part(index=0, where="books.jsonl", group="books"),), tmp_path)
    ids = ["books/0/1.1", "books/0/1.2", "books/0/2.1", "books/0/2.2", "books/0/3"]
    pq.write_table(pa.table({"id": ids, "text": ["One.", "Two.", "One.", "Two.", "Three."]}), block.file)
    pq.write_table(REJECTED.empty_table(), block.rejected)
    fates = np.array([hold_out.TRAIN, hold_out.TRAIN, hold_out.EXACT, hold_out.NEAR, hold_out.TRAIN], np.int8)
    write_arrow(pa.record_batch([np.zeros(5, np.int32), fates], schema=hold_out.FATES), tmp_path / "fates.arrow")
    described = {"rejected": str(block.rejected), "source": "books", "fates": str(tmp_path / "fates.arrow"),
                 "places": {"0": "books.jsonl"}}  # fmt: skip
    path = tmp_path / "rejected.parquet"
    finish.write_rejected_file({"path": str(path)}, blocks=[described], files=[str(block.file)])
    rows = pq.read_table(path).to_pylist()
    assert [(row["where"], row["row"], row["reason"], row["raw"]) for row in rows] == [
        ("books.jsonl", 2, "duplicate_exact", "One."), ("books.jsonl", 2, "duplicate_near", "Two."),
    ]  # fmt: skip


def test_the_number_of_buckets_and_spans_does_not_change_the_result(
    session: Session, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "ROOT_BYTES", 4000)
    STAGE.run(work(session, tmp_path, sources(result.folder)))
    for folder, suffix in {"duplicates": ".pairs.arrow", "fates": ".arrow"}.items():
        assert len(list((tmp_path / folder).glob(f"*{suffix}"))) > 5
        assert len(list((result.draft / folder).glob(f"*{suffix}"))) == 1
    assert digests(tmp_path) == digests(result.draft)


UNITS = ("buckets of duplicates", "list of near duplicates", "spans measured", "choice of held-out text",
         "spans separated", "files", "spans compared", "held-out files", "file of rejected rows")  # fmt: skip


def test_a_run_that_stops_in_every_phase_in_turn_goes_on_there(
    session: Session, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "ROOT_BYTES", 4000)
    for number, unit in enumerate(UNITS):
        progress = StoppingProgress(unit=unit)
        with pytest.raises(Stopped):
            STAGE.run(work(session, tmp_path, sources(result.folder), progress=progress))
        assert not set(UNITS[: max(0, number - 1)]) & progress.units
    for folder in (tmp_path / "out", tmp_path / "out" / "train"):
        (folder / ".0123456789abcdef").write_bytes(b"left by a killed task")
    STAGE.run(work(session, tmp_path, sources(result.folder)))
    assert digests(tmp_path) == digests(result.draft)


def in_a_process(draft: Path, options: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    draft.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.stages.corpus_driver", str(draft), json.dumps(options), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_a_run_killed_in_every_phase_in_turn_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    options = {**SMALL, "max_bad_rows": 1}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_a_process(whole, options, str(folder / "en")).returncode == 0
    for unit in ("blocks", *UNITS):
        assert in_a_process(killed, options, str(folder / "en"), f"--kill={unit}").returncode == -signal.SIGKILL
    finished = in_a_process(killed, options, str(folder / "en"))
    assert finished.returncode == 0, finished.stderr
    assert digests(killed) == digests(whole)


@pytest.mark.slow
def test_the_drivers_memory_does_not_depend_on_the_corpus(tmp_path: Path) -> None:
    """56,000 documents more: their keys, signatures and texts would be 100 MB."""
    rng = random.Random(4)
    peaks = []
    for num_files in (4, 32):
        files = [tmp_path / f"{num_files}-{number}.jsonl" for number in range(num_files)]
        for file in files:
            write(file, [{"text": english(rng)} for _ in range(2000)])
        draft = tmp_path / f"draft{num_files}"
        finished = in_a_process(draft, {"part_bytes": 10_000_000, "block_bytes": 500_000}, *map(str, files))
        assert finished.returncode == 0, finished.stderr
        tables = map(pq.read_metadata, (draft / "out").rglob("part-*"))
        assert sum(table.num_rows for table in tables) > 0.9 * 2000 * num_files
        peaks.append(json.loads(finished.stdout)["peak_bytes"])
    assert peaks[1] - peaks[0] <= 50_000_000


def test_rows_of_a_file_that_is_read_in_ranges_are_numbered_by_its_lines(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(9)
    records: list[Any] = [{"text": english(rng)} for _ in range(200)]
    records[149] = "{not json"
    write(tmp_path / "a.jsonl", records)
    monkeypatch.setattr(jsonl, "RANGE_BYTES", 3000)
    web = {"web": SOURCES["jsonl"].model_validate({"path": "a.jsonl"}).at(tmp_path)}
    assert len(web["web"].parts()) > 20
    STAGE.run(work(session, tmp_path / "draft", web, max_bad_rows=1))
    out = tmp_path / "draft" / "out"
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    assert [row["row"] for row in rejected if row["reason"] == "unreadable"] == [150]
    ids = [id for split in ("train", "held_out") for id in pq.read_table(out / split).column("id").to_pylist()]
    lines = [int(id.rsplit("/", 1)[1]) for id in ids] + [row["row"] for row in rejected]
    assert sorted(lines) == list(range(1, 201))


def test_held_out_text_is_bounded_in_bytes(session: Session, result: Result, tmp_path: Path) -> None:
    facts = STAGE.run(work(session, tmp_path, sources(result.folder), held_out_bytes=8000))
    assert int(result.facts["bytes/held_out_en"]) > 8000
    assert 0 < int(facts["bytes/held_out_en"]) <= 8000
    assert facts["documents/kept"] == result.facts["documents/kept"]


def test_sizes_of_groups_add_up_over_spans_also_where_the_lowest_hashes_alone_are_kept() -> None:
    rng = random.Random(8)
    rows = [(rng.choice(("en", "zh")), f"group {rng.randint(0, 400)}", rng.randint(1, 1000)) for _ in range(5000)]
    totals: Counter[tuple[str, str]] = Counter()
    for language, name, size in rows:
        totals[language, name] += size
    table = hold_out.SIZES.empty_table()
    for first in range(0, len(rows), 700):
        languages, names, sizes = map(list, zip(*rows[first : first + 700], strict=True))
        documents = pa.table({"language": languages, "text_bytes": sizes})
        span = hold_out.lowest([hold_out.sizes_of(documents, "group", pa.chunked_array([names]), 7)], 50)
        table = hold_out.lowest([table, span], 50)
    for language in ("en", "zh"):
        found = {row["name"]: row["bytes"] for row in table.to_pylist() if row["language"] == language}
        names = [name for of, name in totals if of == language]
        expected = sorted(names, key=lambda name: splitting.salted_hash(name, f"7/{language}"))[:50]
        assert found == {name: totals[language, name] for name in expected}
