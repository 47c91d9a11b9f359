"""The stage images on a real Ray: what it keeps and why, its files, two equal runs, and a run that was broken off."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.session import Session
from pipelines.data.corpus import corpora, excerpts
from pipelines.data.corpus.documents import DOCUMENTS
from pipelines.data.images.documents import IMAGE_DOCUMENTS
from pipelines.data.sources import SOURCES
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.sources.source import Source
from pipelines.errors import UserError
from pipelines.stage import Facts, Work
from pipelines.stages.images import STAGE
from pipelines.stages.images.blocks import image_document, preparation
from pipelines.stages.images.finish import ImageIndex, kept_instead
from pipelines.stages.images.options import ImagesOptions
from pipelines.store.artifacts import Draft
from tests import runs
from tests.pictures import file_of, photograph, png_header
from tests.stages.corpus_work import digests
from tests.stages.working import RecordedProgress

OPTIONS: dict[str, Any] = {
    "block_bytes": 60_000, "part_bytes": 300_000, "held_out": 0.2, "max_side": 200, "max_bad_rows": 10,
    "augment": {"copies": 2, "flip": True, "rotate": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images in a folder, eight in an archive, four in a Parquet file, and one of each kind of fault."""
    folder = tmp_path_factory.mktemp("sources")
    photos = folder / "photos"
    photos.mkdir()
    lines = []
    for number in range(20):
        (photos / f"{number:02}.jpg").write_bytes(file_of(photograph(number, (240, 180))))
        lines.append({"file_name": f"{number:02}.jpg", "text": f"Picture {number}, seen from the left."})
    whole = file_of(photograph(0, (240, 180)))
    faults = {
        "corrupt.jpg": whole[: len(whole) // 2],
        "tiny.png": file_of(photograph(50, (240, 40)), "PNG"),
        "aspect.png": file_of(photograph(51, (600, 80)), "PNG"),
        "bomb.png": png_header(40_000, 40_000),
        "blank.png": file_of(Image.new("RGB", (100, 100)), "PNG"),
        "same.jpg": whole,
        "smaller.jpg": file_of(photograph(1, (240, 180)).resize((160, 120))),
    }
    for name, data in faults.items():
        (photos / name).write_bytes(data)
        lines.append({"file_name": name, "text": "A fault."})
    (photos / "unnamed.jpg").write_bytes(file_of(photograph(52, (240, 180))))
    lines.append({"file_name": "gone.jpg", "text": "A fault."})
    (photos / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for number in range(8):
            image, text = file_of(photograph(100 + number, (180, 240)), "WEBP"), f"图片 {number}".encode()
            for suffix, content in ((".webp", image), (".txt", text)):
                member = tarfile.TarInfo(f"{number:04}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    images = {number: file_of(photograph(number, (150, 150))) for number in range(200, 204)}
    rows = [{"image": {"bytes": data, "path": f"{n}.jpg"}, "caption": f"Row {n}"} for n, data in images.items()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet", row_group_size=2)
    return folder


def sources(folder: Path) -> dict[str, Source]:
    options = {
        "photos": {"path": "photos"},
        "shard": {"path": "shard.tar", "language": "zh"},
        "table": {"path": "table.parquet"},
    }
    return {name: SOURCES["images"].model_validate({"kind": "images", **o}).at(folder) for name, o in options.items()}


def work(session: Session, draft: Path, sources: dict[str, Source], *, tasks: int = 2, **options: Any) -> Work:
    return Work(
        name="images",
        options=STAGE.options.model_validate({**OPTIONS, **options}),
        cluster=STAGE.cluster.model_validate({"tasks": tasks}),
        seed=7,
        inputs={},
        sources=sources,
        draft=Draft(draft, "fingerprint"),
        progress=RecordedProgress(),
        session=session,
    )


@dataclass(frozen=True)
class Result:
    folder: Path
    draft: Path
    facts: Facts

    def rows(self, split: str) -> list[dict[str, Any]]:
        tables = [pq.read_table(part) for part in corpora.parts(self.draft / "out", split)]
        assert all(table.schema.equals(IMAGE_DOCUMENTS) for table in tables)
        return pa.concat_tables(tables).to_pylist()


@pytest.fixture(scope="module")
def result(session: Session, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    draft = tmp_path_factory.mktemp("draft")
    return Result(folder, draft, STAGE.run(work(session, draft, sources(folder))))


def test_every_row_is_used_or_set_aside_with_its_reason(result: Result) -> None:
    facts = result.facts
    assert {name: number for name, number in facts.items() if name.startswith("rows/")} == {
        "rows/read": 20 + 9 + 8 + 4, "rows/used": 20 + 8 + 4, "rows/not_used_corrupt": 1, "rows/not_used_tiny": 1,
        "rows/not_used_aspect": 1, "rows/not_used_too_many_pixels": 1, "rows/not_used_blank": 1,
        "rows/not_used_duplicate": 1, "rows/not_used_near_duplicate": 1, "rows/not_used_no_caption": 1,
        "rows/not_used_unreadable": 1,
    }  # fmt: skip
    rejected = [json.loads(line) for line in (result.draft / "out/rejected.jsonl").read_text().splitlines()]
    problems = {row["reason"]: row["problem"] for row in rejected}
    assert "40,000 × 40,000 pixels; max_pixels allows 100,000,000" in problems["too_many_pixels"]
    assert problems["corrupt"].startswith("corrupt.jpg: damaged image data")
    assert problems["no_caption"].startswith("unnamed.jpg: no caption")
    assert "no image 'gone.jpg'" in problems["unreadable"]
    assert "photos/0/1, which is kept" in problems["duplicate"]
    assert all({"source", "where", "row", "reason", "problem", "raw"} <= row.keys() for row in rejected)


def test_files_agree_with_the_facts(result: Result) -> None:
    train, held_out = result.rows("train"), result.rows("held_out")
    originals = [row for row in train if row["augmented_from"] is None]
    assert len(originals) == result.facts["images/train"]
    assert len(train) - len(originals) == result.facts["images/augmented"] == 2 * len(originals)
    assert len(held_out) == result.facts["images/held_out"]
    assert len(held_out) >= 4
    assert all(row["augmented_from"] is None for row in held_out)
    assert len(corpora.parts(result.draft / "out", "train")) > 1
    for row in [*train, *held_out]:
        with Image.open(io.BytesIO(row["image"])) as image:
            image.load()
            assert image.size == (row["width"], row["height"])
            assert max(image.size) <= 200
    by_text = {row["text"]: row for row in [*originals, *held_out]}
    assert by_text["图片 3"]["language"] == "zh"
    assert dict(by_text["Row 201"]["meta"])["file"] == "201.jpg"
    unchanged = file_of(photograph(201, (150, 150)))
    assert by_text["Row 201"]["image"] == unchanged
    assert result.facts["images/resampled"] == 20 + 8


def test_copies_differ_and_follow_their_image(result: Result) -> None:
    rows = result.rows("train")
    for number in range(0, len(rows), 3):
        image, *copies = rows[number : number + 3]
        assert [copy["augmented_from"] for copy in copies] == [image["id"]] * 2
        assert [copy["text"] for copy in copies] == [image["text"]] * 2
        assert len({image["image"], *(copy["image"] for copy in copies)}) == 3


def test_captions_in_other_languages_are_set_aside(tmp_path: Path) -> None:
    captions = {
        "ja": "朝の市場は港のすぐ隣にあって、魚を売る人の声が聞こえる。",
        "zh": "港口旁边的早市。",
        "en": "A market.",
    }
    for code, caption in captions.items():
        (tmp_path / f"{code}.jpg").write_bytes(file_of(photograph(1, (100, 80))))
        (tmp_path / f"{code}.txt").write_text(caption)
    for language, languages in (("auto", {"zh", "en"}), ("zh", {"zh"}), ("en", {"en"})):
        source = SOURCES["images"].model_validate({"kind": "images", "path": ".", "language": language}).at(tmp_path)
        rows = [image_document("photos", source, part, row, preparation(ImagesOptions())) for part in source.parts()
                for row in source.read(part)]  # fmt: skip
        (problem,) = [row for row in rows if isinstance(row, Problem)]
        assert (problem.reason, problem.by_rule) == ("language", True)
        assert problem.text == "ja.jpg: its caption is in Japanese; expected English or Chinese"
        assert {row["language"] for row in rows if not isinstance(row, Problem)} == languages


def test_equal_files_are_found_in_time_in_proportion_to_their_number() -> None:
    number = 8000
    numbers = pa.array(range(number))
    keys = pa.array([bytes(15) + bytes([n % 200]) for n in range(number)], pa.binary(16))
    table = pa.table({"key": keys, "original_pixels": numbers, "text_bytes": numbers})
    start = time.process_time()
    instead = kept_instead(ImageIndex(table, np.array([0, number])), None)
    assert time.process_time() - start < 2
    assert instead.tolist() == [number - 200 + n % 200 for n in range(number)]  # the largest with the same bytes


def test_captions_are_read_as_any_corpus(result: Result) -> None:
    out = result.draft / "out"
    assert set(DOCUMENTS.names) < set(IMAGE_DOCUMENTS.names)
    texts = [text for batch in corpora.batches(out, "held_out") for text in batch.column("text").to_pylist()]
    assert texts == [row["text"] for row in result.rows("held_out")]
    excerpt = excerpts.choose(out, "train", min_bytes=1, seed=7)
    assert set(excerpt.split_bytes) <= {"en", "zh"} and sum(excerpt.split_rows.values()) == len(result.rows("train"))


def test_two_runs_write_the_same_bytes_with_any_parallelism(session: Session, result: Result, tmp_path: Path) -> None:
    STAGE.run(work(session, tmp_path, dict(reversed(sources(result.folder).items())), tasks=1))
    assert digests(tmp_path) == digests(result.draft)


def test_run_that_was_broken_off_reads_only_what_is_missing(session: Session, result: Result, tmp_path: Path) -> None:
    work_ = work(session, tmp_path, sources(result.folder))
    STAGE.run(work_)
    blocks = sorted((tmp_path / "blocks").glob("*.parquet"))
    lost = [file for file in blocks if not file.name.endswith(".rejected.parquet")][1]
    lost.unlink()
    (tmp_path / "out/train/part-00001.parquet").unlink()
    left = tmp_path / "blocks" / f".{'0123456789abcdef' * 2}"
    left.write_bytes(b"of a killed task")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    facts = STAGE.run(work_)
    assert digests(tmp_path) == digests(result.draft)
    written = {file.name for file in tmp_path.rglob("*.parquet") if before.get(file) != file.stat().st_mtime_ns}
    assert written == {lost.name, lost.with_suffix(".rejected.parquet").name, "part-00001.parquet"}
    assert facts["rows/read"] == result.facts["rows/read"]
    assert not left.exists()


def test_too_many_bad_rows_stop_the_stage(session: Session, result: Result, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_bad_rows allows 1: .*rejected\.jsonl"):
        STAGE.run(work(session, tmp_path, sources(result.folder), max_bad_rows=1))


def test_reasons_are_named_where_no_image_is_left(session: Session, result: Result, tmp_path: Path) -> None:
    table = {"table": sources(result.folder)["table"]}
    with pytest.raises(UserError, match=r"no image is left of 4 rows read \(4 tiny\)"):
        STAGE.run(work(session, tmp_path, table, min_side=1000))


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stood_and_makes_the_same_bytes(result: Result, tmp_path: Path) -> None:
    recipe, store = result.folder / "recipe.yaml", tmp_path / "store"
    files = {name: source.model_dump(include={"kind", "path", "language"}) for name, source in
             sources(result.folder).items()}  # fmt: skip
    recipe.write_text(json.dumps({"name": "photos", "seed": 7, "sources": files, "stages": {"images": OPTIONS}}))
    kept: dict[Path, int] = {}
    for unit, done, kind in (("blocks", 3, "blocks/*.parquet"), ("files of train", 1, "out/train/*.parquet")):
        mark = tmp_path / unit
        with runs.log_file(store).open("a") as log:
            module = [sys.executable, "-m", "tests.stopping_driver", str(mark), unit, str(done)]
            process = subprocess.Popen([*module, str(recipe), str(store)], cwd=runs.ROOT, text=True,
                                       stdout=subprocess.PIPE, stderr=log)  # fmt: skip
        runs.wait_until(mark.exists, process, log=runs.log_file(store))
        runs.kill_driver(process)
        assert {file: file.stat().st_mtime_ns for file in kept} == kept  # what an earlier attempt had finished
        kept |= {file: file.stat().st_mtime_ns for file in store.glob(f"drafts/*/{kind}")}
        assert kept and not list(store.glob("artifacts/*/*"))
    assert len(list(store.glob("drafts/*/out/train/*.parquet"))) < len(corpora.parts(result.draft / "out", "train"))
    with runs.log_file(store).open("a") as log:
        command = [sys.executable, "-m", "tests.driver", str(recipe), str(store)]
        process = subprocess.Popen(command, cwd=runs.ROOT, text=True, stdout=subprocess.PIPE, stderr=log)
    runs.finish(process, store)
    made = runs.artifacts(store)["images"]
    assert runs.contents(made) == runs.contents(result.draft / "out")
