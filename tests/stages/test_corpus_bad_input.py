"""The corpus stage on what goes wrong at scale: a broken file among a thousand, lost workers, a full disk, two runs."""

from __future__ import annotations

import gzip
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.session import Session
from pipelines.data.sources import SOURCES
from pipelines.errors import UserError
from pipelines.stages.corpus import STAGE
from tests import small_disk
from tests.runs import ROOT, artifacts, contents, wait_until
from tests.stages.corpus_work import SMALL, digests, english, work, write, write_sources
from tests.stages.deadly import lose_workers

NUM_FILES, BROKEN = 1000, 617


def gzipped(file: Path, text: str) -> None:
    file.write_bytes(gzip.compress(json.dumps({"text": text}).encode()))


def without_its_end(file: Path) -> None:
    """A file that was not copied to the end: gzip lacks its check sum and some text, Parquet its footer."""
    file.write_bytes(file.read_bytes()[:-100])


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(3000))


KINDS: dict[str, tuple[str, Callable[[Path, str], None], Callable[[Path], None], str]] = {
    "jsonl.gz": ("jsonl", gzipped, without_its_end, "damaged or not gzip"),
    "parquet": (
        "parquet", lambda file, text: pq.write_table(pa.table({"text": [text]}), file), without_its_end,
        "not a Parquet file or damaged",
    ),
    "jsonl": ("jsonl", lambda file, text: write(file, [{"text": text}]), garbage, "holds binary data; expected text"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", KINDS)
def test_a_broken_file_among_a_thousand_is_named_and_costs_no_other(
    session: Session, tmp_path: Path, suffix: str
) -> None:
    kind, write_file, damage, problem = KINDS[suffix]
    rng = random.Random(12)
    texts = [english(rng) for _ in range(NUM_FILES)]
    (tmp_path / "crawl").mkdir()
    files = [tmp_path / "crawl" / f"{number:04}.{suffix}" for number in range(NUM_FILES)]
    for file, text in zip(files, texts, strict=True):
        write_file(file, text)
    damage(files[BROKEN])
    web = {"web": SOURCES[kind].model_validate({"kind": kind, "path": "crawl"}).at(tmp_path)}
    options: dict[str, Any] = {"block_bytes": 30_000, "held_out": 0}
    facts = STAGE.run(work(session, tmp_path / "draft", web, **options))
    found = pq.read_table(tmp_path / "draft" / "out" / "train").column("text").to_pylist()
    assert sorted(found) == sorted(text for text in texts if text != texts[BROKEN])
    (rejected,) = pq.read_table(tmp_path / "draft" / "out" / "rejected.parquet").to_pylist()
    assert (rejected["source"], rejected["where"], rejected["row"]) == ("web", f"crawl/{files[BROKEN].name}", 1)
    assert rejected["reason"] == "unreadable" and problem in rejected["problem"]
    assert facts["rows/read"] == NUM_FILES and facts["rows/bad"] == facts["rows/not_used_unreadable"] == 1
    with pytest.raises(UserError, match=rf"crawl/{files[BROKEN].name}:1: .*{problem}.*max_bad_rows allows 0"):
        STAGE.run(work(session, tmp_path / "strict", web, max_bad_rows=0, **options))


PHASES = {"clean_block", "mark_lines", "count_groups", "cut_block", "compare_bucket", "decide_near", "measure_groups",
          "choose_held_out", "separate", "compare", "write_held_out", "write_output", "summarise_part",
          "write_file"}  # fmt: skip


@pytest.mark.slow
def test_a_worker_that_is_lost_in_each_phase_does_not_change_the_result(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sources(tmp_path)
    web = {"web": SOURCES["jsonl"].model_validate({"path": "en"}).at(tmp_path)}
    options: dict[str, Any] = {"max_line_groups": 3, "max_bad_rows": 1}
    facts = STAGE.run(work(session, tmp_path / "undisturbed", web, **options))
    lose_workers(monkeypatch, tmp_path / "lost")
    found = STAGE.run(work(session, tmp_path / "disturbed", web, **options))
    assert {file.name for file in (tmp_path / "lost").iterdir()} == PHASES
    assert digests(tmp_path / "disturbed") == digests(tmp_path / "undisturbed")
    del facts["corpus/documents_per_s"], found["corpus/documents_per_s"]
    assert found == facts


FULL = """
import json, subprocess, sys
from pathlib import Path
from tests.stages.corpus_work import digests
disk, options, source = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
draft, filler = disk / "draft", disk / "filler"
draft.mkdir()
filler.write_bytes(bytes(int(sys.argv[4])))
command = [sys.executable, "-m", "tests.stages.corpus_driver", str(draft), options, source]

def complete():
    return {file.name: file.stat().st_mtime_ns for file in (draft / "blocks").glob("source*.parquet")}

def num_bytes():
    return sum(file.stat().st_size for file in (draft / "blocks").iterdir())

full = subprocess.run(command, capture_output=True, text=True)
before, taken = complete(), num_bytes()
filler.unlink()
freed = subprocess.run(command, capture_output=True, text=True)
print(json.dumps({"code": full.returncode, "message": full.stderr.splitlines()[-1], "num_made": len(before),
                  "kept": before.items() <= complete().items(), "needed": num_bytes() - taken,
                  "freed": [freed.returncode, freed.stderr], "digests": digests(draft)}))
"""


@pytest.mark.slow
def test_a_disk_that_fills_is_named_with_what_is_needed_and_the_same_command_goes_on(
    session: Session, tmp_path: Path
) -> None:
    write_sources(tmp_path)
    options = {**SMALL, "max_bad_rows": 1}
    web = {"source0": SOURCES["jsonl"].model_validate({"path": str(tmp_path / "en")}).at(ROOT)}
    STAGE.run(work(session, tmp_path / "undisturbed", web, max_bad_rows=1))
    disk = tmp_path / "disk"
    disk.mkdir()
    filler = (8000 - 300) << 10  # bytes: 300 kB are left for the blocks
    arguments = (str(disk), json.dumps(options), str(tmp_path / "en"), str(filler))
    done = small_disk.run_python(disk, "-c", FULL, *arguments, kilobytes=8000)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["code"] == 1
    said = re.fullmatch(
        rf"cluster\.errors\.DiskFull: {disk}/draft/blocks/source0\S+: the disk is full \(.*No space left.*\): it has "
        r"room for ([\d,]+) bytes, of which this file had taken [\d,]+ and needs more\. (\d+) of (\d+) blocks "
        r"are still to be made, which take some ([\d,]+) bytes more: make room, then run the same command, .*",
        result["message"],
    )
    assert said, result["message"]
    free, missing, num_blocks, needed = (int(number.replace(",", "")) for number in said.groups())
    assert free < needed and 0.5 < needed / result["needed"] < 2
    assert 0 < missing < num_blocks and result["num_made"] >= num_blocks - missing > 0
    assert result["freed"][0] == 0, result["freed"][1]
    assert result["kept"]
    assert result["digests"] == digests(tmp_path / "undisturbed")


RULES = """
import os, time

def gate(text: str) -> bool:
    line = os.open({read!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(line, (text[:60] + "\\n").encode())
    os.close(line)
    while text.startswith("The last") and not os.path.exists({gate!r}):
        time.sleep(0.05)
    return True
"""
RECIPE = """
name: twice
seed: 7
sources: {web: {kind: jsonl, path: web}}
stages: {corpus: {block_bytes: 4000, part_bytes: 20000, held_out: 0.1, filters: {custom: [rules.py:gate]}}}
cluster: {corpus: {tasks: 2}}
"""


def write_gated(folder: Path) -> dict[str, Any]:
    """Writes a recipe whose filter notes what it reads, and waits at the last document. Returns the stage's options."""
    rng = random.Random(5)
    (folder / "web").mkdir()
    for number in range(12):
        records = [{"text": english(rng)} for _ in range(10)]
        if number == 11:
            records[9]["text"] = f"The last of all {records[9]['text']}"
        write(folder / "web" / f"{number:02}.jsonl", records)
    (folder / "rules.py").write_text(RULES.format(read=str(folder / "read"), gate=str(folder / "gate")))
    (folder / "twice.yaml").write_text(RECIPE)
    return {"filters": {"custom": [f"{folder / 'rules.py'}:gate"]}}


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "run", str(folder / "twice.yaml"), "--store", str(folder / "store")]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_of_two_runs_on_one_draft_the_second_names_the_first_and_goes_on_where_that_is_killed(
    session: Session, tmp_path: Path
) -> None:
    options = write_gated(tmp_path)
    runs = [start(tmp_path)]
    try:
        first = runs[0]
        read = tmp_path / "read"
        wait_until(lambda: read.exists() and "The last" in read.read_text(), first)
        complete = [
            file for file in tmp_path.glob("store/drafts/*/blocks/web.*.parquet") if "rejected" not in file.name
        ]
        texts = [text[:60] for file in complete for text in pq.read_table(file).column("text").to_pylist()]
        assert len(texts) >= 50
        runs.append(second := start(tmp_path))
        assert second.stdout is not None
        assert any(f"held by process {first.pid}" in line for line in second.stdout)
        first.send_signal(signal.SIGKILL)
        (tmp_path / "gate").touch()
        output, _ = second.communicate(timeout=300)
    finally:
        for process in runs:
            process.kill()
            process.wait()
    assert second.returncode == 0, output
    lines = read.read_text().splitlines()
    assert all(lines.count(text.split("\n")[0]) == 1 for text in texts)
    corpus = artifacts(tmp_path / "store")["corpus"]
    web = {"web": SOURCES["jsonl"].model_validate({"path": "web"}).at(tmp_path)}
    STAGE.run(work(session, tmp_path / "alone", web, **options))
    assert contents(corpus) == contents(tmp_path / "alone" / "out")
