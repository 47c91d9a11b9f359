"""Sources whose path is a URL of objects read what the same files on a disk would give."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import xxhash

from cluster.errors import ClusterError
from pipelines.data.dialogues.conversation_records import parse_conversation
from pipelines.data.sources import SOURCES, object_files
from pipelines.data.sources.bad_rows import BadRowLimit, RejectedRows, parse_records
from pipelines.data.sources.source import Source
from pipelines.errors import UserError
from pipelines.objects import Objects
from pipelines.store.digests import FileDigests
from tests.object_server import Disturbance, ObjectServer, disturbed, needs_server, serving

pytestmark = needs_server

FILES = {
    "raw/a.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "raw/b.jsonl": '{"text": "三"}\n'.encode(),
    "raw/deep/er/c.jsonl": b'{"text": "four"}\n',
    "raw/notes.md": b"not a row",
    "raw/.hidden.jsonl": b'{"text": "hidden"}\n',
    "raw-too/d.jsonl": b'{"text": "in another folder"}\n',
}


FOLDERS = ["raw/", "raw/deep/", "raw/deep/er/"]  # empty objects, as the S3 console makes them


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with serving() as server:
        yield server


@pytest.fixture
def proxy(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disturbance]:
    object_files.find.cache_clear()
    with disturbed(server) as proxy:
        for name, value in {**server.environment, "AWS_ENDPOINT_URL": proxy.url}.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def url(proxy: Disturbance, tmp_path: Path) -> str:
    """Where FILES lie as objects; the same lie on the disk, in tmp_path."""
    url = f"s3://bucket/{tmp_path.name}"
    for name in FOLDERS:
        httpx.put(f"{proxy.url}/bucket/{tmp_path.name}/{name}", content=b"", trust_env=False).raise_for_status()
    for name, data in FILES.items():
        Objects(url).put(name, data)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return url


def source(path: str | list[str], tmp_path: Path, kind: str = "jsonl") -> Source:
    made = SOURCES[kind].model_validate({"kind": kind, "path": path})
    return made.at(tmp_path, tmp_path / "cache")


def rows(read: Source) -> list[tuple[str, str, str]]:
    return [(part.group, row.text, type(row).__name__) for part in read.parts() for row in read.read(part)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "path", ["raw/a.jsonl", "raw", "raw/", "raw/*.jsonl", "raw/**/*.jsonl", "*/?.jsonl", ["raw/b.jsonl", "raw-too"]]
)
def test_objects_are_read_as_the_same_files_are(url: str, tmp_path: Path, path: str | list[str]) -> None:
    paths = [path] if isinstance(path, str) else path
    remote, local = source([f"{url}/{p}" for p in paths], tmp_path), source(paths, tmp_path)
    assert rows(remote) == rows(local) != []
    assert remote.identity() == local.identity()
    assert [file.read_bytes() for file in remote.files()] == [file.read_bytes() for file in local.files()]


def test_messages_name_the_object(url: str, tmp_path: Path) -> None:
    parts = source(f"{url}/raw/deep", tmp_path).parts()
    assert [part.where for part in parts] == [f"{url}/raw/deep/er/c.jsonl"]


def test_objects_are_brought_once_and_again_when_they_change(url: str, tmp_path: Path, proxy: Disturbance) -> None:
    def gets(name: str) -> int:
        return sum(name in path and method == "GET" for method, path in proxy.requests)

    first = source(f"{url}/raw/*.jsonl", tmp_path)
    assert "one" in [text for _, text, _ in rows(first)]
    object_files.find.cache_clear()  # as in the next run
    rows(source(f"{url}/raw/*.jsonl", tmp_path))
    assert gets("a.jsonl") == gets("b.jsonl") == 1
    Objects(url).put("raw/a.jsonl", b'{"text": "new"}\n{"text": "two"}\n')  # of the same size
    object_files.find.cache_clear()
    texts = [text for _, text, _ in rows(source(f"{url}/raw/*.jsonl", tmp_path))]
    assert "new" in texts and "one" not in texts
    assert gets("a.jsonl") == 2 and gets("b.jsonl") == 1  # only what has changed


def digests(read: Source, cache: Path) -> list[str]:
    return FileDigests(cache).of_all(read.files(), read.digest_of)


def test_a_copy_is_not_read_again_for_its_digest(url: str, tmp_path: Path) -> None:
    expected = [xxhash.xxh3_128_hexdigest(FILES[f"raw/{name}.jsonl"]) for name in "ab"]
    for file in source(f"{url}/raw/*.jsonl", tmp_path).files():
        stat = file.stat()
        file.write_bytes(b"-" * stat.st_size)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # who reads them gets another digest
    assert digests(source(f"{url}/raw/*.jsonl", tmp_path), tmp_path / "1.json") == expected
    Objects(url).put("raw/a.jsonl", new := b'{"text": "newer"}\n')  # another state: all paths are new
    object_files.find.cache_clear()  # as in the next run
    (_, copy_of_b) = source(f"{url}/raw/*.jsonl", tmp_path).files()
    expected[0] = xxhash.xxh3_128_hexdigest(new)
    assert digests(source(f"{url}/raw/*.jsonl", tmp_path), tmp_path / "2.json") == expected
    copy_of_b.write_bytes(b"changed by hand")
    expected[1] = xxhash.xxh3_128_hexdigest(b"changed by hand")
    assert digests(source(f"{url}/raw/*.jsonl", tmp_path), tmp_path / "3.json") == expected


@pytest.mark.parametrize("path", ["absent.jsonl", "absent", "raw/*.csv", "raw/a.jsonl/"])
def test_a_url_that_names_nothing_is_a_user_error(url: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=rf"{url}/.*: names no object; expected an object, a folder, or a pattern"):
        source(f"{url}/{path}", tmp_path).files()


def test_an_empty_object_is_named(url: str, tmp_path: Path) -> None:
    Objects(url).put("empty.jsonl", b"")
    with pytest.raises(UserError, match=r"empty.jsonl: the file is empty"):
        source(f"{url}/empty.jsonl", tmp_path).files()


def test_an_object_that_cannot_be_brought_leaves_no_half_file(
    url: str, tmp_path: Path, proxy: Disturbance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Objects.__init__, "__kwdefaults__", {"retry_s": 1.0})
    proxy.decide = lambda method, path: "cut" if "b.jsonl" in path and method == "GET" else "pass"
    with pytest.raises(ClusterError, match=rf"{url}/raw/b.jsonl: cannot be read, tried again"):
        source(f"{url}/raw", tmp_path).files()
    left = [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.name != object_files.DIGESTS]
    assert {file.parent.name for file in left} <= {".objects"}  # complete objects, which the next run need not bring
    assert {file.read_bytes() for file in left} <= set(FILES.values())
    assert not list((tmp_path / "cache").rglob("@*"))


ODD = {
    "jsonl": gzip.compress(b"".join(b'{"prompt": "%d?", "reply": "%d"}\n' % (n, n) for n in range(2000)))[:-40],
    "csv": 'prompt,reply\nHi,Hello\nWho?,"Nobody\nWhen?,Now\n你好,您好\n'.encode("gb18030"),
    "json": '{"data": [{"prompt": "Hi", "reply": "Hello"}, {"prompt": "Hi"}, {"prompt": "你好", "reply": "'.encode(),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_objects_of_conversations_are_set_aside_as_odd_files_are(url: str, tmp_path: Path, kind: str) -> None:
    name = "odd.jsonl.gz" if kind == "jsonl" else f"odd.{kind}"
    Objects(url).put(name, ODD[kind])
    (tmp_path / name).write_bytes(ODD[kind])
    read: list[tuple[list[str], list[dict[str, Any]]]] = []
    for path in (name, f"{url}/{name}"):
        fields = {"kind": kind, "path": path, "rows": "conversations"}
        made = SOURCES[kind].model_validate(fields).at(tmp_path, tmp_path / "cache")
        rejected = RejectedRows(tmp_path / "rejected.jsonl", BadRowLimit("100%", "conversations"))
        parsed = parse_records(
            {"chats": made}, rejected, parse_conversation, lambda parsed: parsed.text, lambda number: None
        )
        read.append(([row[-1].text for row in parsed], [json.loads(line) for line in rejected.lines]))
    (texts, bad), (remote_texts, remote_bad) = read
    assert texts == remote_texts != [] and bad != []
    assert [{**row, "where": row["where"].removeprefix(f"{url}/")} for row in remote_bad] == bad


LINES = ["raw/.hidden.jsonl", "raw/a.jsonl", "raw/b.jsonl", "raw/deep/er/c.jsonl"]


@pytest.mark.parametrize(
    ("path", "keys"), [("raw/a.jsonl", ["raw/a.jsonl"]), ("raw", LINES), ("raw/**/*.jsonl", LINES)]
)
def test_what_is_missing_is_what_reading_would_bring(
    url: str, tmp_path: Path, proxy: Disturbance, path: str, keys: list[str]
) -> None:
    read, local = source(f"{url}/{path}", tmp_path), source(path, tmp_path)
    assert [version.entry.key for version in read.missing_objects()] == [f"{tmp_path.name}/{key}" for key in keys]
    first, *others = read.missing_objects()
    first.keep(*first.fetch(Objects(first.bucket)))
    assert [version.file for version in read.missing_objects()] == [version.file for version in others]
    for version in others:
        version.keep(*version.fetch(Objects(version.bucket)))
    assert read.missing_objects() == [] == local.missing_objects()
    before = len(proxy.requests)
    assert rows(read) == rows(local)
    assert digests(read, tmp_path / "1") == digests(local, tmp_path / "2")
    assert len(proxy.requests) == before


def test_an_image_source_and_a_data_set_read_folders_of_objects(url: str, tmp_path: Path, proxy: Disturbance) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"text": ["from a data set"]}), tmp_path / "set" / "train-00000-of-00001.parquet")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "pictures" / "red.png")
    (tmp_path / "pictures" / "red.txt").write_text("a red square")
    for file in [*(tmp_path / "set").iterdir(), *(tmp_path / "pictures").iterdir()]:
        Objects(url).put(f"{file.parent.name}/{file.name}", file.read_bytes())
    for kind, folder, fields in (("dataset", "set", {"split": "train"}), ("images", "pictures", {"rows": "images"})):
        pair = [
            SOURCES[kind].model_validate({"kind": kind, "path": path, **fields}).at(tmp_path, tmp_path / "cache")
            for path in (f"{url}/{folder}", folder)
        ]
        for version in pair[0].missing_objects():
            version.keep(*version.fetch(Objects(version.bucket)))
        before = len(proxy.requests)
        remote, local = ([row for part in one.parts() for row in one.read(part)] for one in pair)
        assert remote == local != []
        assert len(proxy.requests) == before  # all that is read had been missing
