"""A run of knowledge whose driver is killed: nothing half made is an artifact, and the next run goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data.knowledge.index import Index
from tests.benchmarks.knowledge_manuals import manual
from tests.runs import ROOT, TIMEOUT_S, wait_until

NUM_MANUALS = 60
RECIPE = """\
sources:
  manuals: {kind: text, path: manuals, rows: documents, language: auto}
stages:
  knowledge: {}
cluster:
  knowledge: {tasks: 1, block_bytes: 4000}
"""


def start(recipe: Path, store: Path) -> subprocess.Popen[bytes]:
    with (store.parent / f"{store.name}.log").open("a") as log:
        command = [sys.executable, "-m", "tests.driver", str(recipe), str(store)]
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def finished(recipe: Path, store: Path) -> Path:
    """The artifact's folder after a run that ends."""
    assert start(recipe, store).wait(TIMEOUT_S) == 0, (store.parent / f"{store.name}.log").read_text()[-4000:]
    (manifest,) = (store / "artifacts" / "knowledge").glob("*/manifest.json")
    return manifest.parent


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != "manifest.json"}  # fmt: skip


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_no_half_index_and_the_next_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "manuals").mkdir()
    for number in range(NUM_MANUALS):
        file, _, text, _ = manual(number, ("en", "zh")[number % 2])
        (tmp_path / "manuals" / file).write_text(text, encoding="utf-8")
    recipe, store = tmp_path / "recipe.yaml", tmp_path / "killed"
    recipe.write_text(RECIPE, encoding="utf-8")
    process = start(recipe, store)
    wait_until(lambda: len(list(store.glob("drafts/*/blocks/*.parquet"))) >= 2, process, log=tmp_path / "killed.log")
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT_S)
    assert list(store.glob("artifacts/knowledge/*/manifest.json")) == []
    made = finished(recipe, store)
    whole = finished(recipe, tmp_path / "whole")
    assert len(Index(made)) == NUM_MANUALS * 12 and contents(made) == contents(whole)
