"""Artifacts are complete or absent, whatever happens while they are made."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.errors import ClusterError, disk_full
from pipelines.errors import UserError
from pipelines.store import lease
from pipelines.store.artifacts import Artifact, Draft, Manifest, Store, fingerprint, write_atomically
from tests import small_disk

FINGERPRINT = "0123456789abcdef"
FILES = {"part-0.bin": b"a" * 5000, "folder/manifest.json": b"{}", "名.txt": "中文".encode()}


def manifest(**changes: Any) -> Manifest:
    defaults = {"kind": "corpus", "fingerprint": FINGERPRINT, "stage": "corpus", "name": "corpus", "stage_version": 1,
                "seed": 7, "options": {"length": 256}, "code": "c0de",
                "facts": {"documents/kept": 3, "documents/kept_fraction": 0.1}}  # fmt: skip
    return Manifest.model_validate(defaults | changes)


def filled_draft(store: Store) -> Draft:
    draft = store.draft(FINGERPRINT, wait=False)
    for name, data in FILES.items():
        (draft.out / name).parent.mkdir(exist_ok=True)
        (draft.out / name).write_bytes(data)
    return draft


def make(store: Store) -> Artifact:
    return store.commit(filled_draft(store), manifest())


def files_of(artifact: Artifact) -> dict[str, bytes]:
    files = contents(artifact.local())
    assert json.loads(files.pop("manifest.json"))["fingerprint"] == artifact.fingerprint
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def test_a_committed_artifact_is_found_with_its_files_and_facts(store: Store) -> None:
    assert store.find("corpus", FINGERPRINT) is None
    committed = make(store)
    artifact = Store(store.root).find("corpus", FINGERPRINT)
    assert artifact is not None
    assert artifact.manifest == committed.manifest
    assert artifact.facts == {"documents/kept": 3, "documents/kept_fraction": 0.1}
    files = contents(artifact.local())
    assert json.loads(files.pop("manifest.json"))["kind"] == "corpus"
    assert files == FILES
    assert set(artifact.manifest.files) == set(FILES)
    assert list((store.root / "drafts").iterdir()) == []
    assert [a.fingerprint for a in store.artifacts()] == [FINGERPRINT]
    by_fingerprint = store.by_fingerprint(FINGERPRINT)
    assert by_fingerprint is not None and by_fingerprint.kind == "corpus"
    assert store.by_fingerprint("f" * 16) is None


def test_a_draft_keeps_its_files_from_one_run_to_the_next(store: Store) -> None:
    draft = store.draft(FINGERPRINT, wait=False)
    (draft.folder("blocks") / "1").write_text("one")
    draft.release()
    again = store.draft(FINGERPRINT, wait=False)
    assert (again.folder("blocks") / "1").read_text() == "one"


def test_a_kill_between_any_two_operations_of_commit_leaves_all_or_nothing(tmp_path: Path) -> None:
    """A child process commits and dies at its n-th operation on files, for every n."""
    num_kills = 0
    was_committed = set()
    while True:
        store = Store(tmp_path / str(num_kills)).create()
        if _commit_and_die(store, at=num_kills) == 0:
            break
        artifact = Store(store.root).find("corpus", FINGERPRINT, warn=pytest.fail)
        was_committed.add(artifact is not None)
        if artifact is None:  # the next run finds the draft unchanged, and finishes
            draft = store.draft(FINGERPRINT, wait=False)
            files = contents(draft.out)
            files.pop("manifest.json", None)
            assert files == FILES
            artifact = store.commit(draft, manifest())
        else:
            store.drop_leftover(FINGERPRINT)
        files = contents(artifact.path)
        files.pop("manifest.json")
        assert files == FILES
        assert set(artifact.manifest.files) == set(FILES)
        assert list((store.root / "drafts").iterdir()) == []
        assert list((store.root / "leases").glob("*.json")) == []
        Store(store.root).create()
        assert list((store.root / "cache").glob("dropped-*")) == []
        num_kills += 1
    assert num_kills > 20
    assert was_committed == {True, False}


def test_what_killed_processes_left_unpublished_is_deleted_a_day_after_its_last_write(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    name, day = "0123456789abcdef" * 2, 24 * 3600
    abandoned = [
        f"cache/embeddings/e5/.{name}",
        f"cache/s3/bucket/.objects/.{name}.partial",
        f"cache/s3/bucket/raw/.{name}.partial/file",
        "cache/.digests.json.0123456789ab",
        f"artifacts/model/.{FINGERPRINT}.{name}.partial/a/b",
        f"artifacts/model/.{FINGERPRINT}.{name}.old/a",
    ]
    kept = [
        f"cache/s3/bucket/raw/@{FINGERPRINT}/.{name}",
        f"cache/embeddings/e5/{name}.arrow",
        "cache/logs/.hidden",
        f"artifacts/model/{FINGERPRINT}/.{name}",
    ]
    recent = f"cache/embeddings/e5/.{name[::-1]}", f"cache/files/x/.y.{name}.partial/a/b"
    for path in (*abandoned, *kept, *recent):
        (store.root / path).parent.mkdir(parents=True, exist_ok=True)
        (store.root / path).write_bytes(b"x")
    before = time.time() - day - 60
    for path in store.root.rglob("*"):
        if path.relative_to(store.root).as_posix() not in recent:
            os.utime(path, (before, before))
    store.create()
    left = {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}
    assert left == {*kept, *recent}
    assert not list(store.root.glob("artifacts/model/.*"))


def _commit_and_die(store: Store, *, at: int) -> int:
    """Exit status of a child that commits and dies at its at-th file operation; 0 if the commit finished first."""
    draft = filled_draft(store)
    draft.release()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(120)  # ends a child that hangs
        draft = store.draft(FINGERPRINT, wait=False)
        operations = 0

        def die(event: str, _: tuple[object, ...]) -> None:
            nonlocal operations
            if event == "open" or event.startswith(("os.", "shutil.")):
                if operations == at:
                    os._exit(9)
                operations += 1

        sys.addaudithook(die)
        try:
            store.commit(draft, manifest())
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code


@pytest.mark.parametrize(
    ("inflict", "problem"),
    [
        (lambda path: (path / "part-0.bin").unlink(), "part-0.bin: missing"),
        (lambda path: (path / "part-0.bin").write_bytes(b"short"), "part-0.bin: 5 bytes, the manifest says 5,000"),
        (lambda path: (path / "part-0.bin").write_bytes(b"b" * 5000), "part-0.bin: its bytes do not match"),
        (lambda path: (path / "manifest.json").write_bytes(b'{"kind": "cor'), "manifest.json: not readable"),
        (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe\x00"), "manifest.json: not readable"),
        (lambda path: (path / "manifest.json").write_bytes(b""), "manifest.json: not readable"),
    ],
)
def test_a_damaged_artifact_is_named_and_set_aside(
    store: Store, inflict: Callable[[Path], object], problem: str
) -> None:
    path = make(store).path
    inflict(path)
    damaged = contents(path)
    warnings: list[str] = []
    assert store.find("corpus", FINGERPRINT, warn=warnings.append) is None
    assert len(warnings) == 1 and problem in warnings[0] and "made again" in warnings[0]
    aside = list((store.root / "aside").iterdir())
    assert len(aside) == 1 and str(aside[0]) in warnings[0]
    assert contents(aside[0]) == damaged  # no file is deleted
    assert store.find("corpus", FINGERPRINT, warn=pytest.fail) is None
    assert list(store.artifacts()) == []
    assert make(store).damage() is None


def test_a_folder_without_manifest_counts_as_absent_and_is_replaced(store: Store) -> None:
    path = store.root / "artifacts" / "corpus" / FINGERPRINT
    path.mkdir(parents=True)
    (path / "half").write_text("left by an unknown process")
    assert store.find("corpus", FINGERPRINT, warn=pytest.fail) is None
    assert set(contents(make(store).path)) == {*FILES, "manifest.json"}


def test_a_run_that_lost_its_lease_does_not_commit(store: Store) -> None:
    draft = filled_draft(store)
    lease_file = store.root / "leases" / f"{FINGERPRINT}.json"
    lease_file.write_text(json.dumps({"owner": {"host": "elsewhere", "pid": 1, "started": 1.0}, "beat": 0}))
    with pytest.raises(ClusterError, match="stalled for so long"):
        store.commit(draft, manifest())
    assert store.find("corpus", FINGERPRINT) is None
    assert json.loads(lease_file.read_text())["owner"]["host"] == "elsewhere"


def test_the_lease_is_renewed_while_a_commit_hashes_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.3)
    draft = filled_draft(store)
    file = store.root / "leases" / f"{FINGERPRINT}.json"
    digest = store.digests.of_all

    def slow(paths: Sequence[Path]) -> list[str]:
        before, end = file.read_text(), time.monotonic() + 60
        while file.read_text() == before:
            assert time.monotonic() < end, "no heartbeat"
            time.sleep(0.01)
        return digest(paths)

    monkeypatch.setattr(store.digests, "of_all", slow)
    assert store.commit(draft, manifest()).fingerprint == FINGERPRINT


def test_a_superseded_holder_writes_into_no_file_of_the_new_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old holder is on another machine and is stalled with files open; it goes on after it was taken over."""
    old = filled_draft(store)
    (old.folder("blocks") / "1.parquet").write_text("complete")
    (old.path / "blocks" / "2.partial").write_text("half")
    in_place = (old.out / "part-0.bin").open("r+b")
    partial = (old.path / "blocks" / "2.partial").open("a")
    new = take_over(old, store, monkeypatch)
    taken_over = contents(new.path)
    assert taken_over == {**{f"out/{name}": data for name, data in FILES.items()}, "blocks/1.parquet": b"complete"}

    with in_place, partial:
        in_place.write(b"of the old holder")
        partial.write("of the old holder")
    (old.folder("blocks") / "2.parquet").write_text("of the old holder")
    assert contents(new.path) == taken_over
    with pytest.raises(ClusterError, match="another took it over"):
        store.commit(old, manifest())
    old.release()
    assert new.lease is not None and new.lease.held()
    files = contents(store.commit(new, manifest()).path)
    assert {name: files[name] for name in FILES} == FILES
    assert list((store.root / "drafts").iterdir()) == []


