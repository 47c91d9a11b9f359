"""Digests of values and files."""

import os
import time
from pathlib import Path
from random import Random
from threading import Thread

import pytest
import xxhash

from pipelines.data.sources.ranges import STEP_BYTES
from pipelines.store import digests
from pipelines.store.digests import FileDigests, digest_file, digest_value, hashed_in_state


def test_the_digest_of_a_value_does_not_depend_on_the_order_of_its_keys() -> None:
    assert digest_value({"a": 1, "b": [1, 2]}) == digest_value({"b": [1, 2], "a": 1})
    assert digest_value({"a": 1, "b": [1, 2]}) != digest_value({"a": 1, "b": [2, 1]})
    assert digest_value({"text": "中文"}) != digest_value({"text": "中國"})
    assert digest_value(1) != digest_value("1")


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = os.urandom((1 << 22) + 17)  # more than one chunk
    (tmp_path / "file").write_bytes(data)
    assert digest_file(tmp_path / "file") == xxhash.xxh3_128_hexdigest(data)


def test_a_file_is_read_again_only_when_its_size_or_time_changes(tmp_path: Path) -> None:
    cache, file = tmp_path / "cache" / "digests.txt", tmp_path / "file"
    cache.parent.mkdir()
    file.write_text("one")
    first = FileDigests(cache).of(file)
    stat = file.stat()

    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert FileDigests(cache).of(file) == first  # the change goes unnoticed: the price of not reading the file

    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert FileDigests(cache).of(file) == digest_file(file) != first


def test_digests_of_many_files_are_those_of_each(tmp_path: Path) -> None:
    cache, files = tmp_path / "digests.txt", [tmp_path / f"file{number}" for number in range(30)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 100_000 * number)
    kept = FileDigests(cache)
    first = kept.of(files[3])
    expected = [xxhash.xxh3_128_hexdigest(file.read_bytes()) for file in files]
    assert kept.of_all([*files, files[3]]) == [*expected, first]
    assert len(cache.read_text().split()) == len(files)  # a line each, and none twice


def test_entries_are_what_was_set_last_however_many_there_are() -> None:
    entries, expected = digests.Entries(), dict[bytes, bytes]()
    random = Random(3)
    for number in range(20_000):
        key = random.choice(list(expected)) if number % 1000 == 999 else random.randbytes(16)
        expected[key] = random.randbytes(32)
        entries.set(key, expected[key])
    assert all(entries.get(key) == value for key, value in expected.items())
    assert {entry[:16]: entry[16:] for entry in entries} == expected and len(entries) == len(expected)
    assert not any(entries.get(key) for key in (bytes(16), b"\xff" * 16, random.randbytes(16)))


def test_digests_from_other_nodes_are_taken_for_files_in_the_same_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, files = tmp_path / "digests.txt", [tmp_path / name for name in ("known", "new", "changed", "gone")]
    for file in files:
        file.write_text(file.name[:-1] + "\n")
    FileDigests(cache).of(files[0])
    kept = FileDigests(cache)
    unknown = kept.unknown(files)
    assert [(path, size) for path, _, size in unknown] == [(str(file), len(file.name)) for file in files[1:]]
    files[2].write_text("longer than before")
    files[3].unlink()
    found = [hashed_in_state(path, state, True) for path, state, _ in unknown]
    assert [each is not None for each in found] == [True, False, False]
    kept.add(each for each in found if each is not None)
    assert kept.lines_before(files[1]) == [0, 1] and kept.lines_before(files[0]) is None
    assert kept.unknown(files) == FileDigests(cache).unknown(files) == kept.unknown(files[2:3]) != []
    expected = digest_file(files[1])
    monkeypatch.setattr(digests, "digest_file", lambda path: pytest.fail("is hashed again"))
    assert FileDigests(cache).of_all(files[:2])[1] == expected


