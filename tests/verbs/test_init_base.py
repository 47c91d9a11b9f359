"""`rayse init --base`: a recipe that continues an open model on a user's files, so that it fits the nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.planning.machines import parse
from pipelines.planning.training import estimate
from pipelines.recipe import reader
from pipelines.recipe.reader import Recipe
from pipelines.stages import STAGES
from tests import families
from tests.verbs.test_init import ENGLISH, init, jsonl, texts

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"  # its config comes with Rayse


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    texts(folder / "novels.jsonl", ENGLISH)
    jsonl(folder / "chats.jsonl", [{"instruction": f"Greet {name}", "output": "Hi"} for name in range(40)])
    long = "It does so because of the weather. " * 60  # 500 tokens: a micro-batch of 8B's does not fit a small GPU
    jsonl(folder / "pairs.jsonl", [{"prompt": f"Why {n}?", "chosen": long, "rejected": "No."} for n in range(40)])
    jsonl(folder / "prompts.jsonl", [{"prompt": "Why?"}] * 3)
    families.write(folder / "base", "Llama, tied", seed=0, dtype="float32")
    return folder


def load(out: Path) -> Recipe:
    return reader.load(out, STAGES)


def options(out: Path, stage: str) -> dict[str, Any]:
    return load(out).entry(stage).options.model_dump()


def test_conversations_and_pairs_become_sft_and_dpo_with_lora(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    done = init(data / "chats.jsonl", data / "pairs.jsonl", "--base", data / "base", "--out", out)
    assert done.exit_code == 0, done.output
    recipe = load(out)
    stages = ["base", "corpus", "conversations", "sft", "preferences", "dpo", "quantise"]
    assert [entry.name for entry in recipe.entries] == stages
    assert recipe.entry("base").options.model_dump()["model"] == str(data / "base")
    assert options(out, "sft")["lora"]["rank"] == options(out, "dpo")["lora"]["rank"] == 16
    assert options(out, "sft")["epochs"] == 3 and not options(out, "preferences")["builtin_tasks"]
    assert recipe.entry("dpo").inputs["model"] == "sft" and recipe.entry("quantise").inputs["model"] == "dpo"
    assert list(recipe.entry("conversations").sources) == ["chats"]
    assert list(recipe.entry("corpus").sources) == ["general_en"], "for the evaluation: nothing is trained on it"
    for stage in ("sft", "dpo"):
        assert f"{stage}: on 2 × CPU, " in done.stdout and "GiB a worker" in done.stdout
    assert done.stdout.endswith(f"{out}: written\nnext: rayse run {out}\n")
    assert "cluster:" not in out.read_text(encoding="utf-8"), "the defaults fit"


def test_text_becomes_continued_pretraining_before_the_rest(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    done = init(data / "novels.jsonl", data / "chats.jsonl", "--base", data / "base", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert [entry.name for entry in load(out).entries][1:4] == ["corpus", "tokens", "pretrain"]
    assert load(out).entry("tokens").inputs["tokenizer"] == "base"
    pretrain, length = options(out, "pretrain"), options(out, "tokens")["length"]
    facts = json.loads(done.stdout)
    text_bytes = facts["sources"]["novels"]["text_bytes"]["en"]
    assert text_bytes * 0.95 / 3.5 - 1 < pretrain["budget_tokens"] < text_bytes * 0.95 / 3.5 + 1
    assert (
        length == families.CONTEXT and pretrain["batch_tokens"] == 2 * length
    )  # the model's context; a short text's small steps
    assert facts["plan"].keys() == {"pretrain", "sft"} and facts["plan"]["sft"]["fits"]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("1x1xRTX4090", {"sft": {"workers": 1, "micro_batch_rows": 1}, "dpo": {"workers": 1, "micro_batch_rows": 1}}),
        ("1x8xH100", {"sft": {"workers": 8}, "dpo": {"workers": 8}}),
    ],
)
def test_what_would_not_fit_is_changed(data: Path, tmp_path: Path, nodes: str, expected: dict[str, Any]) -> None:
    out = tmp_path / "r.yaml"
    done = init(data / "chats.jsonl", data / "pairs.jsonl", "--base", LLAMA_8B, "--nodes", nodes, "--out", out)
    assert done.exit_code == 0 and "DOES NOT FIT" not in done.stdout, done.output
    recipe = load(out)
    assert recipe.tree["cluster"] == expected and f"# So that it fits {nodes}" in out.read_text(encoding="utf-8")
    if nodes == "1x8xH100":
        assert options(out, "sft")["batch_tokens"] == 8 * 512, "a row for each worker"
    for stage in ("sft", "dpo"):
        cost = estimate(recipe, recipe.entry(stage), parse(nodes))
        assert cost.fits and "--nodes" not in cost.why


def test_a_small_gpu_gets_the_base_in_four_bits(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    done = init(data / "chats.jsonl", "--base", LLAMA_8B, "--nodes", "1x1xMINE:12GiB:100TFLOPS", "--out", out)
    assert done.exit_code == 0 and "DOES NOT FIT" not in done.stdout, done.output
    assert options(out, "sft")["lora"]["qlora"] and options(out, "sft")["lora"]["rank"] == 16


def test_what_fits_nowhere_is_said(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    done = init(data / "chats.jsonl", "--base", LLAMA_8B, "--nodes", "1x1xMINE:3GiB:100TFLOPS", "--out", out)
    assert done.exit_code == 0 and out.exists()
    assert "sft: on 1 × MINE, " in done.stdout and "DOES NOT FIT: a rank needs" in done.stdout


@pytest.mark.parametrize(
    ("files", "arguments", "problem"),
    [
        (["chats"], ["--base", "nobody/unheard-of"], "base.model: nobody/unheard-of: neither a folder"),
        (["chats"], ["--base", LLAMA_8B, "--nodes", "1x1xNOPE"], "memory and speed of NOPE are not known"),
        (["chats"], ["--nodes", "1x8xH100"], "expected together with --base"),
        (["prompts"], ["--base", LLAMA_8B], "prompts.jsonl: only prompts, which no stage trains on (column prompt)"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_written(
    data: Path, tmp_path: Path, files: list[str], arguments: list[str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no waiting for a hub that cannot be reached
    out = tmp_path / "r.yaml"
    done = init(*(data / f"{name}.jsonl" for name in files), *arguments, "--out", out)
    assert done.exit_code == 2 and problem in " ".join(done.stderr.split()), done.output
    assert not list(tmp_path.iterdir())