def take_over(old: Draft, store: Store, monkeypatch: pytest.MonkeyPatch) -> Draft:
    """The draft as a second run has it, after the first one, on another machine, was stalled."""
    assert old.lease is not None and old.lease._stop is not None
    old.lease._stop.set()  # no heartbeat
    record, version = old.lease.slot.read()
    assert record is not None
    old.lease.slot.write({**record, "owner": {**record["owner"], "machine": "another"}}, version)
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.1)
    return store.draft(FINGERPRINT, on_message=lambda text: None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_fact_that_is_not_finite_is_refused_before_commit(store: Store, value: float) -> None:
    with pytest.raises(ValueError, match="train/loss_nats is"):
        store.commit(filled_draft(store), manifest(facts={"train/loss_nats": value}))
    assert store.find("corpus", FINGERPRINT) is None


def test_a_leftover_draft_that_a_run_holds_is_kept(store: Store) -> None:
    filled_draft(store)  # leased by this process
    store.drop_leftover(FINGERPRINT)
    assert (store.root / "drafts" / FINGERPRINT / "out").is_dir()
    store.drop_leftover("f" * 16)
    assert not (store.root / "drafts" / ("f" * 16)).exists()


def test_a_store_that_is_not_writable_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file/store: cannot be written \(Not a directory\); choose a writable folder"):
        Store(tmp_path / "file" / "store").create()


@pytest.mark.parametrize("location", ["hdfs://host/store", "http://host/store", "s3:///store"])
def test_a_url_of_another_kind_of_store_is_refused(location: str) -> None:
    with pytest.raises(UserError, match=f"{location}: expected .*s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"):
        Store(location)


FULL = """
import sys
from pathlib import Path
from cluster.errors import disk_full
from pipelines.store.artifacts import Store
from tests.store.test_artifacts import FINGERPRINT, make, manifest
store = Store(sys.argv[1]).create()
make(store)
draft = store.draft("f" * 16, wait=False)
(draft.out / "blob").write_bytes(b"1" * 200_000)
try:
    with (store.root / "filler").open("wb") as file:
        while True:
            file.write(b"1" * 4096)
            file.flush()
except OSError as error:
    assert disk_full(error)
try:
    store.commit(draft, manifest(fingerprint="f" * 16))
except OSError as error:
    assert disk_full(error)
else:
    raise SystemExit("the disk was not full")
assert [p.name for p in draft.out.iterdir()] == ["blob"], "the draft holds no other file"
assert store.find("corpus", FINGERPRINT) is not None, "earlier artifacts stay"
(store.root / "filler").unlink()
store.commit(draft, manifest(fingerprint="f" * 16))
print("went on")
"""


def test_a_full_disk_loses_no_artifact_and_the_commit_succeeds_once_there_is_room(tmp_path: Path) -> None:
    done = small_disk.run_python(tmp_path, "-c", FULL, str(tmp_path / "store"), kilobytes=600)
    assert (done.stdout, done.returncode) == ("went on\n", 0), done.stderr


def test_a_disk_too_full_for_a_store_is_a_cluster_error(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from cluster.errors import ClusterError, disk_full
from pipelines.store.artifacts import Store
try:
    Store(Path(sys.argv[1]) / "store").create()
except ClusterError as error:
    print(error)
"""
    done = small_disk.run_python(tmp_path, "-c", script, str(tmp_path), kilobytes=64, files=4)
    assert done.stdout.startswith(f"store {tmp_path}/store: no space left on the device; free some"), done.stderr


def test_writing_atomically_leaves_the_old_text_or_the_new(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file.json"
    write_atomically(file, "one")
    write_atomically(file, "two 中文")
    assert file.read_text(encoding="utf-8") == "two 中文"
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "half a pair: \ud800")
    assert file.read_text(encoding="utf-8") == "two 中文"
    assert [p.name for p in file.parent.iterdir()] == ["file.json"]


def test_a_fingerprint_depends_on_its_parts_and_not_on_their_order() -> None:
    assert fingerprint(a=1, b={"x": 1, "y": 2}) == fingerprint(b={"y": 2, "x": 1}, a=1)
    assert fingerprint(a=1) != fingerprint(a=2)
    assert len(fingerprint(a=1)) == 16


def test_a_full_disk_is_recognised_by_errno_or_by_message() -> None:
    from safetensors import SafetensorError

    assert disk_full(OSError(errno.ENOSPC, "")) and disk_full(OSError(errno.EDQUOT, ""))
    assert disk_full(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not disk_full(OSError(errno.EACCES, "Permission denied"))


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_published_files_have_the_mode_of_new_ones(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "store").create()
        draft = filled_draft(store)
        save_file({"weight": np.zeros(3, np.float32)}, draft.out / "folder" / "model.safetensors")  # 0600, by itself
        artifact = store.commit(draft, manifest())
        write_atomically(tmp_path / "text", "x")
    finally:
        os.umask(before)
    files = [path for path in artifact.path.rglob("*") if path.is_file()]
    modes = {path.name: path.stat().st_mode & 0o777 for path in [*files, tmp_path / "text"]}
    assert len(modes) == len(FILES) + 2 and set(modes.values()) == {0o666 & ~umask}, modes
    assert artifact.damage() is None
