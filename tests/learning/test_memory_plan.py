"""The memory plan against published parameter counts, and against peaks that were measured on an H100 and an H200."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from pipelines.learning import adapters
from pipelines.learning.memory import Setting, on_meta, rank_bytes
from pipelines.learning.model import SIZES, num_parameters
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_published_files(name: str) -> None:
    model = on_meta(config(name))
    assert num_parameters(model) == PUBLISHED[name]
    assert all(parameter.is_meta for parameter in model.parameters())


def scratch(size: str) -> PreTrainedModel:
    """The model that tests/gpu measures, on the meta device."""
    shape = EIGHT_B if size == "8b" else SIZES[size]
    return on_meta({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate, "tie_word_embeddings": shape.tied,
    })  # fmt: skip


def measured(card: str) -> dict[str, float]:
    """GiB at the peak, without what earlier measurements of the process had left, by name."""
    peaks, left, at_s = {}, 0.0, 0.0
    for line in map(json.loads, (RESULTS / f"{card}.jsonl").read_text().splitlines()):
        left, at_s = (0.0 if line["at_s"] < at_s else left), line["at_s"]  # the clock went back: another process
        if "peak_gib" in line and line["name"].startswith(("train", "LoRA")):
            peaks[line["name"]] = line["peak_gib"] - left
        left = line.get("left_gib", left)
    return peaks


def is_planned(name: str) -> bool:
    """AdamW at ZeRO 1 on the GPU alone: what the plan's numbers are for."""
    return not any(word in name for word in ("Muon", "ZeRO", "host"))


@pytest.mark.parametrize(
    ("card", "name"),
    [(card, name) for card in ("nvidia-h100", "nvidia-h200") for name in measured(card) if is_planned(name)],
)
def test_peaks_are_those_that_were_measured(card: str, name: str) -> None:
    kind, size = name.split(",")[0].split()[:2]
    model = scratch(size)
    if kind == "LoRA":
        with torch.device("meta"):
            model = cast(PreTrainedModel, adapters.attach(model, LORA, 0).get_base_model())
    setting = Setting(
        tokens=MICRO_ROWS[size] * LENGTH * (2 if "twice" in name else 1),
        recompute=next(what for what in ("none", "attention", "full") if f"recompute {what}" in name),
        compiled="not compiled" not in name,
    )  # fmt: skip
    planned = sum(rank_bytes(model, setting).values()) / 2**30
    assert planned == pytest.approx(measured(card)[name], rel=0.1)


def test_ranks_share_by_zero_stage() -> None:
    model, alone = on_meta(config("qwen3-0.6b")), Setting(tokens=2048)
    parameters = PUBLISHED["qwen3-0.6b"]
    shared = rank_bytes(model, replace(alone, world=8, zero_stage=3))
    assert shared["weights"] == 2 * (parameters // 8)
    assert shared["masters"] == 4 * (parameters // 8) and shared["moments"] == 8 * (parameters // 8)
    assert rank_bytes(model, replace(alone, world=8))["weights"] == 2 * parameters
    assert rank_bytes(model, replace(alone, offload=True))["moments"] == 0
    assert rank_bytes(model, replace(alone, dtype=torch.float32, zero_stage=0))["masters"] == 0
