"""A store of objects, over HTTP: complete or absent, one holder at a time, and nothing lost with a machine but time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.objects import Objects
from pipelines.store.artifacts import Store
from pipelines.store.remote import upload
from pipelines.store.runs import RunRecord, latest, resolve
from pipelines.verbs.inspect import show_store
from serve.gateway.receipts import open_key, shared_key
from tests.object_server import Disturbance, Machines, keys, needs_server
from tests.runs import wait_until
from tests.store.test_artifacts import FILES, FINGERPRINT, files_of, filled_draft, make, manifest

pytestmark = needs_server
ROOT = Path(__file__).parents[2]
ELSEWHERE = {"host": "elsewhere", "pid": os.getpid(), "started": 1.0, "machine": "another", "nonce": "1"}


def test_an_artifact_is_read_on_another_machine(machines: Machines, proxy: Disturbance) -> None:
    first = machines.store("one")
    assert first.find("corpus", FINGERPRINT) is None
    committed = make(first)
    puts = [path.rpartition("/")[2] for method, path in proxy.requests if method == "PUT" and "/artifacts/" in path]
    assert len(puts) == len(FILES) + 1 and puts[-1] == "manifest.json", "the manifest is put last"
    assert keys(first, "leases") == keys(first, "drafts") == []

    second = machines.store("two")
    artifact = second.find("corpus", FINGERPRINT)
    assert artifact is not None and artifact.manifest == committed.manifest
    assert not artifact.path.exists(), "it is brought where it is used"
    assert files_of(artifact) == FILES
    assert [a.fingerprint for a in second.artifacts()] == [FINGERPRINT]
    by_fingerprint = second.by_fingerprint(FINGERPRINT)
    assert by_fingerprint is not None and by_fingerprint.location == artifact.location
    assert artifact.location == f"{second.location}/artifacts/corpus/{FINGERPRINT}"
    gets = len(proxy.requests)
    assert files_of(artifact) == FILES
    assert len(proxy.requests) == gets, "it is here already"


def test_one_file_is_brought_without_the_others(machines: Machines, proxy: Disturbance) -> None:
    make(machines.store("one"))
    artifact = machines.store("two").find("corpus", FINGERPRINT)
    assert artifact is not None
    file = artifact.file("folder/manifest.json")
    assert file is not None and file.read_bytes() == FILES["folder/manifest.json"]
    assert artifact.file("absent") is None
    assert not any(method == "GET" and "part-0.bin" in path for method, path in proxy.requests)


def test_two_that_bring_one_artifact_bring_it_once(machines: Machines, proxy: Disturbance) -> None:
    make(machines.store("one"))
    other = machines.store("two")
    found = [other.find("corpus", FINGERPRINT) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        brought = list(pool.map(lambda artifact: artifact and files_of(artifact), found))
    assert brought == [FILES] * 4
    assert sum(method == "GET" and "part-0.bin" in path for method, path in proxy.requests) == 1


def test_one_artifact_is_found_without_listing_the_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    monkeypatch.setattr(Objects, "list", lambda self, prefix: pytest.fail(f"lists {prefix}"))
    found = store.by_fingerprint(FINGERPRINT)
    assert found is not None and found.kind == "corpus"
    assert store.by_fingerprint("0" * 16) is None
    assert store.exists()


def test_ls_shows_drafts_and_not_the_leases_of_sweeps(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (FINGERPRINT, "sweep-20250102"):
        slot = store.lease(name, name).slot
        assert slot.write({"owner": ELSEWHERE, "beat": 0}, None) is not None
    show_store(store, as_json=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("draft")]
    assert len(lines) == 1
    assert lines[0].startswith(f"draft {FINGERPRINT}: last held by process {os.getpid()} on elsewhere")


def test_files_without_a_manifest_are_no_artifact(store: Store) -> None:
    assert store.remote is not None
    store.remote.objects.put(f"artifacts/corpus/{FINGERPRINT}/0000/part-0.bin", b"a" * 5000)
    assert store.find("corpus", FINGERPRINT, warn=pytest.fail) is None
    assert list(store.artifacts()) == []
    assert files_of(make(store)) == FILES


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("part-0.bin", None, "part-0.bin: missing"),
        ("part-0.bin", b"short", "part-0.bin: 5 bytes, the manifest says 5,000"),
        ("../manifest.json", b'{"kind": "cor', "manifest.json: not readable as a manifest"),
    ],
)
def test_a_damaged_artifact_is_named_and_set_aside(store: Store, name: str, data: bytes | None, problem: str) -> None:
    artifact = make(store)
    objects = Objects(f"{artifact.location}/{artifact.manifest.folder}" if "/" not in name else artifact.location)
    if data is None:
        objects.delete([name])
    else:
        objects.put(name.removeprefix("../"), data)
    before = keys(store, "artifacts")
    warnings: list[str] = []
    assert store.find("corpus", FINGERPRINT, warn=warnings.append) is None
    assert len(warnings) == 1 and "s3://bucket/" in warnings[0] and problem in warnings[0]
    assert len(keys(store, "aside")) == 1
    assert set(before) - set(keys(store, "artifacts")) == {f"artifacts/corpus/{FINGERPRINT}/manifest.json"}
    assert store.find("corpus", FINGERPRINT, warn=pytest.fail) is None
    assert make(store).damage() is None


def test_other_bytes_of_the_same_size_are_noticed_when_they_are_brought(machines: Machines) -> None:
    artifact = make(machines.store("one"))
    Objects(f"{artifact.location}/{artifact.manifest.folder}").put("part-0.bin", b"b" * 5000)
    other = machines.store("two").find("corpus", FINGERPRINT)
    assert other is not None
    with pytest.raises(ClusterError, match=r"s3://bucket/.*/part-0.bin: its bytes are not those .*--force"):
        other.local()
    assert not other.path.exists() and list(other.path.parent.iterdir()) == []


def test_files_that_another_node_sees_with_other_bytes_make_no_artifact(store: Store) -> None:
    def put_elsewhere(objects: Objects, files: Mapping[Path, str]) -> dict[Path, str]:
        for file in files:
            file.write_bytes(b"-" * file.stat().st_size)
        return upload(objects, files)

    draft = replace(filled_draft(store), put=put_elsewhere)
    with pytest.raises(ClusterError, match=r"its bytes were others when it was put as an object"):
        store.commit(draft, manifest())
    assert keys(store, "artifacts") == []


# Commits to the store that each line of its input names, in a process of its own: a fork of one that has imported our
# code but has opened no store, since obstore's threads would not survive. Prints its id, and how it ended.
COMMITS = """
import os, signal, sys
from pipelines.store.artifacts import Store
from tests.store.test_artifacts import filled_draft, manifest
for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm(120)  # ends a child that hangs
    try:
        store = Store(line.strip()).create()
        draft = filled_draft(store)
        assert draft.snapshots is not None and draft.snapshots.take()
        store.commit(draft, manifest())
    except BaseException:
        os._exit(1)
    os._exit(0)
