"""cluster/jobs.py on a real head that cannot import our code: what runs there came with the job."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from cluster import jobs
from cluster.errors import ClusterError
from cluster.jobs import Job, _Log
from tests.cluster.conftest import ROOT, Head, run_driver

IN_JOB = """
import cluster, os, sys
from cluster.session import Session
print("code from", cluster.__file__)
print("arguments", sys.argv[1:])
print("recipe", open("recipe.yaml", encoding="utf-8").read())
print("variable", os.environ["EXTRA"])
session = Session(on_message=print)
with session:
    import ray
    def where():
        import cluster
        return cluster.__file__
    print("worker", ray.get(ray.remote(where).remote()), session.local, len(session.nodes()))
sys.exit(2)
"""


def submit(head: Head, *command: str, **options: Any) -> str:
    return jobs.submit(head.dashboard, command, **options)


def follow(head: Head, job_id: str) -> tuple[Job, str]:
    """The job when it has ended, and its log."""
    parts: list[str] = []
    job = jobs.follow(head.dashboard, job_id, parts.append)
    return job, "".join(parts)


def test_a_job_brings_its_code_its_recipe_and_its_exit_code(head: Head) -> None:
    begin = time.time()
    recipe = "name: 演示\nseed: 7\n"
    job_id = submit(
        head, "python", "-c", IN_JOB, "two words", "$HOME `x` 'y'",
        packages=[ROOT / "cluster"], files={"recipe.yaml": recipe}, env={"EXTRA": "yes"}, metadata={"recipe": "demo"},
    )  # fmt: skip
    job, log = follow(head, job_id)
    assert (job.status, job.driver_exit_code, job.exit_code) == ("FAILED", 2, 2), log
    (code,) = re.findall("^code from (.+)", log, re.MULTILINE)
    assert "py_modules_files" in code
    assert str(["two words", "$HOME `x` 'y'"]) in log and recipe in log and "variable yes" in log
    assert re.search(rf"^worker {code} False 1$", log, re.MULTILINE)
    assert job.done and job.metadata["recipe"] == "demo" and job.started and job.started > begin - 60

    assert [listed.id for listed in jobs.list_jobs(head.dashboard)] == [job_id]
    assert jobs.status(head.dashboard, job_id) == job
    assert follow(head, job_id)[1] == log  # followed again, it is sent again


def test_the_head_cannot_import_our_code(head: Head) -> None:
    job, log = follow(head, submit(head, "python", "-c", "import ray; print('ray'); import cluster"))
    assert (job.status, job.exit_code) == ("FAILED", 1) and "ray\n" in log
    assert "No module named 'cluster'" in log


def test_a_job_can_be_stopped(head: Head) -> None:
    job_id = submit(head, "python", "-c", "import time; print('beg' + 'un', flush=True); time.sleep(600)")
    seen: list[str] = []

    def stop_when_begun(text: str) -> None:
        seen.append(text)
        if "begun" in text:
            assert jobs.stop_job(head.dashboard, job_id)

    job = jobs.follow(head.dashboard, job_id, stop_when_begun)
    assert (job.status, job.exit_code) == ("STOPPED", 130)
    assert "".join(seen).count("begun") == 1
    assert not jobs.stop_job(head.dashboard, job_id)


def test_an_unknown_job_and_a_wrong_address_are_named(head: Head) -> None:
    with pytest.raises(ClusterError, match=r"refused .*raysubmit_none.*rayse jobs --address"):
        jobs.status(head.dashboard, "raysubmit_none")
    with pytest.raises(ClusterError, match="no route to the cluster"):
        jobs.list_jobs("http://127.0.0.1:1")
    with pytest.raises(ClusterError, match="Expected http://HEAD:8265"):
        jobs.list_jobs("ray://127.0.0.1:10001")


def test_a_wrong_token_is_refused_and_its_location_named(head: Head) -> None:
    code = f"from cluster import jobs; print(jobs.list_jobs({head.dashboard!r}))"
    done = run_driver(code, check=False, variables={"RAY_AUTH_TOKEN": "0" * 64})
    assert "ClusterError" in done.stderr and "the environment variable RAY_AUTH_TOKEN" in done.stderr, done.stderr
    assert "0" * 64 not in done.stderr


def test_the_address_argument_takes_precedence_over_the_environment(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert jobs.list_jobs(head.dashboard)


def test_a_log_that_is_sent_again_after_a_broken_connection_is_written_once() -> None:
    parts: list[str] = []
    log = _Log(parts.append)
    log.reconnect()
    for text in ("one\n", "two\nth"):
        log.receive(text)
    log.reconnect()
    for text in ("one\ntw", "o\n", "three\nfour\n", "five\n"):
        log.receive(text)
    assert "".join(parts) == "one\ntwo\nthree\nfour\nfive\n"
