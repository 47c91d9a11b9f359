"""Objects of a recipe's sources are brought by the nodes of a cluster: none of their bytes reaches the driver."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

import psutil
import pytest

from pipelines.data.sources import object_files
from pipelines.data.sources.ranges import RANGE_BYTES
from pipelines.objects import Objects
from pipelines.recipe import reader
from pipelines.stages import STAGES
from pipelines.store.digests import digest_file
from pipelines.store.runs import resolve
from pipelines.verbs.run import run_recipe
from tests import runs
from tests.cluster.conftest import ROOT, Head, running_head
from tests.object_server import Disturbance, disturbed, needs_server, serving
from tests.stages.corpus_work import english
from tests.toy_stages import TEXT, ToyProject

pytestmark = needs_server

NUM_OBJECTS, OBJECT_BYTES = 12, 2_000_000
TOYS = ("-m", "tests.toy_stages", "run")


@dataclass
class Bucket:
    """A bucket, the proxy before it, and two nodes that reach it."""

    proxy: Disturbance
    head: Head
    variables: dict[str, str]
    moved: Counter[int] = field(default_factory=Counter)  # bytes of requests and replies by process
    parents: dict[int, int] = field(default_factory=dict)  # of each process: of a worker, the raylet of its node

    def count(self, port: int, sent: int, received: int) -> None:
        """Counts bytes for the process that waits for a reply, if it still lives."""
        proxy = int(self.proxy.url.rpartition(":")[2])
        for each in psutil.net_connections("tcp4"):
            if each.pid and (each.laddr[-1:], each.raddr[-1:]) == ((port,), (proxy,)):
                self.moved[each.pid] += sent + received
                self.parents[each.pid] = psutil.Process(each.pid).ppid()

    def asking(self) -> list[int]:
        """The workers that wait for an object, on either node."""
        proxy = int(self.proxy.url.rpartition(":")[2])
        pids = {each.pid for each in psutil.net_connections("tcp4") if each.pid and each.raddr[-1:] == (proxy,)}
        return [pid for pid in pids if psutil.Process(pid).cmdline()[:1] == ["ray::fetch"]]

    def by_drivers(self) -> int:
        """Bytes of the processes that this one has started."""
        return sum(num_bytes for pid, num_bytes in self.moved.items() if self.parents[pid] == os.getpid())

    def by_nodes(self) -> dict[int, int]:
        """Bytes of the workers, by the raylet of their node."""
        nodes: Counter[int] = Counter()
        for pid, num_bytes in self.moved.items():
            if os.getpid() not in (pid, self.parents[pid]):
                nodes[self.parents[pid]] += num_bytes
        return nodes

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[str]:
        """Starts Python with arguments that are a command of `rayse`, on the cluster."""
        command = [sys.executable, *arguments, "--address", self.head.address]
        environment = {**os.environ, **self.variables, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log.open("a"), text=True
        )


def finish(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    """Waits for a run and returns its record."""
    out, _ = process.communicate(timeout=runs.TIMEOUT_S)
    assert process.returncode == 0, log.read_text()[-6000:]
    return json.loads(out)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with serving() as server, disturbed(server) as proxy:
        variables = {**server.environment, "AWS_ENDPOINT_URL": proxy.url}
        with running_head(tmp_path_factory.mktemp("head"), variables) as head, head.another_node():
            bucket = Bucket(proxy, head, variables)
            proxy.watch = bucket.count
            yield bucket


@pytest.fixture
def project(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    """A recipe of toy stages whose texts are objects; the same texts are files in tmp_path/raw."""
    for name, value in bucket.variables.items():
        monkeypatch.setenv(name, value)
    url = f"s3://bucket/{tmp_path.name}"
    (tmp_path / "raw").mkdir()
    for number in range(NUM_OBJECTS):
        data = f"{number} {'words ' * (OBJECT_BYTES // 6)}".encode()
        (tmp_path / "raw" / f"{number:02}.txt").write_bytes(data)
        Objects(url).put(f"raw/{number:02}.txt", data)
    project = ToyProject(tmp_path)
    project.file.write_text(TEXT.replace("STORE", str(project.store.root)).replace("books.txt", f"{url}/raw"))
    bucket.moved.clear()
    bucket.proxy.requests.clear()
    bucket.proxy.decide = lambda method, path: "pass"
    return project


def gets(requests: list[tuple[str, str]]) -> list[str]:
    """The names of the objects that were asked for, from the requests."""
    return [path.rsplit("/", 1)[1] for method, path in requests if method == "GET" and path.endswith(".txt")]


def test_nodes_bring_objects_and_a_run_that_was_killed_brings_the_rest(bucket: Bucket, project: ToyProject) -> None:
    log, release, proxy = project.folder / "log", Event(), bucket.proxy

    def hold_the_ninth(method: str, path: str) -> str:
        if len(gets(proxy.requests)) > 8:
            release.wait(timeout=600)
        return "pass"

    proxy.decide = hold_the_ninth
    process = bucket.start(*TOYS, str(project.file), "--json", log=log)
    folder = project.store.root / "cache" / "sources" / "s3" / "bucket" / object_files.VERSIONS

    def num_kept() -> int:
        return len(list(folder.glob("?" * 16)))

    runs.wait_until(lambda: len(gets(proxy.requests)) > 8 and num_kept() > 3, process, log=log)
    runs.kill_driver(process)
    kept = num_kept()
    release.set()
    proxy.wait_until_idle()
    assert 3 < kept < NUM_OBJECTS
    before = len(proxy.requests)
    proxy.decide = lambda method, path: "pass"
    process = bucket.start(*TOYS, str(project.file), "--json", log=log)
    record = finish(process, log)
    again = gets(proxy.requests[before:])
    assert len(again) == len(set(again)) == NUM_OBJECTS - kept
    assert bucket.by_drivers() < 50_000  # lists
    assert sum(bucket.by_nodes().values()) >= NUM_OBJECTS * OBJECT_BYTES
    assert len(bucket.by_nodes()) == 2
    local = project.folder / "local"
    local.mkdir()
    same = ToyProject(local)
    same.file.write_text(TEXT.replace("STORE", str(same.store.root)).replace("books.txt", "../raw"))
    assert record["stages"]["corpus"]["fingerprint"] == same.run().stages["corpus"].fingerprint


def test_objects_of_workers_that_die_are_brought_by_others(bucket: Bucket, project: ToyProject) -> None:
    log, proxy, killed, one_at_a_time = project.folder / "log", bucket.proxy, list[int](), Lock()

    def kill_those_that_ask(method: str, path: str) -> str:
        with one_at_a_time:
            if method == "GET" and path.endswith(".txt") and not killed:
                killed.extend(bucket.asking())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
        return "pass"

    proxy.decide = kill_those_that_ask
    record = finish(bucket.start(*TOYS, str(project.file), "--json", log=log), log)
    assert killed and record["outcome"] == "done"
    asked = Counter(gets(proxy.requests))
    assert len(asked) == NUM_OBJECTS < asked.total()
    copies = (project.store.root / "cache" / "sources").rglob("@*/*.txt")
    texts = sorted((project.folder / "raw").iterdir())
    assert [copy.read_bytes() for copy in sorted(copies)] == [text.read_bytes() for text in texts]


def test_an_object_that_is_replaced_while_it_is_brought_ends_the_run_and_the_next_one_is_whole(
    bucket: Bucket, project: ToyProject
) -> None:
    log, proxy, replaced = project.folder / "log", bucket.proxy, list[str]()

    def replace_one(method: str, path: str) -> str:
        if method == "GET" and path.endswith("/07.txt") and not replaced:
            replaced.append(path)
            Objects(f"s3://bucket/{project.folder.name}/raw").put("07.txt", b"another text")
        return "pass"

    proxy.decide = replace_one
    process = bucket.start(*TOYS, str(project.file), "--json", log=log)
    process.communicate(timeout=runs.TIMEOUT_S)
    assert process.returncode == 3
    assert f"s3://bucket/{project.folder.name}/raw/07.txt: changed while it was read" in log.read_text()
    finish(bucket.start(*TOYS, str(project.file), "--json", log=log), log)
    (copy,) = (project.store.root / "cache" / "sources").rglob("@*/07.txt")
    assert copy.read_bytes() == b"another text"


DRIVER = """
import runpy, sys
from pipelines.run import transfers
from pipelines.store import digests, snapshots

