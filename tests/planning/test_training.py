"""What stages would take, against counts that follow from the models' published shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.learning import adapters
from pipelines.learning.model import expert_parameters, from_folder, num_parameters, shape_of
from pipelines.planning.machines import GIB, parse
from pipelines.planning.models import base_config, with_adapters
from pipelines.planning.training import Estimate, estimate
from pipelines.recipe import reader
from pipelines.stages import STAGES
from tests import families
from tests.stages import gguf_files

LLAMA_8B = 8_030_261_248
HIDDEN, KEYS, FEED_FORWARD, LAYERS = 4096, 1024, 14_336, 32
RECIPE = """\
name: tune
sources:
  chats: {kind: jsonl, rows: conversations, path: chats.jsonl}
  pairs: {kind: jsonl, rows: preferences, path: pairs.jsonl}
base: {model: meta-llama/Llama-3.1-8B-Instruct}
stages:
  conversations: {}
  sft: {epochs: 2}
  preferences: {}
  reward_model: {}
  ppo: {}
"""
NEW = """\
name: new
sources:
  essays: {kind: chinese, language: zh}
stages:
  corpus: {}
  tokenizer: {vocabulary: 4096}
  tokens: {length: 256}
  pretrain: {size: 2m, budget_tokens: 1_000_000}
  conversations: {}
  sft: {}
