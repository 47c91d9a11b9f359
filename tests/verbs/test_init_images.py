"""`rayse init` on images with captions: folders, archives, Parquet; pictures without a word stay pictures."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner

from pipelines import cli
from pipelines.recipe import reader
from pipelines.stages import STAGES
from tests.pictures import file_of, photograph

ENGLISH = "It was a bright cold day in April, and the clocks were striking thirteen. " * 3


def init(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["init", *map(str, arguments)])


def photos(folder: Path, number: int = 4) -> Path:
    folder.mkdir()
    for n in range(number):
        (folder / f"{n}.jpg").write_bytes(file_of(photograph(n, (100, 80))))
        (folder / f"{n}.txt").write_text(f"A photograph of the harbour, number {n}.")
    return folder


def test_folder_of_images_with_captions(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (folder / "broken.txt").write_text("A broken one.")
    done = init(folder, "--out", tmp_path / "recipe.yaml")
    assert done.exit_code == 0, done.output
    assert "photos: images, 5 rows" in done.output
    assert "A photograph of the harbour, number 0." in done.output
    assert "read 5 rows, used 4; not used: 1 corrupt; language en" in done.output
    assert "No model learns from images yet" in done.output
    recipe = reader.load(tmp_path / "recipe.yaml", STAGES)
    assert [entry.name for entry in recipe.entries] == ["images"]
    assert recipe.entries[0].sources["photos"].kind == "images"


def test_archive_and_parquet_beside_text(tmp_path: Path) -> None:
    image = file_of(photograph(1, (100, 80)))
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for name, content in (("a.jpg", image), ("a.txt", "海港的照片。".encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    row = {"image": {"bytes": image, "path": "a.jpg"}, "caption": "A photograph of the harbour."}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "table.parquet")
    (tmp_path / "novels.jsonl").write_text("".join(json.dumps({"text": f"{n} {ENGLISH}"}) + "\n" for n in range(50)))
    done = init(*(tmp_path / name for name in ("shard.tar", "table.parquet", "novels.jsonl")), "--json", "--out",
                tmp_path / "recipe.yaml")  # fmt: skip
    facts = json.loads(done.stdout)
    assert {name: source["rows"] for name, source in facts["sources"].items()} == {
        "shard": "images", "table": "images", "novels": "text"
    }  # fmt: skip
    assert facts["files"][str(tmp_path / "shard.tar")]["languages"] == {"zh": 1}
    recipe = reader.load(tmp_path / "recipe.yaml", STAGES)
    assert list(recipe.entry("images").sources) == ["shard", "table"]
    assert recipe.entry("tokens").inputs["corpus"] == "corpus"


def test_pictures_of_which_nothing_is_said_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/guide.md").write_text(ENGLISH)
    (tmp_path / "docs/figure.png").write_bytes(file_of(photograph(1, (100, 80)), "PNG"))
    done = init(tmp_path / "docs", "--out", tmp_path / "recipe.yaml")
    assert done.exit_code == 0, done.output
    assert "1 files of no known kind (1 .png)" in done.output
    assert "images" not in (tmp_path / "recipe.yaml").read_text()
    alone = init(tmp_path / "docs/figure.png", "--out", tmp_path / "other.yaml")
    assert alone.exit_code == 2
    assert "no image with a caption" in alone.output
    assert not (tmp_path / "other.yaml").exists()


def test_each_image_of_a_mixed_folder_is_read_once(tmp_path: Path) -> None:
    folder = photos(tmp_path / "mine")
    image = file_of(photograph(9, (100, 80)))
    rows = [{"image": {"bytes": image, "path": "a.jpg"}, "caption": "A boat.", "licence": "CC0"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for name, content in (("a.jpg", image), ("a.txt", b"A tree."), ("a.cls", b"3")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    pq.write_table(pa.table({"text": [ENGLISH] * 3}), folder / "essays.parquet")
    done = init(folder, "--json", "--out", tmp_path / "recipe.yaml")
    facts = json.loads(done.stdout)
    assert {name: (source["rows"], source["num_rows"]) for name, source in facts["sources"].items()} == {
        "mine": ("images", 6), "essays": ("text", 3)
    }  # fmt: skip
    assert facts["files"][str(folder)]["columns_kept"] == {"cls": 1, "licence": 1}
    assert "columns kept in meta: cls (1 row), licence (1 row)" in init(folder, "--out", tmp_path / "b.yaml").output


def test_documents_beside_pictures_are_no_captions_without_a_picture(tmp_path: Path) -> None:
    folder = photos(tmp_path / "mine")
    for number in range(20):
        (folder / f"essay {number}.txt").write_text(f"{ENGLISH} It was number {number}.")
    done = init(folder, "--json", "--out", tmp_path / "recipe.yaml")
    facts = json.loads(done.stdout)
    assert "unreadable" not in facts["files"][f"{folder} (images)"]["not_used"]
    assert facts["files"][f"{folder} (20 text files)"]["rows_used"] == 20
    for number in range(1, 20):
        (folder / f"essay {number}.txt").unlink()
    facts = json.loads(init(folder, "--json", "--out", tmp_path / "other.yaml").stdout)
    assert facts["files"][str(folder)]["not_used"]["unreadable"] == 1  # one among captions may be one of them
    assert len(facts["files"]) == 1  # and is then no document, too


def test_a_data_set_of_images_is_one_of_images(tmp_path: Path) -> None:
    data = tmp_path / "hub" / "data"
    data.mkdir(parents=True)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        rows = [{"image": {"bytes": file_of(photograph(1, (100, 80))), "path": "a.jpg"}, "text": f"A boat, {name}."}]
        pq.write_table(pa.Table.from_pylist(rows), data / f"{name}.parquet")
    done = init(tmp_path / "hub", "--out", tmp_path / "recipe.yaml")
    assert done.exit_code == 0, done.output
    assert "hub: images, 2 rows" in done.output and "note: hub: splits that are not read: test" in done.output
    (source,) = reader.load(tmp_path / "recipe.yaml", STAGES).entry("images").sources.values()
    assert source.model_dump()["path"] == [f"hub/data/train-0000{n}-of-00002.parquet" for n in range(2)]


def test_an_image_without_a_caption_is_told_where_one_may_stand(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "3.txt").unlink()
    done = init(folder, "--out", tmp_path / "recipe.yaml")
    assert "3.jpg: no caption; expected a text beside the image, or a column with it" in done.output


def test_images_of_a_split_beside_train_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    photos(tmp_path / "set" / "train")
    photos(tmp_path / "set" / "test", 7)
    done = init(tmp_path / "set", "--out", tmp_path / "recipe.yaml")
    assert done.exit_code == 0, done.output
    assert f"left out: {tmp_path / 'set' / 'test'}: 14 files of a split beside train" in done.output
    source = reader.load(tmp_path / "recipe.yaml", STAGES).entry("images").sources["train"]
    assert source.model_dump()["path"] == "set/train"
    photos(tmp_path / "set" / "more", 20)
    done = init(tmp_path / "set", "--out", tmp_path / "more.yaml")
    assert f"left out: {tmp_path / 'set' / 'test'}: 14 files of a split beside train" in done.output
    (source,) = reader.load(tmp_path / "more.yaml", STAGES).entry("images").sources.values()
    assert source.model_dump()["path"] == ["set/more", "set/train"]
    shared = tmp_path / "shared"
    shared.mkdir()
    lines = ["file_name,text"]
    for name in ("train", "test"):
        photos(shared / name)
        for n in range(4):
            (shared / name / f"{n}.txt").unlink()
            lines.append(f"{name}/{n}.jpg,A photograph of the harbour.")
    (shared / "metadata.csv").write_text("\n".join(lines))
    done = init(shared, "--out", tmp_path / "shared.yaml")
    assert "shared: images, 8 rows" in done.output
    assert "note: 4 images of splits beside train are read too: one metadata file speaks for all" in done.output
