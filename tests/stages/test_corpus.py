"""The corpus stage on a real Ray: what comes out, that it is always the same, and that a kill costs one block."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ClusterError
from cluster.session import Session
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED
from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import BadRow, Part, Row, Source
from pipelines.errors import UserError
from pipelines.run.walk import explain
from pipelines.stage import Facts, Work
from pipelines.stages.corpus import STAGE
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions
from pipelines.store.artifacts import Draft, Store

SMALL = {"block_bytes": 4000, "part_bytes": 20_000, "held_out": 0.1}
WORDS = ("time", "way", "year", "work", "day", "man", "world", "life", "hand", "part", "child", "eye", "place", "case",
         "week", "company", "system", "program", "question", "night", "water", "room", "friend", "power")  # fmt: skip
GLUE = ("the", "of", "and", "to", "a", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not")
HAN = "天地人山水火木土日月星雲雨風花草鳥魚馬牛羊手足目口心言行食衣住學書文字詩歌酒茶路門城國家父母子女兄弟友"


@dataclass
class Watch:
    """A progress that remembers, and may act after each step."""

    then: Callable[[float], None] = lambda done: None
    notes: list[str] = field(default_factory=list)

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        if unit == "blocks":
            self.then(done)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session(cpus=2, on_message=lambda text: None) as session:
        yield session


def sentence(rng: random.Random) -> str:
    words = [rng.choice(GLUE if n % 2 else WORDS) for n in range(rng.randint(8, 20))]
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
    given = {"web": {"path": "en"}, "poems": {"path": "zh.jsonl", "language": "zh"}}
    return {name: SOURCES["jsonl"].model_validate({"kind": "jsonl", **o}).at(folder) for name, o in given.items()}


def work(
    session: Session,
    draft: Path,
    sources: dict[str, Source],
    *,
    tasks: int = 2,
    watch: Watch | None = None,
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
        progress=watch or Watch(),
        session=session,
    )


def digests(draft: Path) -> dict[str, str]:
    files = sorted(path for path in (draft / "out").rglob("*") if path.is_file())
    return {file.relative_to(draft).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclass(frozen=True)
class Made:
    folder: Path
    draft: Path
    facts: Facts

    def table(self, split: str) -> pa.Table:
        return pa.concat_tables(
            [pq.read_table(part) for part in sorted((self.draft / "out" / split).glob("*.parquet"))]
        )


@pytest.fixture(scope="module")
def made(session: Session, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    draft = tmp_path_factory.mktemp("draft")
    return Made(folder, draft, STAGE.run(work(session, draft, sources(folder))))


def test_the_funnel_adds_up(made: Made) -> None:
    facts = made.facts
    dropped = {name: number for name, number in facts.items() if name.startswith("documents/dropped_")}
    assert facts["documents/read"] == 20 * 15 + 60
    assert facts["documents/read"] == int(facts["documents/kept"]) + sum(int(number) for number in dropped.values())
    assert facts["documents/dropped_too_short"] == 20
    assert facts["documents/dropped_duplicate_exact"] == 20
    assert facts["documents/dropped_duplicate_near"] == 20
    assert facts["rows/bad"] == 1
    for what in ("documents/kept", "bytes/kept", "documents/held_out", "bytes/held_out"):
        assert int(facts[what]) == int(facts[f"{what}_en"]) + int(facts[f"{what}_zh"])
    assert {f"documents/dropped_{r}" for r in ("empty", "stop_words", "contaminated", "mojibake")} <= facts.keys()


def test_files_are_what_the_facts_say(made: Made) -> None:
    train, held = made.table("train"), made.table("held_out")
    assert train.schema.equals(DOCUMENTS)
    assert held.schema.equals(DOCUMENTS)
    assert train.num_rows + held.num_rows == made.facts["documents/kept"]
    assert held.num_rows == made.facts["documents/held_out"]
    text_bytes = sum(len(text.encode()) for table in (train, held) for text in table.column("text").to_pylist())
    assert text_bytes == made.facts["bytes/kept"]
    assert len(list((made.draft / "out" / "train").iterdir())) > 1
    rejected = pq.read_table(made.draft / "out" / "rejected.parquet")
    assert rejected.schema.equals(REJECTED)
    assert [(r["source"], r["where"], r["row"]) for r in rejected.to_pylist()] == [("web", "en/07.jsonl", 4)]


def test_documents_stand_in_the_order_of_their_sources(made: Made) -> None:
    ids = [tuple(id.split("/")) for id in made.table("train").column("id").to_pylist()]
    assert ids == sorted(ids, key=lambda id: (id[0], int(id[1]), int(id[2])))
    assert len(ids) == len(set(ids))


def test_held_out_groups_are_not_trained_on(made: Made) -> None:
    split = {}
    for name in ("train", "held_out"):
        rows = made.table(name).select(["language", "group", "text"]).to_pylist()
        split[name] = [row for row in rows if row["language"] == "en"]
        assert any(row["language"] == "zh" for row in made.table(name).to_pylist())
    assert not {row["group"] for row in split["train"]} & {row["group"] for row in split["held_out"]}
    lines = [line for row in split["train"] for line in row["text"].split("\n") if len(line) > 60]
    assert not set(lines) & {line for row in split["held_out"] for line in row["text"].split("\n")}


@pytest.mark.parametrize("tasks", [1, 2])
def test_two_runs_give_the_same_bytes_whatever_the_parallelism(
    session: Session, made: Made, tmp_path: Path, tasks: int
) -> None:
    given = dict(reversed(sources(made.folder).items()))  # the order in the recipe does not matter either
    facts = STAGE.run(work(session, tmp_path, given, tasks=tasks))
    assert digests(tmp_path) == digests(made.draft)
    del facts["corpus/documents_per_s"]
    assert facts == {name: figure for name, figure in made.facts.items() if name in facts}


def test_finished_blocks_are_not_read_again(session: Session, made: Made, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: float) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        STAGE.run(work(session, tmp_path, sources(made.folder), watch=Watch(stop)))
    blocks = tmp_path / "blocks"
    before = {file.name: file.stat().st_mtime_ns for file in blocks.glob("*.parquet")}
    assert 6 <= len(before) < len(list((made.draft / "blocks").glob("*.parquet")))
    lines: list[float] = []
    STAGE.run(work(session, tmp_path, sources(made.folder), watch=Watch(lines.append)))
    assert min(lines) > 3
    assert {name: (blocks / name).stat().st_mtime_ns for name in before} == before
    assert digests(tmp_path) == digests(made.draft)


def test_a_run_with_all_blocks_reads_nothing_and_gives_the_same(session: Session, made: Made) -> None:
    before = digests(made.draft)
    seen: list[float] = []
    facts = STAGE.run(work(session, made.draft, sources(made.folder), watch=Watch(seen.append)))
    assert seen == []
    assert "corpus/documents_per_s" not in facts
    assert digests(made.draft) == before


def test_a_killed_worker_costs_nothing(session: Session, made: Made, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(done: float) -> None:
        for process in psutil.process_iter(["cmdline"]):
            title = " ".join(process.info["cmdline"] or [])
            if not killed and title.startswith("ray::MapBatches") and ours(process):
                os.kill(process.pid, 9)
                killed.append(process.pid)

    STAGE.run(work(session, tmp_path, sources(made.folder), watch=Watch(kill)))
    assert killed
    assert digests(tmp_path) == digests(made.draft)


def ours(process: psutil.Process) -> bool:
    return os.getpid() in [parent.pid for parent in process.parents()]


def test_too_many_bad_rows_name_the_first(session: Session, made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"en/07\.jsonl:4: not JSON.*max_bad_rows allows 0"):
        STAGE.run(work(session, tmp_path, sources(made.folder), max_bad_rows=0))


def test_what_a_task_cannot_read_is_the_users_to_mend(session: Session, tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00garbage")
    given = {"web": SOURCES["jsonl"].model_validate({"path": "cut.jsonl.gz"}).at(tmp_path)}
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz"):
        STAGE.run(work(session, tmp_path / "draft", given))


class FullDisk(Source):
    """What a task meets on a node whose disk is full."""

    kind: str = "full"

    def parts(self) -> list[Part]:
        return [Part(index=0, where="here", group="here")]

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_machines_failure_in_a_task_is_told_as_one(session: Session, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="No space left") as caught:
        STAGE.run(work(session, tmp_path / "draft", {"web": FullDisk()}))
    assert isinstance(explain(caught.value, Store(tmp_path)), ClusterError)


def test_nothing_left_is_said_with_the_reasons(session: Session, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "Short."}, {"text": ""}])
    given = {"web": SOURCES["jsonl"].model_validate({"path": "a.jsonl"}).at(tmp_path)}
    with pytest.raises(UserError, match=r"no document is left of 2 read \(1 empty, 1 too_short"):
        STAGE.run(work(session, tmp_path / "draft", given))


def test_held_out_text_like_training_text_is_dropped_or_cleared(session: Session, tmp_path: Path) -> None:
    """Every held-out text here shares with training text a line, most of its lines, or most of its phrases."""
    rng = random.Random(3)
    template = "This function is deprecated since version 2.0 and will be removed from the library in a while."
    shared = [english(rng) for _ in range(30)]
    records = []
    for group in range(10):
        for n in range(30):
            own = english(rng)
            text = [f"{own}\n{template}", own, f"{shared[n]}\n{sentence(rng)}"][n % 3]
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