digest_file = digests.digest_file

def refuse(path):
    if {"raw", "drafts", "artifacts"} & set(path.parts):
        raise OSError(f"{path}: hashed by the driver")
    return digest_file(path)  # code

digests.digest_file = refuse
transfers.MIN_BYTES = transfers.SMALL_BYTES = 1
snapshots.PERIOD_S = 0.3
sys.argv[0] = "-m"
runpy.run_module("tests.toy_stages", run_name="__main__", alter_sys=True)
"""


def test_nodes_hash_files_and_put_those_of_artifacts(
    bucket: Bucket, project: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver, which would fail if it hashed a file of these itself, puts manifests, records and lists."""
    log, store = project.folder / "log", f"s3://bucket/{project.folder.name}/store"
    text = TEXT.replace("books.txt", "raw").replace("corpus: {}", f"corpus: {{word: {'w' * 2000}, times: 1000}}")
    project.file.write_text(text.replace("STORE", store))
    monkeypatch.setenv("RAYSE_SCRATCH", str(project.folder / "scratch"))
    sleep = ("--set", "tokenizer.behaviour=sleep")
    process = bucket.start("-c", DRIVER, "run", str(project.file), "--json", *sleep, log=log)
    objects, scratch = Objects(store), project.folder / "scratch"
    runs.wait_until(lambda: any(e.key.endswith("asleep") for e in objects.list("drafts")), process, log=log)
    (asleep,) = scratch.glob("*/drafts/[!.]*/asleep")
    (asleep.parent / "more").write_bytes(b"more" * 500_000)
    runs.wait_until(lambda: any(e.key.endswith("more") for e in objects.list("drafts")), process, log=log)
    (asleep.parent / "wake_up").touch()
    record = finish(process, log)
    assert f"{NUM_OBJECTS} of {NUM_OBJECTS} files hashed" in log.read_text()
    assert bucket.by_drivers() < 100_000
    assert sum(bucket.by_nodes().values()) > 5 * 2_000_000  # four artifacts, each with what those before it say; more
    project.file.write_text(text.replace("STORE", str(project.store.root)))
    for name, made in project.run().stages.items():
        remote = record["stages"][name]["fingerprint"]
        assert name != "corpus" or remote == made.fingerprint
        manifest = objects.get(f"artifacts/{made.makes}/{remote}/manifest.json")
        assert manifest is not None
        (file,) = json.loads(manifest[0])["files"].values()
        assert file["xxh3_128"] == digest_file(resolve(project.store, name).path / "text.txt")


