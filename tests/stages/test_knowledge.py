"""The stage knowledge on a real Ray: any number of tasks, resumption, documents that are not used."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.session import Session
from pipelines.blocks import map_arrow, pack, plan, write_arrow
from pipelines.data.knowledge.index import Index
from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Source
from pipelines.errors import UserError
from pipelines.stage import Facts, Work
from pipelines.stages.knowledge import STAGE
from pipelines.stages.knowledge.blocks import BLOCK, cut_block, kept_files, use
from pipelines.stages.knowledge.indexing import embed_passages
from tests.benchmarks.knowledge_manuals import manual
from tests.stages.working import work_of

NUM_MANUALS = 12


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """Manuals in both languages, one of a heading alone, a page, one without text, and a file that is no PDF."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "manuals").mkdir()
    for number in range(NUM_MANUALS):
        file, _, text, _ = manual(number, "en" if number % 2 else "zh")
        (folder / "manuals" / file).write_text(text, encoding="utf-8")
    (folder / "manuals" / "empty.md").write_text("# Nothing\n")
    (folder / "page.html").write_text("<main><h1>Opening hours</h1><p>Open until 18:45 on Fridays.</p></main>")
    (folder / "blank.html").write_text("<script>1</script>")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    (folder / "second.pdf").write_bytes(b"%PDF-1.7 broken, too")
    text = {"kind": "text", "path": "manuals", "rows": "documents", "language": "auto"}
    html = {"kind": "html", "path": ["page.html", "blank.html"], "rows": "documents"}
    pdf = {"kind": "pdf", "path": "*.pdf", "rows": "documents"}
    return {
        name: SOURCES[source["kind"]].model_validate(source).at(folder)
        for name, source in {"manuals": text, "pages": html, "scans": pdf}.items()
    }


