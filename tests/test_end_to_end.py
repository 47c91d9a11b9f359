"""Raw text to a judged base model with every real engine; and the promise that nothing is lost.

One run of micro.yaml is shared by all tests here. Kills are real: SIGKILL to the driver or to one worker, then the
same command, and the artifacts must equal those of the undisturbed run to the byte.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import runs

KINDS = ("corpus", "tokenizer", "tokens", "model")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("e2e") / "undisturbed"
    runs.finish(runs.start(store, "--evaluate"), store)
    return store


def same_artifacts(first: Path, second: Path) -> None:
    for kind in KINDS:
        ours, theirs = runs.artifact(first, kind), runs.artifact(second, kind)
        assert ours.name == theirs.name, f"{kind}: fingerprints differ"
        left, right = runs.contents(ours), runs.contents(theirs)
        assert left.keys() == right.keys()
        assert [name for name in left if left[name] != right[name]] == [], f"{kind}: these files differ"


def rayse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=runs.ROOT, timeout=120)


def test_report_has_the_promised_facts(undisturbed: Path) -> None:
    done = rayse("report", "--json", "--store", str(undisturbed))
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    corpus, pretrain = facts["corpus"], facts["pretrain"]
    dropped = sum(value for key, value in corpus.items() if key.startswith("documents/dropped_"))
    assert corpus["documents/read"] == corpus["documents/kept"] + dropped
    assert facts["tokenizer"]["text/bytes_per_token_en"] > 1 < facts["tokenizer"]["text/bytes_per_token_zh"]
    for key in ("", "_en", "_zh", "_uniform", "_unigram"):
        assert 0 < pretrain[f"heldout/bits_per_byte{key}"] < 16
    assert pretrain["train/tokens_per_s"] > 0
    for stage in (*facts,):
        assert facts[stage]["run/wall_s"] > 0
        assert 50e6 < facts[stage]["run/peak_memory_bytes"] < 16e9
    assert facts["run"]["run/wall_s"] >= sum(facts[s]["run/wall_s"] for s in facts if s != "run") - 0.01


def test_a_second_run_starts_nothing_and_changes_no_fact(undisturbed: Path) -> None:
    before = rayse("report", "--json", "--store", str(undisturbed)).stdout
    done = rayse("run", "micro", "--store", str(undisturbed), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["made"] == 0
    assert json.loads(done.stdout)["nodes"] == [], "Ray was started for nothing"
    assert rayse("report", "--json", "--store", str(undisturbed)).stdout == before


def test_the_report_page_stands_alone(undisturbed: Path) -> None:
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


def test_two_fresh_runs_give_equal_weights(undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "again"
    runs.finish(runs.start(store), store)
    same_artifacts(undisturbed, store)


def draft_files(store: Path, pattern: str) -> list[Path]:
    try:
        return list(store.glob(f"drafts/*/{pattern}"))
    except FileNotFoundError:  # a draft became an artifact while we looked
        return []


def corpus_has_a_block(store: Path) -> bool:
    return bool(draft_files(store, "**/*.parquet"))


def pretrain_has_a_checkpoint(store: Path) -> bool:
    return bool(draft_files(store, "**/*.safetensors"))


@pytest.mark.chaos
@pytest.mark.parametrize("reached", [corpus_has_a_block, pretrain_has_a_checkpoint])
def test_kill_of_the_driver_loses_nothing(undisturbed: Path, tmp_path: Path, reached) -> None:
    store = tmp_path / "killed"
    process = runs.start(store)
    runs.wait_for(lambda: reached(store), process, store)
    runs.kill_driver(process)
    assert not list(store.glob("artifacts/model/*")), "killed too late to prove anything"
    runs.finish(runs.start(store), store)
    same_artifacts(undisturbed, store)
    facts = json.loads((runs.artifact(store, "corpus") / "manifest.json").read_text())["facts"]
    assert facts["run/attempts"] == (2 if reached is corpus_has_a_block else 1)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("reached", "title"), [(corpus_has_a_block, "ray::MapBatches"), (pretrain_has_a_checkpoint, "ray::RayTrainWorker")]
)
def test_kill_of_a_worker_loses_nothing(undisturbed: Path, tmp_path: Path, reached, title) -> None:
    store = tmp_path / "worker"
    process = runs.start(store)
    runs.wait_for(lambda: reached(store), process, store)
    runs.kill_worker(process, title)
    assert not list(store.glob("artifacts/model/*")), "killed too late to prove anything"
    runs.finish(process, store)
    same_artifacts(undisturbed, store)