CORPUS = """
name: corpus
store: STORE
sources:
  web: {kind: jsonl, path: FOLDER/lines}
  books: {kind: parquet, path: FOLDER/books.parquet}
stages:
  corpus: {block_bytes: 8_000_000}
"""


@pytest.mark.slow
def test_a_corpus_from_objects_on_a_cluster_is_that_from_files_on_one_machine(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines in two ranges of a file, compressed ones, and a table in two row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def told(corpus: Path, place: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The rejected rows and the data card, without the places of rows, by which its examples are chosen."""
        rejected = pq.read_table(corpus / "rejected.parquet").to_pylist()
        card = json.loads((corpus / "data_card.json").read_text())
        assert all(card.pop("dropped").values())
        return [{**row, "where": row["where"].removeprefix(place)} for row in rejected], card

    rng = random.Random(0)
    some = [english(rng) for _ in range(1000)]
    texts = [f"{some[number % 1000]} {number:,} {some[number * 7 % 997]}" for number in range(24_000)]
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in texts]
    folder, url, log = tmp_path / "files", f"s3://bucket/{tmp_path.name}", tmp_path / "log"
    (folder / "lines").mkdir(parents=True)
    (folder / "lines" / "a.jsonl").write_bytes(b"".join(lines[:20_000]))
    (folder / "lines" / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[20_000:]), 1))
    pq.write_table(pa.table({"text": texts[10_000:14_000]}), folder / "books.parquet", row_group_size=2500)
    assert (folder / "lines" / "a.jsonl").stat().st_size > RANGE_BYTES
    for name, value in bucket.variables.items():
        monkeypatch.setenv(name, value)
    for file in (file for file in folder.rglob("*") if file.is_file()):
        Objects(url).upload(file, file.relative_to(folder).as_posix())
    bucket.moved.clear()
    made: list[Path] = []
    for name, place in (("cluster", url), ("local", str(folder))):
        recipe, store = tmp_path / f"{name}.yaml", tmp_path / name
        recipe.write_text(CORPUS.replace("STORE", str(store)).replace("FOLDER", place))
        if name == "cluster":
            finish(bucket.start("-m", "pipelines", "run", str(recipe), "--json", log=log), log)
        else:
            run_recipe(reader.load(recipe, STAGES), quiet=True)
        made.append(runs.artifacts(store)["corpus"])
    assert made[0].name == made[1].name  # the fingerprint
    assert bucket.by_drivers() < 50_000 < 20_000_000 < sum(bucket.by_nodes().values())
    first, second = ({name: data for name, data in runs.contents(corpus).items() if "/" in name} for corpus in made)
    assert first == second and len(first) == 2  # held-out documents and others
    assert told(made[0], url) == told(made[1], "files")
