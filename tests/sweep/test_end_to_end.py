"""A sweep of real pretraining: DeepSpeed under Ray Train under Ray Tune. After a kill in its first trial, the same
command resumes from the checkpoint and stops the worse trial early, of which a draft remains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.report.card import card
from pipelines.store.artifacts import Store
from tests import runs

# With this seed the better rate is tried first. One worker: the test is about the sweep, not the training.
RECIPE = """\
name: tiny
seed: 7
store: STORE
sources:
  essays: {kind: chinese, language: zh}
stages:
  corpus: {}
  tokenizer: {vocabulary: 512, sample_bytes: 60_000, eval_bytes: 20_000}
  tokens: {length: 64}
  pretrain: {size: micro, budget_tokens: 32_768, batch_tokens: 512, learning_rate: {choose: [2e-2, 1e-4]}}
sweep: {metric: train/loss_nats, parallel: 1, seed: 0}
cluster:
  pretrain: {workers: 1, checkpoint_every_steps: 4, log_every_steps: 1}
"""

PROGRAM = """
import sys
from pipelines import stages
stages.STAGES = {name: stage for name, stage in stages.STAGES.items() if name != "evaluate"}  # needs no engine
from pipelines.cli import main
main()
"""


def start(folder: Path, verb: str, recipe: Path, *arguments: str) -> subprocess.Popen[str]:
    log = (folder / "log.txt").open("a")
    command = [sys.executable, "-c", PROGRAM, verb, str(recipe), *arguments]
    return subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=log, text=True)


def checkpoints(store: Path) -> list[Path]:
    try:
        return list(store.glob("drafts/*/training/checkpoint_*/*.safetensors"))
    except FileNotFoundError:  # a draft became an artifact meanwhile
        return []


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_sweep_of_real_training_resumes(tmp_path: Path) -> None:
    store, recipe = tmp_path / "store", tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("STORE", str(store)))
    process = start(tmp_path, "sweep", recipe)
    runs.wait_until(lambda: checkpoints(store), process, log=tmp_path / "log.txt")
    runs.kill_driver(process)
    assert not list(store.glob("artifacts/model/*")), "killed too late to prove anything"

    out, _ = start(tmp_path, "sweep", recipe, "--json").communicate(timeout=runs.TIMEOUT_S)
    output, log = json.loads(out), (tmp_path / "log.txt").read_text()
    first, second = output["trials"]
    assert (first["outcome"], second["outcome"]) == ("done", "pruned"), log
    assert "trial 1   learning_rate 0.02: resumes from its draft" in log
    manifest = json.loads((store / "artifacts" / "model" / first["fingerprint"] / "manifest.json").read_text())
    assert manifest["facts"]["run/attempts"] == 2
    assert manifest["facts"]["run/peak_memory_bytes"] > 300e6  # its workers, which are not children of the trial
    curve = (store / "artifacts" / "model" / first["fingerprint"] / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["train/step"] for line in curve] == list(range(1, 65))
    assert first["figure"] == pytest.approx(manifest["facts"]["train/loss_nats"])

    assert [path.name for path in (store / "drafts").iterdir()] == [second["fingerprint"]]
    assert checkpoints(store), "a stopped trial keeps its checkpoint"
    assert second["reached"] < 0.5
    assert second["live"] > first["live"]

    out, _ = start(tmp_path, "run", Path(output["best_recipe"]), "--json").communicate(timeout=runs.TIMEOUT_S)
    assert json.loads(out)["made"] == 0
    report = card(Store(store))
    assert report.sweep is not None and report.artifacts["pretrain"].fingerprint == first["fingerprint"]
