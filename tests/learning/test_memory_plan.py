"""The plan of training, memory and time, against published parameter counts and against what GPUs were measured at."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from pipelines.learning import estimates
from pipelines.learning.memory import Setting, rank_bytes
from pipelines.learning.model import on_meta, shape_of
from pipelines.learning.shapes import READ, SIZES, ModelShape, Recompute, of_config
from pipelines.learning.throughput import training_flops
from pipelines.planning.machines import parse
from pipelines.planning.models import beside_lora
from tests import families
from tests.gpu.speed import EIGHT_B, LENGTH, LORA, MICRO_ROWS, VOCABULARY

CONFIGS = Path(__file__).parents[2] / "pipelines" / "recipes" / "configs"
RESULTS = Path(__file__).parents[1] / "gpu" / "results"
PUBLISHED = {  # input and output embeddings count once where they are tied
    "llama-3.1-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen2.5-7b": 7_615_616_512,
    "mixtral-8x7b": 46_702_792_704,
    "smollm2-135m": 134_515_008,
}


def config(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / f"{name}.json").read_text())


def shape(config: dict[str, Any]) -> ModelShape:
    model = of_config(config)
    assert model is not None
    return model


def assert_as_transformers_makes_it(config: dict[str, Any]) -> None:
    ours, model = shape(config), on_meta(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    theirs = shape_of(model)
    assert set(ours.weights) == set(theirs.weights) and len(ours.weights) == len(theirs.weights)
    assert [ours.config.get(key) for key in READ if key != "head_dim"] == [
        theirs.config.get(key) for key in READ if key != "head_dim"
    ]
    columns = theirs.config.get("head_dim") or theirs.config["hidden_size"] // theirs.config["num_attention_heads"]
    assert ours.config["head_dim"] == columns


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_published_files(name: str) -> None:
    assert shape(config(name)).parameters == PUBLISHED[name]
    assert_as_transformers_makes_it(config(name))


@pytest.mark.parametrize("family", families.FAMILIES)
def test_weights_of_a_family_are_those_that_transformers_makes(family: str) -> None:
    import transformers

    spec = families.FAMILIES[family]
    config = getattr(transformers, spec.config)(**(families.SHAPE | spec.differences)).to_dict()
    assert_as_transformers_makes_it(config)
    optional = ("num_key_value_heads", "head_dim", "tie_word_embeddings", "num_local_experts", "num_experts",
                "num_experts_per_tok", "moe_intermediate_size")  # fmt: skip
    for key in optional:
        assert_as_transformers_makes_it({name: value for name, value in config.items() if name != key})


def test_a_family_with_names_of_its_own_is_read_by_the_common_ones() -> None:
    model = shape_of(on_meta({"model_type": "gpt2", "n_embd": 96, "n_layer": 2, "n_head": 3, "vocab_size": 100}))
    read = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    assert [model.config[name] for name in read] == [96, 2, 3, 1024]
    assert training_flops(model, 16).per_predicted_token == 6 * 96 * 100


def test_other_configs_are_left_to_transformers() -> None:
    llama = config("llama-3.1-8b")
    assert of_config(llama | {"model_type": "gpt2"}) is None
    assert of_config(llama | {"attention_bias": True}) is None
    assert of_config({name: value for name, value in llama.items() if name != "vocab_size"}) is None
    assert of_config(config("mixtral-8x7b") | {"mlp_only_layers": [1]}) is None


@cache
def scratch(size: str, kind: str) -> ModelShape:
    """The model that tests/gpu measures. kind: train, or LoRA or QLoRA beside it."""
    sizes = EIGHT_B if size == "8b" else SIZES[size]
    model = shape({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": sizes.hidden, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads, "max_position_embeddings": LENGTH,
        "intermediate_size": sizes.intermediate, "tie_word_embeddings": sizes.tied,
    })  # fmt: skip
    return model if kind == "train" else beside_lora(model, {"rank": LORA.rank, "targets": None, "dora": False})


def setting_of(name: str) -> tuple[ModelShape, Setting]:
    kind, size = name.split(",")[0].split()[:2]
    recompute: Any = next((what for what in get_args(Recompute) if f"recompute {what}" in name), "none")
    return scratch(size, kind), Setting(
        tokens=MICRO_ROWS[size] * LENGTH * (2 if "twice" in name else 1),
        recompute=recompute,
        compiled="not compiled" not in name,
        four_bit=kind == "QLoRA",
        offload="on the host" in name,
        zero_stage=next((stage for stage in (2, 3) if f"ZeRO {stage}" in name), 1),
        muon="Muon" in name,
    )


def measured(card: str) -> dict[str, dict[str, Any]]:
    """Lines of training by name, `peak_gib` without what earlier measurements of the process had left."""
    lines, left, at_s = {}, 0.0, 0.0
    for line in map(json.loads, (RESULTS / f"{card}.jsonl").read_text().splitlines()):
        left, at_s = (0.0 if line["at_s"] < at_s else left), line["at_s"]  # the clock went back: another process
        if "peak_gib" in line and line["name"].startswith(("train", "LoRA", "QLoRA")):
            lines[line["name"]] = line | {"peak_gib": line["peak_gib"] - left}
        left = line.get("left_gib", left)
    return lines


H100, H200 = "nvidia-h100", "nvidia-h200"
OLDER = {(H100, "QLoRA 1b, recompute none")}  # compiled anew for every layer then, which took 5 GiB more


@pytest.mark.parametrize(
    ("card", "name"), [(card, name) for card in (H100, H200) for name in measured(card) if (card, name) not in OLDER]
)
def test_peaks_are_those_that_were_measured(card: str, name: str) -> None:
    model, setting = setting_of(name)
    planned = sum(rank_bytes(model, setting).values()) / 2**30
    assert planned == pytest.approx(measured(card)[name]["peak_gib"], rel=0.1)


def is_timed(card: str, name: str) -> bool:
    """What the plan's time is for: compiled, or ZeRO 3. Small models on the H100 waited for the host of an earlier
    version."""
    waited = card == H100 and ("350m, recompute full" in name or "ZeRO" in name or "Muon" in name or "QLoRA" in name)
    return ("not compiled" not in name or "ZeRO 3" in name) and "on the host" not in name and not waited


@pytest.mark.parametrize(
    ("card", "name"), [(card, name) for card in (H100, H200) for name in measured(card) if is_timed(card, name)]
)
def test_times_are_those_that_were_measured(card: str, name: str) -> None:
    model, setting = setting_of(name)
    line, machine = measured(card)[name], parse(f"1x1x{card.removeprefix('nvidia-')}")
    tokens = line["tokens_per_s"] * line["step_s"]
    flops = training_flops(model, LENGTH).total(tokens, tokens)
    speed = estimates.Speed(machine.flops_per_s, machine.bytes_per_s)
    micro_batches = tokens / setting.tokens / setting.world
    planned_s = estimates.seconds(
        model, setting, speed, estimates.TrainingWork(flops, tokens, LENGTH, 1, micro_batches)
    )
    assert planned_s == pytest.approx(line["step_s"], rel=0.3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_logits_are_made_again_of_predicted_tokens_alone(device: str) -> None:
    """On hardware that takes time for products alone."""
    model, setting = scratch("350m", "train"), Setting(tokens=2048, device=device, dtype="float32")
    head = VOCABULARY * SIZES["350m"].hidden

    def seconds(predicted: float, *, logits_again: bool = True) -> float:
        work = estimates.TrainingWork(1e15, 2048, LENGTH, 1, predicted=predicted)
        return estimates.seconds(model, replace(setting, logits_again=logits_again), estimates.Speed(1e12, 1e30), work)

    efficiency = estimates.CPU_EFFICIENCY if device == "cpu" else 1
    again_s = 2 * head * 2048 / (1e12 * efficiency)
    assert seconds(1.0) - seconds(0.25) == pytest.approx(0.75 * again_s)
    assert seconds(0.25) - seconds(0.25, logits_again=False) == pytest.approx(0.25 * again_s)


def test_ranks_share_by_zero_stage() -> None:
    model, alone = shape(config("qwen3-0.6b")), Setting(tokens=2048)
    parameters = PUBLISHED["qwen3-0.6b"]
    shared = rank_bytes(model, replace(alone, world=8, zero_stage=3))
    assert shared["weights"] == 2 * (parameters // 8)
    assert shared["masters"] == 4 * (parameters // 8) and shared["moments"] == 8 * (parameters // 8)
    assert rank_bytes(model, replace(alone, world=8))["weights"] == 2 * parameters
    assert rank_bytes(model, replace(alone, offload=True))["moments"] == 0
    assert rank_bytes(model, replace(alone, dtype="float32", zero_stage=0))["masters"] == 0
    assert rank_bytes(model, replace(alone, muon=True))["moments"] < 8 * parameters
