"""Which files tasks of a cluster hash and bring, and what is left where they fail. A local Ray is the cluster."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.session import Session
from pipelines.data.sources.object_files import Version
from pipelines.objects import Entry
from pipelines.recipe import reader
from pipelines.run import transfers
from pipelines.run.progress import RunLog
from pipelines.run.transfers import FILE_BYTES, TASK_BYTES, hash_files, prepare
from pipelines.run.walk import Walk
from pipelines.store import digests
from pipelines.store.digests import FileDigests
from tests.toy_stages import TABLE, TEXT, ToyProject

NUM_FILES = 13


@pytest.fixture
def joined(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session of the local Ray that takes it for a cluster. This process hashes no file of `raw`."""
    digest_file = digests.digest_file

    def refuse(path: Path, *rest: Any) -> str:
        return pytest.fail(f"{path}: hashed by the driver") if "raw" in path.parts else digest_file(path, *rest)

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # what `local` looks at; who is connected already does not join it
    monkeypatch.setattr(digests, "digest_file", refuse)
    joined = Session(on_message=str)
    assert not joined.local
    yield joined
    joined.stop()


def files_in(folder: Path, number: int) -> list[Path]:
    """So many small files, of different bytes."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{n:02}.txt" for n in range(number)]
    for file in files:
        file.write_text(file.name)
    return files


def test_small_files_are_hashed_by_tasks_if_all_together_are_worth_it(
    joined: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few of them are looked up at once, and also those that are left over."""
    monkeypatch.setattr(transfers, "LOOKED_UP", 4)
    monkeypatch.setattr(transfers, "MIN_BYTES", 6 * FILE_BYTES)
    files, kept = files_in(tmp_path / "raw", NUM_FILES), FileDigests(tmp_path / "digests.txt")
    log = RunLog(output := io.StringIO())
    hash_files(((file, False) for file in files[:5]), kept, joined, log)
    assert len(kept.unknown(files)) == NUM_FILES and not joined.started
    hash_files(((file, False) for file in files), kept, joined, log)
    assert kept.unknown(files) == [] and kept.of(files[-1]) == digests.xxhash.xxh3_128_hexdigest(b"12.txt")
    assert output.getvalue().splitlines()[-1] == "  13 of 13 files hashed"
    joined.stop()
    hash_files(((file, False) for file in [*files, *files_in(tmp_path / "more", 5)]), kept, joined, log)
    assert not joined.started  # what is known already does not count


def test_sources_of_stages_after_the_last_one_are_not_hashed(
    joined: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "MIN_BYTES", 1)
    project = ToyProject(tmp_path)
    source = "\n  chats: {kind: jsonl, path: raw.jsonl, rows: conversations}"
    recipe = TEXT.replace("STORE", str(project.store.root)).replace("books.txt}", "raw}" + source)
    project.file.write_text(recipe + "  conversations: {}\n")
    (chats := tmp_path / "raw.jsonl").write_text('{"prompt": "Hi", "reply": "Hello"}\n')
    files, kept = files_in(tmp_path / "raw", 3), project.store.create().digests
    prepare(reader.load(project.file, TABLE), kept, joined, RunLog(io.StringIO()), until="tokens")
    assert [path for path, _, _ in kept.unknown([*files, chats])] == [str(chats)]
    prepare(reader.load(project.file, TABLE), kept, joined, RunLog(io.StringIO()))
    assert kept.unknown([*files, chats]) == []


def test_a_run_goes_on_where_tasks_that_hash_are_lost(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import WorkerCrashedError

    def lost(*arguments: Any) -> Iterator[Any]:
        raise WorkerCrashedError

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(transfers, "MIN_BYTES", 1)
    monkeypatch.setattr(transfers, "_in_tasks", lost)
    project, joined = ToyProject(tmp_path), Session(on_message=str)
    record = Walk(reader.load(project.file, TABLE), project.store.create(), joined, RunLog(project.output)).run()
    assert record.outcome == "done" and joined.started
    assert "a task that hashes files was lost (WorkerCrashedError: " in project.output.getvalue()


def test_each_large_file_has_a_task_of_its_own() -> None:
    sizes = [("a", 60 << 20), ("large", 10 << 30), ("b", 1), ("c", 10 << 20), ("as large", TASK_BYTES)]
    assert transfers._dealt(sizes, 8) == [["large"], ["as large"], ["a", "b", "c"]]


def test_objects_that_cannot_be_kept_leave_no_file(
    joined: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the digest is recorded: of all that a task has brought, none stays under another name."""
    folder = tmp_path / ".objects"
    folder.mkdir()
    (folder / "digests.jsonl").symlink_to("/dev/full")
    versions = [Version("s3://bucket", Entry(name, 3, ""), folder / name) for name in "abc"]

    def brought(function: Any, sizes: Sequence[tuple[Version, int]], *rest: Any, **more: Any) -> Iterator[Any]:
        partials = [version.file.with_name(f".{version.file.name}.partial") for version, _ in sizes]
        for partial in partials:
            partial.write_bytes(b"abc")
        yield [(version, partial, "00") for (version, _), partial in zip(sizes, partials, strict=True)]

    class Missing:
        def missing_objects(self) -> list[Version]:
            return versions

    monkeypatch.setattr(transfers, "_in_tasks", brought)
    with pytest.raises(OSError, match="No space left on device"):
        transfers.bring_objects([Missing()], joined, RunLog(io.StringIO()))  # type: ignore[list-item]
    (partial := folder / ".a.partial").write_bytes(b"abc")
    with pytest.raises(OSError, match="No space left on device"):
        versions[0].keep(partial, "00")
    assert [file.name for file in folder.iterdir()] == ["digests.jsonl"]
