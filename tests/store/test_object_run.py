"""A recipe with `store: s3://…`: run, killed, continued from an empty scratch folder, looked at, exported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.objects import Objects
from tests import runs
from tests.object_server import ObjectServer, needs_server
from tests.toy_stages import TEXT

pytestmark = needs_server

OFTEN = "from pipelines.store import snapshots; snapshots.PERIOD_S = 0.3; import runpy, sys; sys.argv[0] = '-m'; "


class Machine:
    """A machine with a scratch folder of its own and the credentials of the server."""

    def __init__(self, scratch: Path, server: ObjectServer):
        self.scratch = scratch
        self.environment = {**os.environ, **server.environment, "RAYSE_SCRATCH": str(scratch)}

    def start(self, module: str, *arguments: str, log: Path | None = None) -> subprocess.Popen[str]:
        """Starts a module of the tests, with frequent snapshots."""
        code = f"{OFTEN} runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        stderr = subprocess.PIPE if log is None else log.open("a")
        return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=runs.ROOT, env=self.environment,
                                stdout=subprocess.PIPE, stderr=stderr, text=True)  # fmt: skip

    def rayse(self, *arguments: str, module: str = "tests.toy_stages") -> str:
        """The standard output of a command that succeeds."""
        process = self.start(module, *arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out


def snapshot_files(objects: Objects) -> list[str]:
    """The files in the newest snapshots of all drafts."""
    files: list[str] = []
    for entry in objects.list("leases"):
        found = objects.get(entry.key)
        snapshot = json.loads(found[0]).get("snapshot") if found is not None else None
        listed = objects.get(snapshot) if snapshot else None
        files += json.loads(listed[0]) if listed is not None else []
    return files


def test_a_recipe_of_toy_stages_is_killed_and_continued_on_another_machine(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    store = "s3://bucket/toys"
    objects = Objects(store)
    objects.put("raw/books.txt", b"Once upon a time.")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(TEXT.replace("STORE", store).replace("books.txt", f"{store}/raw/books.txt"), encoding="utf-8")
    one, two = Machine(tmp_path / "one", server), Machine(tmp_path / "two", server)

    process = one.start("tests.toy_stages", "run", str(recipe), "--set", "tokens.behaviour=sleep")
    runs.wait_until(lambda: "asleep" in snapshot_files(objects), process)
    waiting = two.start("tests.toy_stages", "run", str(recipe), "--set", "tokens.behaviour=sleep")
    assert waiting.stderr is not None
    line = next(line for line in waiting.stderr if "is held" in line)
    assert f"is held by process {process.pid} on" in line and "waiting for it" in line
    runs.kill_driver(waiting)
    runs.kill_driver(process)
    shutil.rmtree(tmp_path / "one")

    listed = json.loads(two.rayse("ls", "--store", store, "--json"))
    assert {artifact["kind"] for artifact in listed["artifacts"]} >= {"corpus", "tokenizer"}
    assert [draft["owner"] for draft in listed["drafts"]] == [None]
    again = two.start("tests.toy_stages", "run", str(recipe), "--json", "--set", "tokens.behaviour=sleep")
    runs.wait_until(lambda: list(two.scratch.glob("*/drafts/[!.]*/asleep")), again)
    (draft,) = two.scratch.glob("*/drafts/[!.]*/blocks")
    assert (draft / "half").read_text() == "kept between attempts"
    (draft.parent / "wake_up").touch()
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "continues from its snapshot s3://" in err
    record = json.loads(out)
    assert record["outcome"] == "done"
    assert [record["stages"][name]["made"] for name in ("corpus", "tokenizer", "tokens", "pretrain")] == [
        False, False, True, True
    ]  # fmt: skip
    facts = json.loads(two.rayse("report", "--store", store, "--json"))
    assert facts["tokens"]["run/attempts"] == 2
    assert json.loads(two.rayse("lineage", "pretrain", "--store", store, "--json"))["parents"]["tokens"]["parents"]
    two.rayse("export", "pretrain", str(tmp_path / "model"), "--store", store)
    assert (tmp_path / "model" / "text.txt").read_text(encoding="utf-8")
    assert two.rayse("report", "--store", store).splitlines()[-1] == f"report: {store}/report.html"
    page = objects.get("report.html")
    assert page is not None and b"<html" in page[0]


@pytest.mark.slow
@pytest.mark.chaos
def test_micro_is_killed_and_continued_from_an_empty_scratch_folder(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is killed in pretraining, and the machine's folder is lost; the artifacts equal those of an
    undisturbed run in a folder, byte for byte."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    undisturbed, log = tmp_path / "undisturbed", tmp_path / "objects.log"
    runs.finish(runs.start(undisturbed, "--until=sft"), undisturbed)
    store = "s3://bucket/micro"
    objects = Objects(store)
    one, two = Machine(tmp_path / "one", server), Machine(tmp_path / "two", server)
    process = one.start("tests.driver", "micro", store, "--until=sft", log=log)
    runs.wait_until(lambda: any("checkpoint_" in name for name in snapshot_files(objects)), process, log=log)
    runs.kill_driver(process)
    shutil.rmtree(tmp_path / "one")

    process = two.start("tests.driver", "micro", store, "--until=sft", log=log)
    out, _ = process.communicate(timeout=runs.TIMEOUT_S)
    assert process.returncode == 0, log.read_text()[-6000:]
    assert "continues from its snapshot" in log.read_text()
    facts = json.loads(two.rayse("report", "--store", store, "--json", module="pipelines"))
    assert facts["pretrain"]["run/attempts"] == 2 and facts["corpus"]["run/attempts"] == 1
    three = Machine(tmp_path / "three", server)
    for name, path in runs.artifacts(undisturbed).items():
        three.rayse("export", name, str(tmp_path / name), "--store", store, module="pipelines")
        assert runs.contents(tmp_path / name) == runs.contents(path), name
    assert json.loads(out.splitlines()[-1])["outcome"] == "done"
    listed = json.loads(three.rayse("ls", "--store", store, "--json", module="pipelines"))
    assert listed["drafts"] == [] and len(listed["artifacts"]) == len(runs.artifacts(undisturbed))
    lineage = json.loads(three.rayse("lineage", "sft", "--store", store, "--json", module="pipelines"))
    assert lineage["parents"]["model"]["parents"]["tokens"]