def test_files_of_a_folder_that_was_renamed_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, cache = tmp_path / "draft" / "out", tmp_path / "artifact", tmp_path / "digests.txt"
    (old / "deep").mkdir(parents=True)
    names = ["a", "deep/b", "changed", "never hashed"]
    for name in names:
        (old / name).write_text(name)
    kept = FileDigests(cache)
    hashed = kept.of_all([old / name for name in names[:3]])
    old.rename(new)
    (new / "changed").write_text("longer than before")
    kept.moved(old, new)
    unknown = [str(new / name) for name in names[2:]]
    for each in (kept, FileDigests(cache)):  # as the next run loads it, too
        assert [path for path, _, _ in each.unknown(new / name for name in names)] == unknown
    monkeypatch.setattr(digests, "digest_file", lambda path: pytest.fail("is read again"))
    assert kept.of_all([new / name for name in names[:2]]) == hashed[:2]


@pytest.mark.parametrize("text", ["", "{", "[]", "文", "ab" * 47, "ab" * 49, "\n\n" * 3000])
def test_a_cache_that_cannot_be_read_costs_only_time(tmp_path: Path, text: str) -> None:
    cache, file = tmp_path / "digests.txt", tmp_path / "file"
    cache.write_text(text)
    file.write_text("one")
    assert FileDigests(cache).of(file) == digest_file(file)
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert FileDigests(cache).of(file) != digest_file(file)  # the first one is in the cache


def test_digests_are_kept_while_other_files_are_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe is a file whose reading takes as long as one likes."""
    monkeypatch.setattr(digests, "SAVE_S", 0.0)
    cache, files = tmp_path / "digests.txt", [tmp_path / f"file{number}" for number in range(20)]
    for file in files:
        file.write_text(file.name)
    os.mkfifo(tmp_path / "slow")
    kept = FileDigests(cache)
    hashing = Thread(target=kept.of_all, args=([tmp_path / "slow", *files],))
    hashing.start()
    deadline_s = time.monotonic() + 20
    while not cache.exists() or len(cache.read_text().split()) < len(files):
        assert time.monotonic() < deadline_s, "no digest is kept while a file is read"
        time.sleep(0.01)
    (tmp_path / "slow").write_text("at last")
    hashing.join()
    assert len(cache.read_text().split()) == len(files) + 1


def test_a_cache_of_files_that_changed_often_is_written_anew(tmp_path: Path) -> None:
    cache, file = tmp_path / "digests.txt", tmp_path / "file"
    file.write_text("one")
    FileDigests(cache).of(file)
    cache.write_text(cache.read_text() * 5000)
    assert FileDigests(cache).of(file) == digest_file(file)
    assert cache.stat().st_size < 1000


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "digests.txt").mkdir()  # as root no permission stops us; a folder of this name does
    file = tmp_path / "file"
    file.write_text("one")
    assert FileDigests(tmp_path / "digests.txt").of(file) == digest_file(file)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digests.txt", "file"]


def test_no_cache_is_written_without_a_store(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    FileDigests(tmp_path / "store" / "cache" / "digests.txt").of(file)
    assert not (tmp_path / "store").exists()


def test_lines_are_counted_while_a_file_is_hashed_and_known_with_its_digest(tmp_path: Path) -> None:
    file, copy, other = (tmp_path / name for name in ("a.jsonl", "copy.jsonl", "b.bin"))
    data = (b"x" * 99 + b"\n") * 50_000 + b"end"  # more than one chunk
    for path in (file, copy, other):
        path.write_bytes(data)
    assert FileDigests(tmp_path / "digests.txt").lines_before(file) is None
    hashed = FileDigests(tmp_path / "digests.txt").of_all([file, other], has_lines=lambda path: path == file)
    assert hashed == [xxhash.xxh3_128_hexdigest(data)] * 2

    before = [data[:place].count(b"\n") for place in range(0, len(data) + STEP_BYTES, STEP_BYTES)]
    kept = FileDigests(tmp_path / "digests.txt")
    assert kept.lines_before(file) == before and len(before) > 20
    assert kept.lines_before(copy) is None  # nobody has read it
    assert kept.of(copy) == hashed[0] and kept.lines_before(copy) == before
    file.write_bytes(data + b"\n")
    assert FileDigests(tmp_path / "digests.txt").lines_before(file) is None


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileDigests(tmp_path / "digests.txt").of(tmp_path / "absent")