"""
NUM_BYTES = 400_000  # of the conversations


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "chats.jsonl").write_text("x" * NUM_BYTES)
    (folder / "pairs.jsonl").write_text("x" * NUM_BYTES)
    return folder


def planned(folder: Path, stage: str, nodes: str, *overrides: str) -> Estimate:
    recipe = reader.load(folder / "recipe.yaml", STAGES, overrides=overrides)
    return estimate(recipe, recipe.entry(stage), parse(nodes))


def test_full_training_of_8b_over_eight_gpus(folder: Path) -> None:
    cost = planned(folder, "sft", "1x8xH100", "sft.batch_tokens=65536", "cluster.sft.workers=8",
                   "cluster.sft.zero_stage=3", "cluster.sft.recompute=full")  # fmt: skip
    assert cost.parameters == cost.trained == LLAMA_8B
    by_rank = LLAMA_8B / 8
    expected = {"weights": 2 * by_rank, "masters": 4 * by_rank, "moments": 8 * by_rank, "gradients": 4 * by_rank}
    assert {name: cost.memory[name] for name in expected} == pytest.approx(expected)
    assert cost.fits and cost.where == "8 × H100"
    assert cost.tokens == 2 * NUM_BYTES / 4
    assert cost.disk_bytes == 2 * LLAMA_8B + 2 * 12 * LLAMA_8B  # in 16 bits; masters and moments, twice
    assert cost.rank_bytes == sum(cost.memory.values()) < 30 * GIB


def test_adapters_of_a_rank(folder: Path) -> None:
    cost = planned(folder, "sft", "1x1xH100", "sft.lora={rank: 16}", "cluster.sft.workers=1")
    ends = 2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + KEYS) + 3 * (HIDDEN + FEED_FORWARD)  # q, o; k, v; gate, up, down
    assert cost.trained == 16 * ends * LAYERS
    assert cost.memory["moments"] == 8 * cost.trained
    assert cost.memory["weights"] == 2 * (LLAMA_8B + cost.trained)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_adapters_are_counted_as_peft_makes_them(family: str, kind: str, tmp_path: Path) -> None:
    families.write(tmp_path, family, seed=0, dtype="float32")
    model = from_folder(tmp_path)
    targets = ["q_proj", "v_proj"] if kind == "dora" and expert_parameters(model) else None  # it does not fit experts
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": targets, "rslora": False, "dora": kind == "dora",
            "qlora": False}  # fmt: skip
    adapter = adapters.Ia3() if kind == "ia3" else adapters.Lora(**{**lora, "targets": targets and tuple(targets)})
    by_peft = adapters.attach(model, adapter, 0)
    options = {"ia3": {"targets": None}} if kind == "ia3" else {"lora": lora}
    ours = with_adapters((tmp_path / "config.json").read_text(), json.dumps(options))
    assert ours.trained == sum(p.numel() for p in by_peft.parameters() if p.requires_grad) > 0
    assert ours.parameters == num_parameters(by_peft)


@pytest.mark.parametrize("projection", [None, 24])
def test_a_prefix_is_counted_as_peft_makes_it(projection: int | None, tmp_path: Path) -> None:
    families.write(tmp_path, "Qwen2", seed=0, dtype="float32")  # fewer heads of keys than of queries
    by_peft = adapters.attach_prefix(from_folder(tmp_path), 5, projection, 0)
    config = (tmp_path / "config.json").read_text()
    options = {"prefix": {"num_virtual_tokens": 5, "projection": projection}}
    ours = with_adapters(config, json.dumps(options))
    assert ours.trained == sum(p.numel() for p in by_peft.parameters() if p.requires_grad) > 0
    live: Any = by_peft
    assert shape_of(live.get_base_model(), by_peft).trained == ours.trained


def test_a_prefix_is_planned_beside_a_frozen_model(folder: Path) -> None:
    (folder / "prefix.yaml").write_text(RECIPE.split("  sft:")[0] + "  prefix_tuning: {epochs: 2}\n")
    recipe = reader.load(folder / "prefix.yaml", STAGES, overrides=["cluster.prefix_tuning.workers=1"])
    cost = estimate(recipe, recipe.entry("prefix_tuning"), parse("1x1xH100"))
    assert cost.trained == 20 * LAYERS * 2 * KEYS  # keys and values of as many tokens as by default
    assert cost.memory["moments"] == 8 * cost.trained and cost.memory["weights"] == 2 * (LLAMA_8B + cost.trained)
    assert cost.disk_bytes == 4 * cost.trained + 2 * 12 * cost.trained  # the adapter alone; its moments, twice
    full = planned(folder, "sft", "1x1xH100", "cluster.sft.workers=1")
    assert cost.tokens == full.tokens and cost.time_s is not None and full.time_s is not None
    assert full.time_s / 2 < cost.time_s <= full.time_s
    assert not estimate(recipe, recipe.entry("prefix_tuning"), parse("1x1xL4")).changes.keys() & {"lora", "optimizer"}


def test_ia3_takes_less_than_lora(folder: Path) -> None:
    alone = ("cluster.sft.workers=1",)
    scaled = planned(folder, "sft", "1x1xH100", "sft.ia3={}", "sft.weight_decay=0", *alone)
    assert scaled.trained == LAYERS * (2 * KEYS + FEED_FORWARD)  # keys, values and the feed-forward's inputs
    assert scaled.rank_bytes < planned(folder, "sft", "1x1xH100", "sft.lora={rank: 16}", *alone).rank_bytes


def test_a_reward_model_has_no_output_embedding(folder: Path) -> None:
    cost = planned(folder, "reward_model", "1x8xH100", "cluster.reward_model.workers=8")
    vocabulary = 128_256
    assert cost.parameters == LLAMA_8B - vocabulary * HIDDEN and cost.memory["embedding gradient"] == 0


def test_four_bits_fit_where_sixteen_do_not(folder: Path) -> None:
    lora = ("cluster.sft.workers=1", "cluster.sft.recompute=full", "cluster.sft.micro_batch_rows=1")
    wide = planned(folder, "sft", "1x1xL4", "sft.lora={rank: 16}", *lora)
    narrow = planned(folder, "sft", "1x1xL4", "sft.lora={rank: 16, qlora: true}", *lora)
    linear = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KEYS + 3 * HIDDEN * FEED_FORWARD)
    assert wide.memory["weights"] - narrow.memory["weights"] == pytest.approx((2 - 0.516) * linear, rel=1e-3)
    assert narrow.fits
    assert narrow.rank_bytes < wide.rank_bytes


def test_a_stage_that_cannot_fit_names_what_does_and_that_fits(folder: Path) -> None:
    cost = planned(folder, "sft", "1x1xA100", "cluster.sft.workers=1")
    assert not cost.fits
    assert "a rank needs" in cost.why and "that A100 has" in cost.why
    remedy = cost.why.rpartition("; ")[2].removesuffix(" would fit")
    assert remedy == "micro_batch_rows: 1, recompute: full, offload: optimizer"
    options = [f"cluster.sft.{option.replace(': ', '=')}" for option in remedy.split(", ")]
    fixed = planned(folder, "sft", "1x1xA100", "cluster.sft.workers=1", *options)
    assert fixed.fits, fixed.why


@pytest.mark.parametrize(
    ("node", "given", "undone"),
    [
        ("SMALL:12GiB:100TFLOPS", ("sft.ia3={}", "sft.weight_decay=0"), {"ia3": None}),
        ("L4", ("sft.optimizer=muon",), {"optimizer": "adamw"}),
        ("L4", ("sft.optimizer=muon", "sft.adam_learning_rate=0.001"), {"adam_learning_rate": None}),
    ],
)
def test_a_remedy_with_lora_undoes_what_does_not_go_with_it(
    folder: Path, node: str, given: tuple[str, ...], undone: dict[str, Any]
) -> None:
    cluster = ("cluster.sft.workers=1", "cluster.sft.micro_batch_rows=1", "cluster.sft.recompute=full",
               "cluster.sft.offload=optimizer")  # fmt: skip
    one = planned(folder, "sft", f"1x1x{node}", *given, *cluster)
    assert undone.items() <= one.changes.items() and one.changes["lora"] == {"rank": 16}
    lora = json.dumps({"rank": 16, "qlora": one.changes.get("lora.qlora", False)})
    removed = [key for key, value in one.changes.items() if value is None]
    assert all(f"without {key}" in one.why for key in removed)
    kept = [option for option in given if option.partition("=")[0].removeprefix("sft.") not in removed]
    changed = [f"sft.optimizer={json.dumps(one.changes['optimizer'])}"] if "optimizer" in one.changes else []
    assert planned(folder, "sft", f"1x1x{node}", *kept, *cluster, f"sft.lora={lora}", *changed).fits


def test_fewer_gpus_than_workers(folder: Path) -> None:
    cost = planned(folder, "sft", "1x4xH100", "sft.batch_tokens=65536", "cluster.sft.workers=8",
                   "cluster.sft.zero_stage=3", "cluster.sft.recompute=full")  # fmt: skip
    assert not cost.fits
    assert cost.why == "8 workers need a GPU each, 1x4xH100 has 4; workers: 4 would fit"


def test_fewer_rows_than_workers(folder: Path) -> None:
    cost = planned(folder, "sft", "1x8xH100", "cluster.sft.workers=8", "cluster.sft.zero_stage=3")
    assert not cost.fits and "a step has 4 rows for 8 workers" in cost.why  # 2,048 tokens, rows of 512


def test_a_token_visits_two_of_eight_experts(folder: Path) -> None:
    def seconds(model: str) -> float:
        cost = planned(folder, "sft", "1x8xH100", f"base.model={model}", "sft.batch_tokens=65536",
                       "cluster.sft.micro_batch_rows=64")  # fmt: skip
        assert cost.time_s is not None
        return cost.time_s

    active, dense = 12.9e9, 8.03e9  # published: Mixtral 8x7B activates 12.9B of 46.7B
    assert seconds("mixtral-8x7b") / seconds("llama-3.1-8b") == pytest.approx(active / dense, rel=0.1)


def test_a_gpu_that_is_asked_for_on_cpus(folder: Path) -> None:
    cost = planned(folder, "sft", "1x16xCPU:64GiB:0.1TFLOPS", "cluster.sft.gpus_per_worker=1")
    assert not cost.fits and "1x16xCPU has none" in cost.why and cost.time_s is None


def test_ppo_holds_a_sampler_a_reference_and_a_reward_model(folder: Path) -> None:
    settings = ("cluster.ppo.workers=8", "cluster.ppo.recompute=full", "cluster.ppo.zero_stage=3")
    cost = planned(folder, "ppo", "1x8xH100", *settings)
    assert cost.memory["reference"] == cost.memory["reward model"] == 2 * LLAMA_8B // 8
    assert cost.memory["sampler beyond activations"] > 2 * LLAMA_8B - (
        cost.memory["activations"] + cost.memory["working"] + cost.memory["embedding gradient"]
    )
    assert cost.fits, cost.why
    without = planned(folder, "ppo", "1x8xH100", *settings, "ppo.lora={rank: 16}")
    assert "reference" not in without.memory  # the base with its adapters off


def test_time_falls_with_workers_and_speed(folder: Path) -> None:
    def seconds(nodes: str, workers: int) -> float:
        settings = ("zero_stage=3", f"workers={workers}", "micro_batch_rows=8")
        options = [f"cluster.sft.{setting}" for setting in settings]
        seconds = planned(folder, "sft", nodes, "sft.batch_tokens=65536", *options).time_s
        assert seconds is not None
        return seconds

    one, two = seconds("1x8xH100", 1), seconds("1x8xH100", 2)
    assert one / two == pytest.approx(2)
    assert 2039 / 3350 < two / seconds("1x8xA100", 2) * 989 / 312 < 3350 / 2039  # of products, and of memory
    by_hand = 6 * LLAMA_8B * 2 * NUM_BYTES / 4 / (0.75 * 989e12)  # a GPU that does nothing but large products
    assert 1 < one / by_hand < 2.5


def test_rows_that_ranks_share_unevenly_take_as_long_as_the_slowest_rank(folder: Path) -> None:
    def seconds(rows: int) -> float:
        options = (f"sft.batch_tokens={rows * 512}", "cluster.sft.workers=4", "cluster.sft.zero_stage=3")
        cost = planned(folder, "sft", "1x4xMINE:80GiB:20TFLOPS", *options, "cluster.sft.micro_batch_rows=8")
        assert cost.time_s is not None
        return cost.time_s

    assert seconds(20) / seconds(24) == pytest.approx(1, rel=0.01), "of all tokens, on full ranks"
    assert seconds(21) / seconds(24) == pytest.approx(24 / 21, rel=0.01), "one rank has six rows, the others five"


@pytest.mark.parametrize("workers", [1, 4])
def test_ppo_generates_at_the_speed_of_its_engines(folder: Path, workers: int) -> None:
    """Where a worker has several threads, they spin beside an operation. Several workers have a node each."""
    cores = parse("4x2xCPU:64GiB:0.1TFLOPS")
    measured = replace(cores, bytes_per_s=40e9, read_bytes_per_s=40e9, operation_s=1e-5, busy_operation_s=2e-5)

    def seconds(threads: int, **changes: float) -> float:
        options = [f"cluster.ppo.{each}" for each in (f"workers={workers}", f"threads_per_worker={threads}")]
        recipe = reader.load(folder / "recipe.yaml", STAGES, overrides=["base.model=smollm2-135m", *options])
        time_s = estimate(recipe, recipe.entry("ppo"), replace(measured, **changes)).time_s
        assert time_s is not None
        return time_s

    assert seconds(2) > 1.02 * seconds(2, busy_operation_s=1e-5)
    assert seconds(1) == seconds(1, busy_operation_s=1e-5)
    if workers == 4:
        assert seconds(2) == pytest.approx(seconds(2, read_bytes_per_s=80e9, nodes=2, per_node=4)), "two of a node"


def test_data_without_a_file_has_no_time(folder: Path) -> None:
    (folder / "new.yaml").write_text(NEW)
    recipe = reader.load(folder / "new.yaml", STAGES)
    cost = estimate(recipe, recipe.entry("sft"), parse("1x2xCPU:8GiB:0.1TFLOPS"))
    assert cost.time_s is None and "once it is read" in cost.why
    assert cost.parameters == 192 * 4096 + 3 * (4 * 192 * 192 + 3 * 192 * 512 + 2 * 192) + 192


@pytest.mark.parametrize(
    ("name", "layers"),
    [("Qwen/Qwen3-8B", 36), ("qwen2.5-7b-instruct", 28), ("mistralai/Mixtral-8x7B-Instruct-v0.1", 32)],
)
def test_configs_that_come_with_rayse(name: str, layers: int) -> None:
    assert base_config(name)["num_hidden_layers"] == layers


def test_a_folder_needs_its_config_alone(tmp_path: Path) -> None:
    config: dict[str, Any] = {"model_type": "llama", "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert base_config(str(tmp_path)) == config


def test_a_gguf_file_is_planned_without_its_weights_being_unpacked(tmp_path: Path) -> None:
    weights = gguf_files.write(tmp_path / "model.gguf")
    config = base_config(str(tmp_path / "model.gguf"))
    assert (config["model_type"], config["dtype"]) == ("qwen2", "bfloat16")
    model = with_adapters(json.dumps(config), "{}")
    assert {weight.name: weight.shape for weight in model.weights} == {
        name: tuple(tensor.shape)
        for name, tensor in weights.items()
        if name != "lm_head.weight" or not model.config["tie_word_embeddings"]
    }


def test_a_base_that_is_not_there_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no waiting for a hub that cannot be reached
    with pytest.raises(UserError, match=r"base.model: nobody/unheard-of: .*config\.json.*weights are not needed"):
        base_config("nobody/unheard-of")
