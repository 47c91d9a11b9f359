"""Raw text to a quantised chat model with every real engine, and recovery from kills without any loss.

All tests compare with one undisturbed run of micro.yaml. Kills are real: SIGKILL to the driver or to one worker, then
the same command; the artifacts must equal those of the undisturbed run byte for byte.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

from tests import runs

BASE = ("corpus", "tokenizer", "tokens", "pretrain")
ALIGNED = ("conversations", "sft", "preferences", "reward_model", "ppo")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("e2e") / "undisturbed"
    runs.finish(runs.start(store, "--evaluate"), store)
    return store


@pytest.fixture
def pretrained(undisturbed: Path, tmp_path: Path) -> Path:
    """A store with all artifacts up to the base model."""
    store = tmp_path / "pretrained"
    for name in BASE:
        folder = runs.artifacts(undisturbed)[name]
        shutil.copytree(folder, store / folder.relative_to(undisturbed))
    return store


def assert_same_artifacts(first: Path, second: Path, stages: tuple[str, ...]) -> None:
    """Fails unless both stores have the same bytes in the artifacts of these stages."""
    artifacts, others = runs.artifacts(first), runs.artifacts(second)
    for stage in stages:
        assert artifacts[stage].name == others[stage].name, f"{stage}: fingerprints differ"
        files, other_files = runs.contents(artifacts[stage]), runs.contents(others[stage])
        assert files.keys() == other_files.keys()
        assert [name for name in files if files[name] != other_files[name]] == [], f"{stage}: these files differ"


def rayse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=runs.ROOT, timeout=120)


@pytest.fixture(scope="module")
def report(undisturbed: Path) -> str:
    """What `rayse report --json` prints."""
    done = rayse("report", "--json", "--store", str(undisturbed))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_report_has_the_promised_facts(report: str) -> None:
    facts = json.loads(report)
    corpus, pretrain = facts["corpus"], facts["pretrain"]
    dropped = sum(value for key, value in corpus.items() if key.startswith("documents/dropped_"))
    assert corpus["documents/read"] == corpus["documents/kept"] + dropped
    assert facts["tokenizer"]["text/bytes_per_token_en"] > 1 < facts["tokenizer"]["text/bytes_per_token_zh"]
    for key in ("", "_en", "_zh", "_uniform", "_unigram"):
        assert 0 < pretrain[f"heldout/bits_per_byte{key}"] < 16
    assert pretrain["train/tokens_per_s"] > 0
    for stage in ("sft", "ppo"):
        assert 0 <= facts[stage]["heldout/exact_match"] <= 1
    assert 0 < facts["ppo"]["heldout/win_rate_low"] < facts["ppo"]["heldout/win_rate"] < 1
    assert facts["quantise"]["model/bytes"] < facts["quantise"]["model/bytes_before"]
    for stage in (*facts,):
        assert facts[stage]["run/wall_s"] > 0
        assert 50e6 < facts[stage]["run/peak_memory_bytes"] < 16e9
    assert facts["run"]["run/wall_s"] >= sum(facts[s]["run/wall_s"] for s in facts if s != "run") - 0.01


def test_a_second_run_does_not_start_ray_and_changes_no_fact(undisturbed: Path, report: str) -> None:
    done = rayse("run", "micro", "--store", str(undisturbed), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["made"] == 0
    assert json.loads(done.stdout)["nodes"] == [], "Ray was started needlessly"
    assert rayse("report", "--json", "--store", str(undisturbed)).stdout == report


def test_the_report_page_is_self_contained(undisturbed: Path) -> None:
    assert rayse("report", "--store", str(undisturbed)).returncode == 0
    page = (undisturbed / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page and "documents" in page
    assert "<link" not in page and "src=" not in page


def test_transformers_opens_the_exported_model(undisturbed: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "model"
    done = rayse("export", "pretrain", str(folder), "--store", str(undisturbed))
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("Return the number of items. 春天来了", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = model(ids, labels=ids).loss
    assert torch.isfinite(loss)
    assert ids[0, 0] == tokenizer.bos_token_id


def draft_files(store: Path, pattern: str) -> list[Path]:
    try:
        return list(store.glob(f"drafts/*/{pattern}"))
    except FileNotFoundError:  # a draft became an artifact meanwhile
        return []


def corpus_has_a_block(store: Path) -> bool:
    return bool(draft_files(store, "**/*.parquet"))


def training_has_a_checkpoint(store: Path) -> bool:
    return bool(draft_files(store, "training/checkpoint_*/*.safetensors"))


def ppo_has_an_iteration(store: Path) -> bool:
    return bool(draft_files(store, "iterations/step-*/complete.json"))


Reached = Callable[[Path], bool]


@pytest.mark.slow
@pytest.mark.chaos
def test_a_run_whose_driver_and_workers_are_killed_gives_equal_artifacts(undisturbed: Path, tmp_path: Path) -> None:
    """The driver and a worker killed in the corpus, and both killed in pretraining."""
    store = tmp_path / "killed"
    kill_driver_when(corpus_has_a_block, store, "corpus")
    process = runs.start(store, "--until=pretrain")
    kill_worker_when(corpus_has_a_block, process, store, "corpus", "ray::MapBatches")
    kill_driver_when(training_has_a_checkpoint, store, "pretrain", process)
    process = runs.start(store, "--until=pretrain")
    kill_worker_when(training_has_a_checkpoint, process, store, "pretrain", "ray::RayTrainWorker")
    runs.finish(process, store)
    assert_same_artifacts(undisturbed, store, BASE)
    manifests = {name: json.loads((runs.artifacts(store)[name] / "manifest.json").read_text()) for name in BASE}
    attempts = {name: manifest["facts"]["run/attempts"] for name, manifest in manifests.items()}
    assert attempts == {"corpus": 2, "tokenizer": 1, "tokens": 1, "pretrain": 2}


@pytest.mark.slow
@pytest.mark.chaos
def test_kills_in_each_alignment_stage_lose_no_work(undisturbed: Path, pretrained: Path) -> None:
    """The driver is killed in SFT and in PPO, a worker in the reward model and in PPO."""
    kill_driver_when(training_has_a_checkpoint, pretrained, "sft")
    process = runs.start(pretrained, "--until=ppo")
    kill_worker_when(training_has_a_checkpoint, process, pretrained, "reward_model", "ray::RayTrainWorker")
    kill_driver_when(ppo_has_an_iteration, pretrained, "ppo", process)
    process = runs.start(pretrained, "--until=ppo")
    kill_worker_when(ppo_has_an_iteration, process, pretrained, "ppo", "ray::Member")
    runs.finish(process, pretrained)
    assert_same_artifacts(undisturbed, pretrained, ALIGNED)


def kill_driver_when(reached: Reached, store: Path, stage: str, process: Popen[str] | None = None) -> None:
    """Runs until the stage, and kills the driver once the draft has files, before the stage is done.

    process: a run that is under way; by default a new one."""
    process = process or runs.start(store, f"--until={stage}")
    runs.wait_until(lambda: reached(store) and has_earlier_stages(store, stage), process, log=runs.log_file(store))
    runs.kill_driver(process)
    assert stage not in runs.artifacts(store), "killed too late for the test"


def has_earlier_stages(store: Path, stage: str) -> bool:
    """Whether the alignment stages before this one are made. Always true for a stage of the base model."""
    return stage not in ALIGNED or set(ALIGNED[: ALIGNED.index(stage)]) <= set(runs.artifacts(store))


def kill_worker_when(reached: Reached, process: Popen[str], store: Path, stage: str, title: str) -> None:
    """Kills a worker once the stage's draft has files, before the stage is done."""
    runs.wait_until(lambda: reached(store) and has_earlier_stages(store, stage), process, log=runs.log_file(store))
    runs.kill_worker(process, title)
    assert stage not in runs.artifacts(store), "killed too late for the test"
