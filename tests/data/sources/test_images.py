"""Sources of images: folders, archives and Parquet files give the same pairs; nothing is left out without a word."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.sources import SOURCES, captions
from pipelines.data.sources.source import BadRow, Row, Source
from pipelines.errors import UserError
from tests.pictures import file_of, photograph

IMAGE = file_of(photograph(1, (80, 60)))
OTHER = file_of(photograph(2, (80, 60)), "PNG")


def source(folder: Path, path: Any = ".", **options: Any) -> Source:
    return SOURCES["images"].model_validate({"kind": "images", "path": path, **options}).at(folder)


def read(images: Source) -> tuple[list[Row], list[BadRow]]:
    """Every row of a source, and every bad row."""
    rows = [row for part in images.parts() for row in images.read(part)]
    return [row for row in rows if isinstance(row, Row)], [row for row in rows if isinstance(row, BadRow)]


def pairs(images: Source) -> list[tuple[str, bytes]]:
    """Caption and image of every row; there is no bad row."""
    rows, bad_rows = read(images)
    assert not bad_rows
    return [(row.text, (row.record or {})["image"]) for row in rows]


def write(folder: Path, files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def write_tar(file: Path, members: dict[str, bytes | str], mode: Any = "w") -> bytes:
    with tarfile.open(file, mode) as archive:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.read_bytes()


def offset_of_third(file: Path) -> int:
    with tarfile.open(file) as archive:
        return archive.getmembers()[2].offset


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf8_are_escaped_in_folders_and_archives(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write(tmp_path, {f"{name}.jpg": IMAGE, f"{name}.txt": "A cup."})
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards/a.tar", {f"{name}.jpg": IMAGE, f"{name}.txt": "A cup."})
    for images, group in ((source(tmp_path, "*.jpg"), "caf%E9.jpg"), (source(tmp_path, "shards"), "caf%E9")):
        assert pairs(images) == [("A cup.", IMAGE)]
        assert [(row.group, row.meta["file"]) for row in read(images)[0]] == [(group, "caf%E9.jpg")]


def test_captions_beside_the_images(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "a.jpg": IMAGE, "a.txt": "\ufeffA cat.\n", "in/b.PNG": OTHER,
        "in/b.json": '{"caption": "Ein Hund.", "url": "u"}', "c.webp": IMAGE,
        ".hidden.jpg": IMAGE, "__MACOSX/a.jpg": IMAGE, ".git/notes.txt": "no",
    }  # fmt: skip
    write(tmp_path, files)
    images = source(tmp_path)
    assert pairs(images) == [("A cat.", IMAGE), ("", IMAGE), ("Ein Hund.", OTHER)]
    rows, _ = read(images)
    assert [row.meta["file"] for row in rows] == ["a.jpg", "c.webp", "in/b.PNG"]
    assert rows[2].meta["url"] == "u"
    names = [file.relative_to(tmp_path).as_posix() for file in images.files()]
    assert sorted(names) == ["a.jpg", "a.txt", "c.webp", "in/b.PNG", "in/b.json"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_file_of_a_folder(tmp_path: Path, kind: str) -> None:
    records = [
        {"file_name": "a.jpg", "text": 'A cat, "alone".\nAsleep.', "licence": "CC0"},
        {"file_name": "in/b.png", "text": "狗"},
    ]
    write(tmp_path, {"photos/a.jpg": IMAGE, "photos/in/b.png": OTHER})
    if kind == "csv":
        text = 'file_name,text,licence\na.jpg,"A cat, ""alone"".\nAsleep.",CC0\nin/b.png,狗,\n'
    else:
        text = "".join(json.dumps(record) + "\n" for record in records)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), tmp_path / "photos/metadata.parquet")
    else:
        write(tmp_path, {f"photos/metadata.{kind}": text})
    images = source(tmp_path, "photos")
    assert pairs(images) == [('A cat, "alone".\nAsleep.', IMAGE), ("狗", OTHER)]
    assert read(images)[0][0].meta == {"file": "a.jpg", "licence": "CC0"}
    assert tmp_path / f"photos/metadata.{kind}" in images.files()


def test_image_files_over_max_row_bytes_are_bad_rows_wherever_they_stand(tmp_path: Path) -> None:
    large = file_of(photograph(3, (400, 300)))
    assert len(IMAGE) < 8000 < len(large)
    write(tmp_path, {"p/a.jpg": IMAGE, "p/a.txt": "A cat.", "p/b.jpg": large, "p/b.txt": "A dog."})
    write_tar(tmp_path / "s.tar", {"a.jpg": IMAGE, "a.txt": "A cat.", "b.jpg": large, "b.txt": "A dog."})
    rows = [{"image": image, "text": text} for image, text in ((IMAGE, "A cat."), (large, "A dog."))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    for path in ("p", "s.tar", "t.parquet"):
        assert len(pairs(source(tmp_path, path))) == 2
        good, bad_rows = read(source(tmp_path, path, max_row_bytes=8000))
        assert [row.text for row in good] == ["A cat."]
        assert f"{len(large):,} bytes; expected at most 8,000" in " ".join(row.problem for row in bad_rows)
        identity = source(tmp_path, path).identity()
        assert "max_row_bytes" not in identity
        assert source(tmp_path, path, max_row_bytes=8000).identity() == identity | {"max_row_bytes": 8000}


def test_a_table_without_images_is_none_of_a_folder_of_images(tmp_path: Path) -> None:
    write(tmp_path, {"p/a.jpg": IMAGE, "p/a.txt": "A cat."})
    pq.write_table(pa.table({"text": ["An essay."]}), tmp_path / "p/essays.parquet")
    pq.write_table(pa.table({"image": ["http://a.example/b.jpg"], "text": ["Far."]}), tmp_path / "p/links.parquet")
    pq.write_table(pa.table({"image": [OTHER], "text": ["A dog."]}), tmp_path / "p/table.parquet")
    write(tmp_path, {"p/damaged.parquet": b"PAR1"})
    rows, bad_rows = read(source(tmp_path, "p"))
    assert [row.text for row in rows] == ["A cat.", "A dog."]
    assert len(bad_rows) == 1 and "damaged" in bad_rows[0].problem


def test_what_metadata_says_of_no_image_is_a_bad_row(tmp_path: Path) -> None:
    lines = ['{"file_name": "a.jpg", "text": "A cat."}', '{"file_name": "a.jpg", "text": "Again."}', "{no json",
             '{"text": "whose?"}', '{"file_name": "gone.jpg", "text": "Gone."}',
             '{"file_name": "../out.jpg", "text": "x"}',
             '{"file_name": "b.jpg", "text": "half \\ud83d"}']  # fmt: skip
    write(tmp_path, {"photos/a.jpg": IMAGE, "photos/metadata.jsonl": "\n".join(lines), "out.jpg": IMAGE})
    write(tmp_path, {"photos/lost.txt": "A caption without an image."})
    rows, bad_rows = read(source(tmp_path, "photos"))
    assert [row.text for row in rows] == ["A cat."]
    problems = [row.problem for row in bad_rows]
    assert len(problems) == 6 + 1
    for number, text in ((2, "named again"), (3, "not JSON"), (4, "file_name"), (5, "no image 'gone.jpg'"),
                         (6, "no image '../out.jpg'"), (7, "surrogate")):  # fmt: skip
        assert any(problem.startswith(f"metadata.jsonl:{number}: ") and text in problem for problem in problems), text
    assert "lost.txt" in problems[-1]


def test_unclosed_quote_does_not_swallow_the_captions_after_it(tmp_path: Path) -> None:
    lines = ["file_name,text", 'a.jpg,"unclosed', *(f"{n:02}.jpg,Picture {n}." for n in range(30))]
    write(tmp_path, {"metadata.csv": "\n".join(lines) + "\n", "a.jpg": IMAGE})
    write(tmp_path, {f"{n:02}.jpg": IMAGE for n in range(30)})
    rows, bad_rows = read(source(tmp_path))
    assert sum(row.text.startswith("Picture ") for row in rows) >= 29
    assert any(row.problem.startswith("metadata.csv:2: ") for row in bad_rows)


def test_column_without_text_is_no_caption(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": IMAGE, "a.json": '{"text": 5, "caption": "A dog."}', "b.jpg": IMAGE})
    write(tmp_path, {"b.txt": "x" * (2 << 20)})
    rows, bad_rows = read(source(tmp_path))
    assert [(row.text, row.meta["text"]) for row in rows] == [("A dog.", "5")]
    assert "its .txt has 2,097,152 bytes" in bad_rows[0].problem


def test_files_and_globs(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"p/a.jpg": IMAGE, "p/a.txt": "A cat.", "p/b.png": OTHER, "p/metadata.csv": "file_name,text\nb.png,Dog\n"},
    )
    assert pairs(source(tmp_path, "p/a.jpg")) == [("A cat.", IMAGE)]
    images = source(tmp_path, "p/*.png")
    assert pairs(images) == [("Dog", OTHER)]
    assert tmp_path / "p/metadata.csv" in images.files()
    assert pairs(source(tmp_path, ["p/*.png", "p/a.jpg"])) == [("Dog", OTHER), ("A cat.", IMAGE)]


def test_parts_are_numbered_and_small(tmp_path: Path) -> None:
    write(tmp_path, {f"{number:03}.jpg": IMAGE for number in range(130)})
    images = source(tmp_path)
    assert [part.index for part in images.parts()] == [0, 1, 2]
    rows, _ = read(images)
    assert [row.meta["file"] for row in rows] == [f"{number:03}.jpg" for number in range(130)]
    assert len({row.group for row in rows}) == 130


def test_empty_image_is_left_to_the_stage(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": b"", "a.txt": "A cat."})
    assert pairs(source(tmp_path)) == [("A cat.", b"")]


def test_paths_that_name_no_image(tmp_path: Path) -> None:
    write(tmp_path, {"notes/a.txt": "text", "empty/.keep": ""})
    for path, text in (("notes", "no image, .tar"), ("empty", "no file in this folder"), ("gone.jpg", "no such file")):
        with pytest.raises(UserError, match=text):
            source(tmp_path, path).parts()


# ---- archives --------------------------------------------------------------------------------------------------------

SHARD: dict[str, bytes | str] = {
    "train/0001.jpg": IMAGE, "train/0001.txt": "A cat.", "train/0002.png": OTHER,
    "train/0002.json": '{"caption": "A dog."}',
    "train/0002.cls": "3", "train/0002.npy": b"\x93" * 2000,
}  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")])
def test_archive(tmp_path: Path, name: str, mode: str) -> None:
    write_tar(tmp_path / name, SHARD, mode)
    images = source(tmp_path, name)
    assert pairs(images) == [("A cat.", IMAGE), ("A dog.", OTHER)]
    assert read(images)[0][1].meta == {"file": "train/0002.png", "cls": "3", "npy": "2,000 bytes, not read"}
    assert pairs(source(tmp_path)) == pairs(images)  # the same in a folder of archives


def test_members_that_are_no_files_and_names_that_lead_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        for name, content in (("../../out.jpg", IMAGE), ("../../out.txt", b"Out."), ("._mac.jpg", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    rows, bad_rows = read(source(tmp_path, "a.tar"))
    assert [row.text for row in rows] == ["Out."]
    assert sum("links are not followed" in row.problem for row in bad_rows) == 3
    assert [file.name for file in tmp_path.rglob("*")] == ["a.tar"]
    assert not (tmp_path.parent.parent / "out.jpg").exists()


@pytest.mark.parametrize("gzipped", [False, True])
def test_truncated_archive_gives_what_stands_before(tmp_path: Path, gzipped: bool) -> None:
    members: dict[str, bytes | str] = {}
    for n in range(20):
        members |= {f"{n:04}.jpg": file_of(photograph(n, (80, 60))), f"{n:04}.txt": f"Image {n}."}
    file = tmp_path / ("a.tar.gz" if gzipped else "a.tar")
    data = write_tar(file, members, "w:gz" if gzipped else "w")
    file.write_bytes(data[: len(data) // 2])
    rows, bad_rows = read(source(tmp_path, file.name))
    assert 5 <= len(rows) <= 15
    assert [row.text for row in rows] == [f"Image {n}." for n in range(len(rows))]
    assert len(bad_rows) == 1
    assert "damaged after" in bad_rows[0].problem


def test_archive_cut_between_two_members_is_damaged_too(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "a.tar", SHARD)
    (tmp_path / "a.tar").write_bytes(data[: offset_of_third(tmp_path / "a.tar")])
    rows, bad_rows = read(source(tmp_path, "a.tar"))
    assert [row.text for row in rows] == ["A cat."]
    assert "without an end mark" in bad_rows[0].problem


def test_damaged_header_in_the_middle(tmp_path: Path) -> None:
    data = bytearray(write_tar(tmp_path / "a.tar", SHARD))
    offset = offset_of_third(tmp_path / "a.tar")
    data[offset : offset + 512] = b"\xff" * 512
    (tmp_path / "a.tar").write_bytes(data)
    rows, bad_rows = read(source(tmp_path, "a.tar"))
    assert ([row.text for row in rows], len(bad_rows)) == (["A cat."], 1)


def test_joined_archives_are_read_to_the_end(tmp_path: Path) -> None:
    first, second = (write_tar(tmp_path / "x", {f"{name}.jpg": IMAGE, f"{name}.txt": name}) for name in "ab")
    (tmp_path / "a.tar").write_bytes(first + second)
    assert [text for text, _ in pairs(source(tmp_path, "a.tar"))] == ["a", "b"]


def test_what_is_no_archive(tmp_path: Path) -> None:
    for content in (b"", b"hello" * 1000):
        write(tmp_path, {"a.tar": content})
        images = source(tmp_path, "a.tar")
        with pytest.raises(UserError, match=r"a\.tar: "):
            read(images)


def test_damaged_files_among_others_are_bad_rows(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", SHARD)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "d.parquet")
    write(tmp_path, {"b.tar": b"hello" * 1000, "c.parquet": b"PAR1 and no more", "e.tar": b""})
    rows, bad_rows = read(source(tmp_path))
    assert [row.text for row in rows] == ["A cat.", "A dog."]
    for text in ("no tar archive", "not a Parquet file", "no column with images", "empty"):
        assert any(text in row.problem for row in bad_rows), text
    assert len(bad_rows) == 4


def test_captions_in_another_encoding(tmp_path: Path) -> None:
    text = "一只猫在窗台上睡觉，外面下着雨。" * 4
    write(
        tmp_path, {"a.jpg": IMAGE, "a.txt": text.encode("gb18030"), "b.png": OTHER, "b.txt": "A dog.".encode("utf-16")}
    )
    assert pairs(source(tmp_path)) == [(text, IMAGE), ("A dog.", OTHER)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "big5", "utf-16"])
def test_record_beside_an_image_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    record = '{"caption": "山上有一座很小的房子，門前有一條河。", "url": "u"}'
    write(tmp_path, {"a.jpg": IMAGE, "a.json": record.encode(encoding)})
    assert pairs(source(tmp_path)) == [("山上有一座很小的房子，門前有一條河。", IMAGE)]
    assert isinstance(captions.parse_record(b"\x89PNG\r\n"), str)
    assert isinstance(captions.parse_record(b'{"caption": "\\ud800"}'), str)


def test_keys_with_captions_alone_and_with_two_images(tmp_path: Path) -> None:
    members = {"a.txt": "No image.", "b.jpg": IMAGE, "b.mask.png": OTHER, "b.txt": "Two.", "c.jpg": IMAGE}
    write_tar(tmp_path / "a.tar", {**members, "c.txt": b"\xff\xfe\xff"})
    rows, bad_rows = read(source(tmp_path, "a.tar"))
    assert [(row.text, row.meta["mask.png"]) for row in rows] == [
        ("Two.", f"{len(OTHER):,} bytes, not read: a second image")
    ]
    assert ["a: no image" in bad_rows[0].problem, "c: its .txt is no text" in bad_rows[1].problem] == [True, True]


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def test_parquet_with_structs_and_with_bytes(tmp_path: Path) -> None:
    structs = [
        {"image": {"bytes": IMAGE, "path": "a.jpg"}, "caption": "A cat.", "score": 0.5},
        {"image": {"bytes": OTHER, "path": None}, "caption": None, "score": 1.0},
    ]
    pq.write_table(pa.Table.from_pylist(structs), tmp_path / "a.parquet", row_group_size=1)
    images = source(tmp_path, "a.parquet")
    assert pairs(images) == [("A cat.", IMAGE), ("", OTHER)]
    assert read(images)[0][0].meta == {"file": "a.jpg", "score": "0.5"}
    table = pa.table({"jpg": [IMAGE], "captions": [["A cat.", "A cat sleeps."]], "set": ["x"]})
    pq.write_table(table, tmp_path / "b.parquet")
    images = source(tmp_path, "b.parquet", group="set")
    assert pairs(images) == [("A cat.\nA cat sleeps.", IMAGE)]
    assert read(images)[0][0].group == "x"


def test_parquet_without_the_images(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": None, "path": "a.jpg"}, "text": "x"}, {"image": None, "text": "y"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    _, bad_rows = read(source(tmp_path, "a.parquet"))
    assert "the path a.jpg alone" in bad_rows[0].problem
    assert "null" in bad_rows[1].problem
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: no column with images; the file has: text"):
        source(tmp_path, "b.parquet").parts()
    with pytest.raises(UserError, match="no column 'legend'; the file has: image, text"):
        source(tmp_path, "a.parquet", text="legend").parts()


def test_only_images_have_rows_of_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only kind: images reads images"):
        SOURCES["jsonl"].model_validate({"kind": "jsonl", "path": "a.jsonl", "rows": "images"})
    with pytest.raises(ValueError, match="expected images"):
        source(tmp_path, rows="text")
