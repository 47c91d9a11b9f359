"""Files of the corpus stage's tasks, by themselves: pairs in several buckets, blocks of much text, small groups."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.nodes import Node
from cluster.session import Session
from pipelines import parallel
from pipelines.blocks import COUNTS, Block, counts_of, plan, write_arrow
from pipelines.data.corpus import cleaning, duplicates, splitting
from pipelines.data.corpus.documents import DOCUMENTS, REJECTED
from pipelines.data.sources import SOURCES, jsonl, ranges
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.stages.corpus import STAGE, blocks, deduplicate, hold_out, quality, unpacking
from pipelines.store.digests import FileDigests
from tests.stages import corpus_work


def write_pairs(folder: Path, pairs: np.ndarray, number: int) -> list[Path]:
    files = [folder / f"{bucket:05}.pairs.arrow" for bucket in range(number)]
    for file in files:
        write_arrow(pa.record_batch(list(pairs.T), schema=duplicates.PAIRS), file)
    return files


def test_pairs_in_many_buckets_are_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplicate, "MERGED_PAIRS", 1000)
    pairs = np.random.default_rng(0).integers(0, 100_000, (20_000, 3))
    files = write_pairs(tmp_path, pairs, 40)
    tracemalloc.start()
    found = deduplicate.distinct_pairs(files)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, np.unique(pairs, axis=0))
    assert peak < 15 * pairs.nbytes  # of 40 times as many
    deduplicate.decide_near({"path": str(tmp_path / deduplicate.CLUSTERS)})
    _, near, _ = deduplicate.duplicates_in(exact_in(tmp_path), 0, 1)
    assert near.tolist() == duplicates.worse_duplicates(*np.unique(pairs, axis=0).T)[0].tolist()


def exact_in(folder: Path) -> Path:
    write_duplicates(folder / "0.exact.arrow", {})
    return folder


def write_duplicates(file: Path, kept: dict[int, int]) -> None:
    write_arrow(deduplicate.numbers_of(*(np.array(list(of), np.int64) for of in (kept, kept.values()))), file)


def test_what_is_kept_of_a_copy_is_what_is_kept_of_its_first(tmp_path: Path) -> None:
    """Equal documents, of which the first is nearly a longer one that means the same as another."""
    block = 1 << 32
    write_duplicates(tmp_path / "00000.exact.arrow", {3: 1, block + 2: 2, 2 * block: 2})
    write_duplicates(tmp_path / "00001.exact.arrow", {block + 7: 4})
    write_duplicates(tmp_path / deduplicate.NEAR, {1: block + 5, block + 6: block + 5})
    documents, kept = deduplicate.survivors_of(tmp_path, 0, 2)
    found = dict(zip(documents.tolist(), kept.tolist(), strict=True))
    assert found == {1: block + 5, 3: block + 5, block + 2: 2, block + 6: block + 5, block + 7: 4}
    write_duplicates(tmp_path / deduplicate.SEMANTIC, {2: 9, block + 5: 8})
    documents, kept = deduplicate.survivors_of(tmp_path, 1, 2)
    assert list(zip(documents.tolist(), kept.tolist(), strict=True)) == [
        (block + 2, 9), (block + 5, 8), (block + 6, 8), (block + 7, 4)
    ]  # fmt: skip


def test_rows_are_chosen_of_more_text_than_one_array_can_have(tmp_path: Path) -> None:
    """Three chunks of 1.1 GiB, which are the same pages of a file that takes no space."""
    size = 1_181_116_006
    with (tmp_path / "text").open("wb") as file:
        file.truncate(size)
    data = pa.memory_map(str(tmp_path / "text")).read_buffer(size)
    offsets = pa.py_buffer(np.array([0, size - 4, size], np.int32))
    chunk = pa.StringArray.from_buffers(2, offsets, data)
    table = pa.table({"text": pa.chunked_array([chunk] * 3), "number": pa.chunked_array([range(6)])})
    chosen = hold_out.chosen_rows(table, np.array([1, 3, 5]))
    assert chosen.column("number").to_pylist() == [1, 3, 5]
    assert chosen.column("text").to_pylist() == ["\0" * 4] * 3


def test_small_groups_are_kept_until_their_text_is_twice_the_most() -> None:
    rng = random.Random(9)
    rows = [(f"group {rng.randint(0, 3000)}", rng.randint(1, 20)) for _ in range(6000)]
    totals: Counter[str] = Counter()
    for name, size in rows:
        totals[name] += size
    table = hold_out.SIZES.empty_table()
    for first in range(0, len(rows), 700):
        names, sizes = map(list, zip(*rows[first : first + 700], strict=True))
        documents = pa.table({"language": ["en"] * len(names), "text_bytes": sizes})
        of_span = hold_out.sizes_of(documents, "group", pa.chunked_array([names]), 7)
        table = hold_out.lowest([table, hold_out.lowest([of_span], 5000, 10)], 5000, 10)
    found = dict(zip(table.column("name").to_pylist(), table.column("bytes").to_pylist(), strict=True))
    order = sorted(totals, key=lambda name: splitting.salted_hash(name, "7/en"))
    before = np.cumsum([0, *(totals[name] for name in order)])[:-1]
    assert found == {name: totals[name] for name, size in zip(order, before, strict=True) if size < 10_000}
    assert sum(found.values()) >= 10_000


class Stopped(Exception):
    """Ends a run where a kill might."""


def test_a_run_that_stops_while_it_counts_lines_counts_the_others_of_sources_with_a_missing_block(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1000)
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{name * 50}"}}\n' for _ in range(300)))
    sources = {name: jsonl.Jsonl.model_validate({"path": f"{name}.jsonl"}).at(tmp_path) for name in "abc"}
    units: list[tuple[float, float, str]] = []

    def update(done: float, total: float, unit: str) -> None:
        units.append((done, total, unit))
        if len(units) == 5:
            raise Stopped

    def counts() -> dict[str, tuple[int, int]]:
        return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.glob("*.rows.json")}

    cluster = SimpleNamespace(tasks=1, cpus_per_task=1)
    work: Any = SimpleNamespace(
        sources=sources, session=session, progress=SimpleNamespace(update=update), cluster=cluster, cache=None
    )
    all_blocks = plan(sources, tmp_path, 1)
    of_a, of_b = ([block for block in all_blocks if block.source == name] for name in "ab")
    missing = [of_a[0], of_b[2], of_b[4]]
    with pytest.raises(Stopped):
        parallel.with_first_rows(work, all_blocks, missing)
    before = counts()
    assert 5 <= len(before) < len(of_b)
    numbered = parallel.with_first_rows(work, all_blocks, missing)
    after = counts()
    assert before.items() <= after.items() and units[-1] == (len(of_b), len(of_b), "counts of blocks")
    assert sorted(after) == [f"{block.file.stem}.rows.json" for block in of_b]
    assert [block.file for block in numbered] == [block.file for block in missing]
    lines = (tmp_path / "b.jsonl").read_bytes()
    for block in numbered[1:]:
        (part,) = block.parts
        assert part.first_row == 1 + lines[: part.args["start"]].count(b"\n") > 1


def test_lines_that_were_counted_with_the_digests_are_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no Ray here, so a task would fail."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1000)
    lines = "".join(f'{{"text": "row {number}"}}\n' for number in range(300))
    (tmp_path / "a.jsonl").write_text(lines)
    source = jsonl.Jsonl.model_validate({"path": "a.jsonl"}).at(tmp_path)
    (tmp_path / "cache").mkdir()
    FileDigests(tmp_path / "cache" / "digests.txt").of_all(source.files(), has_lines=source.has_lines)
    work: Any = SimpleNamespace(sources={"a": source}, session=None, cache=tmp_path / "cache")
    blocks = plan(work.sources, tmp_path, 2500)
    assert len(blocks) > 2
    parts = [part for block in parallel.with_first_rows(work, blocks, blocks) for part in block.parts]
    assert [part.first_row for part in parts] == [1 + lines[: part.args["start"]].count("\n") for part in parts]


def test_compressed_files_are_unpacked_that_have_a_good_share_of_all_text_and_can_be_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MUCH_BYTES", 2000)

    def chosen(**paths: dict[str, Any]) -> list[tuple[str, str]]:
        sources = {
            name: SOURCES[options["kind"]].model_validate(options).at(tmp_path) for name, options in paths.items()
        }
        return [(name, file.name) for name, file in unpacking._large(sources)]

    rng = np.random.default_rng(0)
    lines = "".join(f'{{"text": "{number}"}}\n' for number in rng.integers(0, 1 << 60, 500))
    for name in ("a.jsonl", "b.txt", "binary.jsonl"):
        data = lines.encode() if name != "binary.jsonl" else rng.bytes(20_000)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
    (tmp_path / "small.jsonl.gz").write_bytes(gzip.compress(lines[:500].encode()))
    (tmp_path / "document.jsonl.gz").write_bytes(gzip.compress(json.dumps([{"text": lines}] * 3).encode()))
    (tmp_path / "plain.txt").write_bytes(b"plain\n" * 10_000)
    rows, text = {"kind": "jsonl", "path": "*.jsonl.gz"}, {"kind": "text", "path": "*.txt*", "split": "lines"}
    assert chosen(rows=rows, text=text) == [("rows", "a.jsonl.gz"), ("text", "b.txt.gz")]
    assert chosen(text=text | {"split": "file"}) == []
    (tmp_path / "plain.txt").write_bytes(b"plain\n" * 100_000)
    assert chosen(rows=rows, text=text) == []


def test_a_compressed_file_that_would_fill_the_disk_is_not_copied(tmp_path: Path) -> None:
    def copy_of(lines: str) -> str:
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        unpacking.unpack({"path": str(tmp_path / "copy"), "file": str(tmp_path / "a.jsonl.gz")})
        return (tmp_path / "copy").read_text()

    lines = "".join(f'{{"text": "{number}"}}\n' for number in range(5000))
    assert copy_of(lines) == lines
    assert copy_of(lines + '{"text": "' + "0" * 3_000_000 + '"}\n') == ""
    source = jsonl.Jsonl.model_validate({"path": "a.jsonl.gz", "max_row_bytes": 1000}).at(tmp_path)
    rows = [row for part in source.parts() for row in source.read(part)]
    assert [type(row) for row in rows] == [Row] * 5000 + [BadRow]


def test_for_a_sample_no_rows_are_counted_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no Ray here, so a task would fail."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", 1000)
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "row {number}"}}\n' for number in range(300)))
    source = jsonl.Jsonl.model_validate({"path": "a.jsonl"}).at(tmp_path)
    work: Any = SimpleNamespace(sources={}, session=None, cache=None)
    all_blocks = plan({"a": source}, tmp_path, 2500)
    readable = quality._readable(work, all_blocks, all_blocks[1:3], {"a": source})
    assert [block.file for block in readable] == [block.file for block in all_blocks[1:3]]
    rows = [row for block in readable for part in block.parts for row in source.read(part)]
    assert len(rows) > 50 and {row.row for part in readable[0].parts for row in source.read(part)} >= {1, 2, 3}


def test_what_is_missing_is_judged_by_its_own_files(tmp_path: Path) -> None:
    for name, size in (("a", 1000), ("b", 3000), ("other", 90_000)):
        (tmp_path / name).write_bytes(bytes(size))
    said = parallel.still_missing([tmp_path / name for name in "abc"], 2, 3, "unpacked files")
    assert said.startswith("1 of 3 unpacked files are still to be made, which take some 2,000 bytes more: make room")


def test_a_compressed_file_is_large_or_not_for_all_cores_of_the_cluster(tmp_path: Path) -> None:
    notes: list[str] = []
    parts = [Part(0, "big.warc.gz", "", 3_000_000_000), *(Part(n, f"{n}.warc", "", 100_000_000) for n in range(1, 100))]
    all_blocks = [Block.of("web", [part], tmp_path) for part in parts]
    for cpus, cpus_per_task, noted in ((2, 1, 0), (64, 1, 1), (16, 8, 0), (64, 8, 1)):
        node = Node(id="", host="", address="", cpus=cpus, gpus=0, memory_bytes=0)
        work: Any = SimpleNamespace(
            session=SimpleNamespace(local=False, nodes=lambda node=node: [node] * 2),
            cluster=SimpleNamespace(tasks=None, cpus_per_task=cpus_per_task),
            progress=SimpleNamespace(note=notes.append),
        )
        parallel.note_compressed(work, all_blocks)
        assert len(notes) == noted
        notes.clear()


def test_a_source_of_large_compressed_tables_that_is_reference_text_too_keeps_its_rows(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)

    def table(number: int) -> str:
        cells = [f'"{corpus_work.english(rng)}\n{corpus_work.sentence(rng)}"\n' for _ in range(number)]
        return "text\n" + "".join(cells)

    for name in "abc":
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(table(40).encode()))
    (tmp_path / "d.csv").write_text(table(60))
    (tmp_path / "web.jsonl").write_text(
        "".join(json.dumps({"text": corpus_work.english(rng)}) + "\n" for _ in range(80))
    )
    books, web = (
        SOURCES[kind].model_validate({"kind": kind, "path": path}).at(tmp_path)
        for kind, path in (("csv", "*.csv*"), ("jsonl", "web.jsonl"))
    )
    rows = {(row.row, row.text) for part in books.parts() for row in books.read(part) if isinstance(row, Row)}
    monkeypatch.setattr(ranges, "RANGE_BYTES", 3000)
    monkeypatch.setattr(unpacking, "MUCH_BYTES", 2000)
    model = {"good": ["books"], "keep_fraction": 1}
    options: dict[str, Any] = {"block_bytes": 10_000, "near_duplicates": None, "quality_model": model}
    work = corpus_work.work(session, tmp_path / "draft", {"books": books, "web": web}, **options)
    facts = STAGE.run(replace(work, references={"books": books}))
    documents = [row for split in ("train", "held_out") for row in pq.read_table(work.draft.out / split).to_pylist()]
    read = {(int(row["id"].split("/")[2]), row["text"]) for row in documents if row["source"] == "books"}
    assert facts["documents/read"] == len(rows) + 80 == 260
    assert len(read) > 150 and read <= rows


def test_batches_are_written_together_whole_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(sizes: list[int]) -> Iterator[tuple[pa.Table, pa.Table]]:
        first = 0
        for size in sizes:
            rows = range(first, first + size)
            kept = [{"id": f"web/0/{row}", "source": "web", "group": "g", "language": "en", "text": f"Text {row}.",
                     "meta": {}} for row in rows]  # fmt: skip
            dropped = [{"source": "web", "where": "a", "row": row, "reason": "r", "raw": ""} for row in rows[::2]]
            yield (cleaning.with_keys(pa.Table.from_pylist(kept, DOCUMENTS), 16),
                   pa.Table.from_pylist(dropped, REJECTED))  # fmt: skip
            first += size

    written: list[tuple[list[str], list[int], int]] = []
    for name, write_bytes in (("several", 1000), ("one", 8 << 20)):
        monkeypatch.setattr(blocks, "WRITE_BYTES", write_bytes)
        (tmp_path / name).mkdir()
        block = Block.of("web", (Part(index=0, where="a", group="g"),), tmp_path / name)
        blocks.write_block(
            block, batches([7, 0, 5, 1, 0, 30, 2]), lambda: {COUNTS: "{}"}, fields=[], permutations=16,
            near_duplicates=None,
        )  # fmt: skip
        documents, rejected = pq.read_table(block.file), pq.read_table(block.rejected)
        groups = pq.read_metadata(block.file).num_row_groups
        written.append((documents.column("id").to_pylist(), rejected.column("row").to_pylist(), groups))
    (ids, rows, several), (*others, one) = written
    assert ids == [f"web/0/{row}" for row in range(45)] and len(rows) == 24
    assert others == [ids, rows] and one == 1 < several < 7


@pytest.mark.parametrize("num_rows", [0, 1, 100, 257])
def test_a_file_has_the_same_bytes_however_its_rows_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_rows: int
) -> None:
    """Those of one table that is written at once."""
    monkeypatch.setattr(hold_out, "ROW_GROUP_DOCUMENTS", 50)
    rows = [{"id": f"web/0/{row}", "source": "web", "group": f"g{row % 7}", "language": "en", "text": f"Text {row}.",
             "meta": {}} for row in range(num_rows)]  # fmt: skip
    table = pa.Table.from_pylist(rows, DOCUMENTS)
    pq.write_table(table, tmp_path / "at_once", compression="zstd", row_group_size=50)
    assert pq.read_table(tmp_path / "at_once").equals(table)
    for number, size in enumerate((1, 20, 50, 120, 1000)):
        pieces = [table.slice(first, size) for first in range(0, max(1, num_rows), size)]
        none = table.schema.empty_table()
        hold_out.write_parquet(iter([none, *pieces, none]), tmp_path / f"{number}")
        assert (tmp_path / f"{number}").read_bytes() == (tmp_path / "at_once").read_bytes()
        hold_out.write_parquet(pa.concat_tables(pieces), tmp_path / f"{number}", Counter(kept=num_rows))
        hold_out.write_parquet(pieces, tmp_path / "again", Counter(kept=num_rows))
        assert (tmp_path / f"{number}").read_bytes() == (tmp_path / "again").read_bytes()
        assert counts_of(tmp_path / "again") == {"kept": num_rows}
