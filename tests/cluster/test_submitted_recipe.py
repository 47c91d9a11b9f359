"""`rayse submit` as a user runs it: a complete recipe with local files, on a real head that cannot import our code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, Head

RECIPE = """
name: submitted
sources:
  mine: {kind: jsonl, path: mine.jsonl, language: en}
  essays: {kind: chinese, language: zh}
stages:
  corpus: {}
  tokenizer: {vocabulary: 768, sample_bytes: 300_000, eval_bytes: 50_000}
  tokens: {length: 64}
  pretrain: {size: micro, budget_tokens: 4096, batch_tokens: 512}
  serve: {questions: 4, guard_questions: 2, reply_tokens: 8}
"""


def rayse(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: a recipe and a data file."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    words = ["river", "stone", "market", "garden", "window", "letter", "winter", "morning", "bridge"]
    with (tmp_path / "mine.jsonl").open("w") as file:
        for number in range(300):
            chosen = [words[(number * 7 + k * k) % len(words)] for k in range(8)]
            rest = " ".join(chosen[2:])
            text = f"Note {number}: the {chosen[0]} was near the {chosen[1]}, and a {rest} came to {number * 37}."
            file.write(json.dumps({"text": text}) + "\n")
    return tmp_path


@pytest.mark.slow
def test_a_complete_recipe_runs_as_a_job(head: Head, folder: Path) -> None:
    done = rayse(folder, "submit", "recipe.yaml", "--address", head.dashboard, "--store", str(folder / "store"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pretrain" in done.stderr, "the log was not followed"
    report = json.loads(rayse(folder, "report", "--json", "--store", str(folder / "store")).stdout)
    assert report["pretrain"]["train/steps"] == 8
    assert report["pretrain"]["heldout/bits_per_byte"] > 0
    assert report["serve"]["latency/reply_s_p50"] > 0  # its server starts another Ray beside the cluster's
    (uploaded,) = (folder / "store" / "sources").glob("*/mine.jsonl")
    assert uploaded.read_bytes() == (folder / "mine.jsonl").read_bytes()

    again = rayse(
        folder,
        "submit",
        "recipe.yaml",
        "--address",
        head.dashboard,
        "--store",
        str(folder / "store"),
        "--until",
        "tokens",
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 made, 3 reused" in again.stderr
    jobs = json.loads(rayse(folder, "jobs", "--json", "--address", head.dashboard).stdout)["jobs"]
    assert [job["recipe"] for job in jobs][-2:] == ["submitted", "submitted"]


def test_an_invalid_recipe_is_refused_by_the_client(head: Head, folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("vocabulary", "vocabulry"))
    done = rayse(folder, "submit", "recipe.yaml", "--address", head.dashboard)
    assert done.returncode == 2
    assert "Did you mean tokenizer.vocabulary" in done.stderr


def test_an_unreachable_cluster_exits_with_3(folder: Path) -> None:
    done = rayse(folder, "submit", "recipe.yaml", "--address", "http://127.0.0.1:9", "--store", str(folder / "store"))
    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr
