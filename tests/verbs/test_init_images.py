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
