"""`rayse plan` on the recipes that people start from, and where something does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipelines import cli
from tests import families

SOURCES = {"assistant": ("chats", "pairs"), "qlora-7b-one-gpu": ("chats", "pairs"),
           "full-8b-eight-gpus": ("chats", "pairs"), "continue-pretraining": ("texts",)}  # fmt: skip
NODES = {"qlora-7b-one-gpu": "1x1xRTX4090", "full-8b-eight-gpus": "1x8xH100"}
PROMISED = {"memory/rank_bytes", "memory/parts", "time/estimate_s", "disk/bytes", "fits", "why"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name in ("chats", "pairs", "texts"):
        (folder / f"{name}.jsonl").write_text("{}\n" * 1000)
    return folder


def plan(recipe: str, files: Path, *arguments: str) -> Result:
    paths = (f"--set=sources.{name}.path={files / name}.jsonl" for name in SOURCES[recipe])
    return CliRunner().invoke(cli.app, ["plan", recipe, *paths, "--store", str(files / "store"), *arguments])


def facts(done: Result) -> dict[str, Any]:
    """By stage: what is printed of those that are planned."""
    return {stage: planned for stage, planned in json.loads(done.stdout).items() if "fits" in planned}


@pytest.mark.parametrize("recipe", SOURCES)
def test_recipes_that_people_start_from_fit_what_they_are_named_for(recipe: str, files: Path) -> None:
    done = plan(recipe, files, "--json", *(("--nodes", NODES[recipe]) if recipe in NODES else ()))
    assert done.exit_code == 0, done.stderr
    by_stage = facts(done)
    training = {stage for stage, planned in by_stage.items() if planned["model/trained"]}
    assert len(training) == {"continue-pretraining": 1, "full-8b-eight-gpus": 3}.get(recipe, 2)
    evaluated = {f"{stage}/evaluate" for stage in training if stage != "reward_model"}
    assert by_stage.keys() - training == (evaluated | {"quantise"} if recipe == "assistant" else evaluated)
    every = json.loads(done.stdout)
    assert all(every[stage]["why"].startswith("no estimate: it") for stage in every.keys() - by_stage.keys())
    for stage, planned in by_stage.items():
        assert planned.keys() >= PROMISED and planned["fits"]
        assert planned["memory/rank_bytes"] == sum(planned["memory/parts"].values()) > planned["model/parameters"] / 2
        assert planned["time/estimate_s"] > 0
        assert stage not in training or planned["disk/bytes"] > 2 * planned["model/parameters"]


@pytest.mark.parametrize("recipe", SOURCES)
def test_recipes_take_a_small_model_of_the_family(recipe: str, files: Path, tmp_path: Path) -> None:
    families.write(tmp_path / "model", "Llama, tied", seed=0, dtype="float32")
    done = plan(recipe, files, "--json", f"--set=base.model={tmp_path / 'model'}", "--nodes=1x8xH100")
    assert done.exit_code == 0, done.stderr
    sizes = {planned["model/parameters"] for planned in facts(done).values() if planned["model/trained"]}
    assert len(sizes) == 1 and sizes.pop() < 10e6


def test_a_stage_that_cannot_fit_exits_with_2_and_names_what_would(files: Path) -> None:
    done = plan("full-8b-eight-gpus", files, "--json", "--nodes", "1x8xL4")
    assert done.exit_code == 2
    assert not facts(done)["ppo"]["fits"]
    assert "error: this plan does not fit: " in done.stderr and "ppo: " in done.stderr


def test_the_table_names_memory_disk_and_time(files: Path) -> None:
    done = plan("full-8b-eight-gpus", files, "--nodes", "1x8xH100")
    assert done.exit_code == 0, done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("sft "))
    assert "8 × H100" in row and "8.0B" in row


def test_a_base_that_is_not_there(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no waiting for a hub that cannot be reached
    done = plan("assistant", files, "--set=base.model=nobody/unheard-of")
    assert done.exit_code == 2 and "conversations" in done.stdout  # what it costs is not known, what it makes is
    assert "config.json" in done.stderr and "weights are not needed" in done.stderr


def test_a_plan_of_8b_imports_no_framework_and_holds_no_weights(files: Path) -> None:
    """What makes it slow elsewhere: libraries of seconds each, weights in memory, the same shape more than once."""
    code = """
import sys
from pipelines import cli
try:
    cli.app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
from pipelines.planning.models import with_adapters
heavy = {"torch", "transformers", "deepspeed", "peft", "vllm", "ray", "llmcompressor", "pandas"} & set(sys.modules)
# Not ru_maxrss: that begins with the memory of the process that forked this one.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(sorted(heavy), with_adapters.cache_info().misses, peak)
"""
    paths = [f"--set=sources.{name}.path={files / name}.jsonl" for name in SOURCES["full-8b-eight-gpus"]]
    command = [sys.executable, "-c", code, "plan", "full-8b-eight-gpus", *paths, "--nodes=1x8xH100"]
    done = subprocess.run([*command, "--store", str(files / "store")], capture_output=True, text=True, check=True)
    modules, shapes, peak_kib = done.stdout.splitlines()[-1].rsplit(" ", 2)
    assert modules == "[]" and shapes == "1"
    assert int(peak_kib) < 2**20 / 4  # of 8 billion weights the smallest part would be 4 GiB


def test_a_plan_says_how_many_requests_at_most(files: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"""
sources: {{chats: {{kind: jsonl, path: {files / "chats.jsonl"}, rows: conversations}}}}
stages:
  augment: {{max_requests: 1500, endpoint: {{url: http://127.0.0.1:9/v1, model: large}}}}
  conversations: {{}}
""")
    plan_of = [CliRunner().invoke(cli.app, ["plan", str(recipe), "--store", str(tmp_path / "store"), *flags],
                                  env={"COLUMNS": "200"}) for flags in ([], ["--json"])]  # fmt: skip
    assert "at most 1,500 requests to large at http://127.0.0.1:9/v1" in plan_of[0].stdout
    by_stage = json.loads(plan_of[1].stdout)
    assert by_stage["augment"]["requests/max"] == 1500
    assert by_stage["conversations"]["inputs"] == {"augmented": by_stage["augment"]["fingerprint"]}