def work(session: Session, folder: Path, sources: dict[str, Source], tasks: int = 2, **options: object) -> Work:
    options = {"max_bad_rows": 3, **options}
    return replace(work_of(STAGE, folder, session, {}, options, {"tasks": tasks, "block_bytes": 3000}), sources=sources)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def made(session: Session, sources: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    folder = tmp_path_factory.mktemp("draft")
    return folder, STAGE.run(work(session, folder, sources))


def test_facts_count_every_document(made: tuple[Path, Facts]) -> None:
    folder, facts = made
    assert facts["documents/read"] == facts["rows/read"] == NUM_MANUALS + 1 + 2 + 2
    assert facts["documents/used"] == facts["rows/used"] == NUM_MANUALS + 1
    assert facts["documents/not_used_empty"] == 1 and facts["documents/not_used_unreadable"] == 3 == facts["rows/bad"]
    assert facts["passages/written"] == len(Index(folder / "out")) == NUM_MANUALS * 12 + 1
    lines = (folder / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    rejected = [json.loads(line) for line in lines]
    assert sorted((row["where"], row["reason"]) for row in rejected) == [
        ("blank.html", "unreadable"), ("broken.pdf", "unreadable"), ("manuals/empty.md", "empty"),
        ("second.pdf", "unreadable"),
    ]  # fmt: skip


def test_documents_of_every_source_are_found(made: tuple[Path, Facts]) -> None:
    index = Index(made[0] / "out")
    assert "18:45" in index.search("When do you close on Fridays?", 1)[0].passage["text"]
    file, product, _, values = manual(3, "en")
    hit = index.search(f"guarantee {product}", 1)[0].passage
    assert hit["where"] == f"manuals/{file}" and values[1] in hit["text"] and hit["language"] == "en"
    assert hit["heading"] == f"{product} > Guarantee"


def test_tasks_and_kills_do_not_change_a_byte(
    session: Session, sources: dict[str, Source], made: tuple[Path, Facts], tmp_path: Path
) -> None:
    expected, facts = contents(made[0] / "out"), made[1]
    once_more = replace(work(session, tmp_path / "draft", sources, tasks=1), cache=tmp_path / "cache")
    assert STAGE.run(once_more) == facts and contents(once_more.draft.out) == expected
    # As a kill leaves a draft: a block is missing, another is under its temporary name, the index is half written.
    blocks = sorted((tmp_path / "draft" / "blocks").glob("*.parquet"))
    blocks[0].unlink()
    blocks[1].rename(blocks[1].with_name("." + "0" * 32))
    kept = blocks[2].stat().st_mtime_ns
    (once_more.draft.out / "knowledge.json").unlink()
    (once_more.draft.out / "passages.arrow").write_bytes(b"half")
    again = work(session, tmp_path / "draft", sources)
    assert STAGE.run(again) == facts and contents(again.draft.out) == expected
    assert blocks[2].stat().st_mtime_ns == kept  # what was finished is not made again


def test_a_document_that_is_added_is_cut_with_few_others(session: Session, tmp_path: Path) -> None:
    source = SOURCES["text"].model_validate({"kind": "text", "path": "manuals", "rows": "documents"})

    def kept(folder: Path, **options: int) -> dict[Path, Path]:
        sources = {"manuals": source.at(folder)}
        new = replace(work(session, tmp_path / "draft", sources, **options), cache=tmp_path)
        return kept_files(new, plan(sources, tmp_path, 10_000, by_name=True))

    (tmp_path / "manuals").mkdir()
    for number in range(1, 200):
        (tmp_path / "manuals" / f"{number:03}.md").write_text(manual(number, "en")[2], encoding="utf-8")
    before = set(kept(tmp_path).values())
    shutil.copytree(tmp_path / "manuals", tmp_path / "moved" / "manuals")
    assert set(kept(tmp_path / "moved").values()) == before
    assert before.isdisjoint(kept(tmp_path, passage_words=100).values())
    (tmp_path / "manuals" / "000.md").write_text(manual(0, "en")[2], encoding="utf-8")  # all later ones move by one
    after = set(kept(tmp_path).values())
    assert len(before) > 20 and 1 <= len(after - before) <= 6


def test_a_block_is_not_cut_again_unless_its_copy_is_damaged(sources: dict[str, Source], tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "a.parquet"

    def cut(name: str) -> bytes:
        parts = pack(sources["manuals"].each_part())
        item = {"path": str(tmp_path / name), "source": "manuals", "parts": parts, "kept": str(kept)}
        cut_block(item, sources=sources, passage_words=160, overlap_words=30)
        return (tmp_path / name).read_bytes()

    first = cut("first.parquet")
    other = pq.read_table(kept).slice(1)
    pq.write_table(other, kept)
    assert cut("second.parquet") == kept.read_bytes() != first
    assert (tmp_path / "second.jsonl").read_bytes() == (tmp_path / "first.jsonl").read_bytes() != b""
    kept.write_bytes(first[:-10])
    assert cut("third.parquet") == first == kept.read_bytes()
    column = pq.read_metadata(kept).row_group(0).column(BLOCK.get_field_index("text"))
    flipped = bytearray(first)
    flipped[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size // 2] ^= 1
    kept.write_bytes(flipped)
    assert cut("fourth.parquet") == first == kept.read_bytes()


def test_kept_blocks_that_were_not_used_for_a_month_are_deleted(tmp_path: Path) -> None:
    this, recent, old = (tmp_path / "passages" / name for name in ("this", "recent", "old"))
    for folder in (this, recent, old):
        folder.mkdir(parents=True)
        (folder / "a.parquet").write_bytes(b"")
    for folder in (this, old):
        os.utime(folder, (0, time.time() - 31 * 24 * 3600))
    use(this)
    use(recent)
    assert sorted(tmp_path.rglob("*.parquet")) == [recent / "a.parquet", this / "a.parquet"]


def test_errors_say_what_to_do(session: Session, sources: dict[str, Source], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows: documents"):
        STAGE.run(work(session, tmp_path / "none", {}))
    with pytest.raises(UserError, match=r"blank\.html:1: a page without text.*max_bad_rows"):
        STAGE.run(work(session, tmp_path / "strict", sources, max_bad_rows=0))
    with pytest.raises(ValueError, match="more than half of passage_words"):
        STAGE.options.model_validate({"passage_words": 40, "overlap_words": 30})


def test_passages_that_were_embedded_before_are_not_embedded_again(tmp_path: Path) -> None:
    embed = pytest.importorskip("pipelines.data.text.embeddings").embed
    rows = [{"heading": "Kettle", "text": "It boils water."}, {"heading": "", "text": "风扇有三档风速。"}]
    block, kept = str(tmp_path / "block.parquet"), tmp_path / "kept"

    def embedded(rows: list[dict[str, str]]) -> np.ndarray:
        pq.write_table(pa.Table.from_pylist(rows), block)
        embed_passages({"path": str(tmp_path / "x.npy"), "block": block, "begin": 0}, kept=str(kept))
        return np.load(tmp_path / "x.npy")

    expected = embed(["Kettle\nIt boils water.", "风扇有三档风速。"], role="passage")
    assert embedded(rows).tobytes() == embedded(rows).tobytes() == expected.tobytes()
    (file,) = kept.iterdir()
    batch = map_arrow(file)
    marked = pa.array([[float(number)] * 384 for number in range(2)], pa.list_(pa.float32()))
    write_arrow(pa.RecordBatch.from_arrays([batch.column("digest"), marked], batch.schema.names), file)
    grown = embedded([rows[1], {"heading": "Kettle", "text": "It is red."}, rows[0]])
    assert np.all(grown[0] == 1) and np.all(grown[2] == 0)  # from the file, and the new one computed
    assert grown[1].tobytes() == embed(["Kettle\nIt is red."], role="passage").tobytes()
    assert len(list(kept.iterdir())) == 2
    for each in kept.iterdir():
        each.write_bytes(b"ARROW1")  # cut off
    assert embedded(rows).tobytes() == expected.tobytes() and len(list(kept.iterdir())) == 1
