"""Artifacts are complete or absent, whatever happens while they are made."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from cluster.errors import ClusterError, disk_full
from pipelines.errors import UserError
from pipelines.store.artifacts import Artifact, Manifest, Store, fingerprint, write_atomically
from tests import small_disk

PRINT = "0123456789abcdef"
FILES = {"part-0.bin": b"a" * 5000, "folder/manifest.json": b"{}", "名.txt": "中文".encode()}


def manifest(**changes) -> Manifest:
    known = {"kind": "corpus", "fingerprint": PRINT, "stage": "corpus", "name": "corpus", "stage_version": 1, "seed": 7,
             "options": {"length": 256}, "code": "c0de", "facts": {"documents/kept": 3, "share": 0.1}}  # fmt: skip
    return Manifest.model_validate(known | changes)


def fill(store: Store):
    draft = store.draft(PRINT, wait=False)
    for name, data in FILES.items():
        (draft.out / name).parent.mkdir(exist_ok=True)
        (draft.out / name).write_bytes(data)
    return draft


def make(store: Store) -> Artifact:
    return store.commit(fill(store), manifest())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def test_what_is_committed_is_found_with_its_files_and_facts(store: Store) -> None:
    assert store.find("corpus", PRINT) is None
    made = make(store)
    found = Store(store.root).find("corpus", PRINT)
    assert found is not None
    assert found.manifest == made.manifest
    assert found.facts == {"documents/kept": 3, "share": 0.1}
    own = contents(found.local())
    assert json.loads(own.pop("manifest.json"))["kind"] == "corpus"
    assert own == FILES
    assert set(found.manifest.files) == set(FILES)
    assert list((store.root / "drafts").iterdir()) == []
    assert [a.fingerprint for a in store.artifacts()] == [PRINT]
    by_print = store.by_fingerprint(PRINT)
    assert by_print is not None and by_print.kind == "corpus"
    assert store.by_fingerprint("f" * 16) is None


def test_a_draft_keeps_its_files_from_one_run_to_the_next(store: Store) -> None:
    draft = store.draft(PRINT, wait=False)
    (draft.folder("blocks") / "1").write_text("one")
    draft.release()
    again = store.draft(PRINT, wait=False)
    assert (again.folder("blocks") / "1").read_text() == "one"


def test_a_kill_between_any_two_operations_of_commit_leaves_all_or_nothing(tmp_path: Path) -> None:
    """A child process commits and dies at its n-th operation on files, for every n."""
    killed, undisturbed = 0, FILES
    outcomes = set()
    while True:
        store = Store(tmp_path / str(killed)).create()
        if _commit_and_die(store, at=killed) == 0:
            break
        found = Store(store.root).find("corpus", PRINT, warn=pytest.fail)
        outcomes.add(found is not None)
        if found is None:  # the next run finds the draft as it was, and finishes
            draft = store.draft(PRINT, wait=False)
            own = contents(draft.out)
            own.pop("manifest.json", None)
            assert own == undisturbed
            found = store.commit(draft, manifest())
        else:
            store.drop_remains(PRINT)
        own = contents(found.path)
        own.pop("manifest.json")
        assert own == undisturbed
        assert set(found.manifest.files) == set(undisturbed)
        assert list((store.root / "drafts").iterdir()) == []
        Store(store.root).create()
        assert list((store.root / "cache").glob("dropped-*")) == []
        killed += 1
    assert killed > 20
    assert outcomes == {True, False}


def _commit_and_die(store: Store, *, at: int) -> int:
    """The exit status of a child that was ended at its at-th operation on files while it committed, or 0."""
    draft = fill(store)
    draft.release()
    child = os.fork()
    if child == 0:
        draft = store.draft(PRINT, wait=False)
        operations = 0

        def die(event: str, _) -> None:
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
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda place: (place / "part-0.bin").unlink(), "part-0.bin: missing"),
        (lambda place: (place / "part-0.bin").write_bytes(b"short"), "part-0.bin: 5 bytes, the manifest says 5,000"),
        (lambda place: (place / "part-0.bin").write_bytes(b"b" * 5000), "part-0.bin: its bytes do not match"),
        (lambda place: (place / "manifest.json").write_bytes(b'{"kind": "cor'), "manifest.json: not readable"),
        (lambda place: (place / "manifest.json").write_bytes(b"\xff\xfe\x00"), "manifest.json: not readable"),
        (lambda place: (place / "manifest.json").write_bytes(b""), "manifest.json: not readable"),
    ],
)
def test_a_damaged_artifact_is_named_and_set_aside(store: Store, harm, problem: str) -> None:
    place = make(store).path
    harm(place)
    left = contents(place)
    said: list[str] = []
    assert store.find("corpus", PRINT, warn=said.append) is None
    assert len(said) == 1 and problem in said[0] and "made again" in said[0]
    aside = list((store.root / "aside").iterdir())
    assert len(aside) == 1 and str(aside[0]) in said[0]
    assert contents(aside[0]) == left  # nothing is deleted
    assert store.find("corpus", PRINT, warn=pytest.fail) is None
    assert list(store.artifacts()) == []
    assert make(store).damage() is None


def test_a_folder_without_manifest_is_absent_and_gives_way(store: Store) -> None:
    place = store.root / "artifacts" / "corpus" / PRINT
    place.mkdir(parents=True)
    (place / "half").write_text("left by nobody knows what")
    assert store.find("corpus", PRINT, warn=pytest.fail) is None
    assert set(contents(make(store).path)) == {*FILES, "manifest.json"}


def test_a_run_that_lost_its_lease_does_not_commit(store: Store) -> None:
    draft = fill(store)
    (draft.path / "lease.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1.0}))
    with pytest.raises(ClusterError, match="stood still for so long"):
        store.commit(draft, manifest())
    assert store.find("corpus", PRINT) is None
    assert (draft.path / "lease.json").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_fact_that_is_no_number_is_refused_before_anything_is_committed(store: Store, value: float) -> None:
    with pytest.raises(ValueError, match="train/loss_nats is"):
        store.commit(fill(store), manifest(facts={"train/loss_nats": value}))
    assert store.find("corpus", PRINT) is None


def test_remains_that_a_run_works_on_are_left_alone(store: Store) -> None:
    fill(store)  # leased by this very process
    store.drop_remains(PRINT)
    assert (store.root / "drafts" / PRINT / "out").is_dir()
    store.drop_remains("f" * 16)
    assert not (store.root / "drafts" / ("f" * 16)).exists()


def test_a_store_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file/store: cannot be written \(Not a directory\); choose a writable folder"):
        Store(tmp_path / "file" / "store").create()


@pytest.mark.parametrize("root", ["s3://bucket/store", "gs://bucket"])
def test_an_object_store_is_refused(root: str) -> None:
    with pytest.raises(UserError, match=f"store {root}: object stores are not supported yet"):
        Store(root)


FULL = """
import sys
from pathlib import Path
from cluster.errors import disk_full
from pipelines.store import Store
from tests.test_store import PRINT, fill, make, manifest
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
assert [p.name for p in draft.out.iterdir()] == ["blob"], "the draft holds only its own"
assert store.find("corpus", PRINT) is not None, "what was there stays"
(store.root / "filler").unlink()
store.commit(draft, manifest(fingerprint="f" * 16))
print("went on")
"""


def test_a_full_disk_loses_nothing_and_the_commit_goes_on_once_there_is_room(tmp_path: Path) -> None:
    done = small_disk.run_python(tmp_path, "-c", FULL, str(tmp_path / "store"), kilobytes=600)
    assert (done.stdout, done.returncode) == ("went on\n", 0), done.stderr


def test_a_disk_too_full_for_a_store_is_the_machines_failure(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from cluster.errors import ClusterError, disk_full
from pipelines.store import Store
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


def test_a_fingerprint_stands_for_its_parts() -> None:
    assert fingerprint(a=1, b={"x": 1, "y": 2}) == fingerprint(b={"y": 2, "x": 1}, a=1)
    assert fingerprint(a=1) != fingerprint(a=2)
    assert len(fingerprint(a=1)) == 16


def test_a_full_disk_is_known_by_number_or_by_words() -> None:
    from safetensors import SafetensorError

    assert disk_full(OSError(errno.ENOSPC, "")) and disk_full(OSError(errno.EDQUOT, ""))
    assert disk_full(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not disk_full(OSError(errno.EACCES, "Permission denied"))