"""


@pytest.fixture
def commits(machines: Machines) -> Iterator[subprocess.Popen[str]]:
    machines.store("killed")  # its scratch folder is that of these processes
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", COMMITS], cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_kill_at_any_request_of_a_run_leaves_all_or_nothing(
    machines: Machines, proxy: Disturbance, commits: subprocess.Popen[str]
) -> None:
    """A process takes a snapshot, commits, and is killed at its n-th writing request, for every n."""
    assert commits.stdin and commits.stdout
    number, was_committed = 0, set()
    while True:
        machines.url = f"{machines.url.rpartition('/')[0]}/kill-{number}"
        store = machines.store("killed")
        pids: list[int] = []
        written = 0

        def kill(method: str, path: str, pids: list[int] = pids, at: int = number) -> str:
            nonlocal written
            if method != "GET" and method != "HEAD":
                written += 1
                if written == at + 1:
                    wait_until(lambda: pids)
                    os.kill(pids[0], signal.SIGKILL)
                    wait_until(lambda: not psutil.pid_exists(pids[0]))
            return "pass"

        proxy.decide = kill
        commits.stdin.write(f"{machines.url}\n")
        commits.stdin.flush()
        pids.append(int(commits.stdout.readline()))
        code = int(commits.stdout.readline())
        assert code in (0, -signal.SIGKILL)
        proxy.decide = lambda method, path: "pass"
        proxy.wait_until_idle()
        other = machines.store(f"other-{number}")
        artifact = other.find("corpus", FINGERPRINT, warn=pytest.fail)
        was_committed.add(artifact is not None)
        if artifact is None:
            artifact = store.commit(filled_draft(store), manifest())
        else:
            store.drop_leftover(FINGERPRINT)
        assert files_of(artifact) == FILES
        assert keys(store, "leases") == keys(store, "drafts") == []
        assert list((store.root / "drafts").iterdir()) == []
        if code == 0:
            break
        number += 1
    assert number > 8
    assert was_committed == {True, False}


@pytest.mark.parametrize("failure", ["slow down", "cut"])
def test_a_server_that_fails_for_a_while_is_asked_again(machines: Machines, proxy: Disturbance, failure: str) -> None:
    """Each request fails once: 503 SlowDown, or a reply that ends after half of its bytes."""
    failed: set[tuple[str, str]] = set()

    def decide(method: str, path: str) -> str:
        if (method, path) in failed or (failure == "cut" and method != "GET"):
            return "pass"
        failed.add((method, path))
        return failure

    proxy.decide = decide
    make(machines.store("one"))
    artifact = machines.store("two").find("corpus", FINGERPRINT)
    assert artifact is not None and files_of(artifact) == FILES
    assert failed


@pytest.mark.parametrize("failure", ["slow down", "cut", "lose"])
def test_a_server_that_keeps_failing_is_an_error_that_names_the_object(
    machines: Machines, proxy: Disturbance, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(machines.store("one"))
    monkeypatch.setattr(Objects.__init__, "__kwdefaults__", {"retry_s": 2.0})
    other = machines.store("two").find("corpus", FINGERPRINT)
    assert other is not None
    proxy.decide = lambda method, path: failure if "part-0.bin" in path else "pass"
    with pytest.raises(ClusterError, match=r"s3://bucket/.*/part-0.bin: cannot be read, tried again .*same command"):
        other.local()
    assert not other.path.exists() and list(other.path.parent.iterdir()) == []
    proxy.decide = lambda method, path: "pass"
    assert files_of(other) == FILES


def test_a_lost_answer_to_a_heartbeat_does_not_lose_the_lease(store: Store, proxy: Disturbance) -> None:
    draft = store.draft(FINGERPRINT)
    assert draft.lease is not None
    lost: list[str] = []

    def decide(method: str, path: str) -> str:
        if method == "PUT" and not lost:
            lost.append(path)
            return "lose"
        return "pass"

    proxy.decide = decide
    assert draft.lease.held()
    assert lost and draft.lease.held()
    store.drop(draft)


def test_a_wrong_bucket_and_wrong_credentials_are_user_errors(
    store: Store, proxy: Disturbance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="s3://absent/x: there is no bucket s3://absent; expected one that exists"):
        Store("s3://absent/x").create()
    with pytest.raises(UserError, match="there is no bucket s3://absent"):
        Store("s3://absent/x").find("corpus", FINGERPRINT)
    proxy.decide = lambda method, path: "deny"
    with pytest.raises(UserError, match=r"s3://bucket/x: .* the server refused the credentials; .* AWS_ACCESS_KEY_ID"):
        Store("s3://bucket/x").create()
    proxy.decide = lambda method, path: "pass"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # a machine without a role
    monkeypatch.setattr(Objects.__init__, "__kwdefaults__", {"retry_s": 1.0})
    with pytest.raises(UserError, match=r"cannot be listed: there are no credentials; .* Set AWS_ACCESS_KEY_ID"):
        Store("s3://bucket/x").create()


# ---- records ---------------------------------------------------------------------------------------------------------


def test_records_of_runs_are_read_on_another_machine(machines: Machines) -> None:
    store = machines.store("one")
    with pytest.raises(UserError, match=f"store {store.location}: no run yet"):
        latest(store)
    RunRecord.begin(store, recipe="first", path=Path("first.yaml"), seed=1).end(store, "done")
    RunRecord.begin(store, recipe="second", path=Path("second.yaml"), seed=1)
    make(store)
    other = machines.store("two")
    assert latest(other).recipe == "second"
    assert latest(other, "first").outcome == "done"
    assert resolve(other, FINGERPRINT[:6]).fingerprint == FINGERPRINT


def test_all_machines_sign_receipts_with_one_key(machines: Machines) -> None:
    places = [(machines.store(name).root / "receipts.key", machines.url) for name in ("one", "two", "three")]
    earlier = open_key(places[1][0])  # of a server that was the only one
    assert shared_key(*places[1]) == earlier
    assert {shared_key(*place) for place in places} == {earlier}
    assert not places[2][0].exists(), "only the first machine makes a key"
    machines.store("one").write("receipts.key", "no key")
    with pytest.raises(UserError, match=f"{machines.url}/receipts.key: expected a key of 32 bytes"):
        shared_key(*places[0])
