"""What an engine takes by formula: operations against those counted on the model itself, memory against counts by hand.

That the constants fit what engines take is measured: docs/planning.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.inference import weights
from pipelines.inference.comparing import compare
from pipelines.inference.estimates import (
    GPU_READING,
    GPU_SCORED_TOKEN_S,
    Comparison,
    Engine,
    EngineWork,
    Speed,
    engine_bytes,
    engine_seconds,
    forward_flops,
)
from pipelines.inference.hardware import PeakMemory
from pipelines.inference.model_config import read_config
from pipelines.learning.model import from_folder, num_parameters, shape_of
from pipelines.learning.throughput import training_flops
from tests import families

HIDDEN, VOCABULARY, PARAMETERS = 64, 500, 10**6
CONFIG = {"hidden_size": HIDDEN, "vocab_size": VOCABULARY, "num_hidden_layers": 2, "num_attention_heads": 2,
          "tie_word_embeddings": True}  # fmt: skip
ENGINE = Engine(CONFIG, PARAMETERS, 4 * PARAMETERS, "float32", max_tokens=100, kv_cache_bytes=10**6, on_cpu=True)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_forward_pass_is_a_third_of_training(family: str, tmp_path: Path) -> None:
    """Training counts the parameters of the model's modules, one by one; the formula has their number and a config."""
    families.write(tmp_path, family)
    model = from_folder(tmp_path)
    assert weights.num_parameters(tmp_path) == num_parameters(model)
    training = training_flops(shape_of(model), 96)
    forward = forward_flops(model.config.to_dict(), num_parameters(model), 96)
    assert forward == pytest.approx((training.per_token + training.per_predicted_token) / 3, rel=1e-9)


def test_memory_by_part() -> None:
    parts = engine_bytes(ENGINE)
    head = 4 * VOCABULARY * HIDDEN
    assert (parts["weights"], parts["KV cache"], parts["packed head"]) == (4 * PARAMETERS, 10**6, head)
    assert "packed head" not in engine_bytes(replace(ENGINE, config=CONFIG | {"tie_word_embeddings": False}))
    twice = engine_bytes(replace(ENGINE, max_tokens=200))
    assert twice["logits"] == 2 * parts["logits"] > 4 * 200 * VOCABULARY
    assert engine_bytes(ENGINE, scored=False)["logits"] < parts["logits"]
    on_gpu = engine_bytes(replace(ENGINE, on_cpu=False))
    assert on_gpu == {"weights": 4 * PARAMETERS, "KV cache": 10**6, "workspace": 2 * 2**30}


def test_time_adds_up_over_work() -> None:
    read = EngineWork.scoring([[1] * 50, [1] * 30])
    replied = EngineWork.generating([[1] * 20], [40], temperature=0.0)
    assert (read.rows, read.row_tokens, replied.reply_tokens, replied.steps) == (2, 80, 40, 40)
    both = read + replied
    assert (both.rows, both.row_tokens, both.reply_tokens, both.steps) == (3, 100, 40, 40)
    only_products = Speed(1e9, bytes_per_s=1e30)
    seconds = engine_seconds(ENGINE, both, only_products)
    head = 2 * VOCABULARY * HIDDEN
    attention = 4 * 2 * HIDDEN * 140 / 3  # two layers, rows of 140 tokens in three
    products = (100 + 40) * (2 * PARAMETERS + attention) - 20 * head  # the prompt's tokens get no logits
    assert seconds == pytest.approx(products / 1e9)
    assert engine_seconds(ENGINE, both, replace(only_products, flops_per_s=2e9)) == pytest.approx(seconds / 2)
    gpu = replace(ENGINE, on_cpu=False)
    unscored = engine_seconds(gpu, replace(both, scored_tokens=0), only_products)
    of_scored = 80 * (GPU_SCORED_TOKEN_S + head / 1e9 / GPU_READING)
    assert engine_seconds(gpu, both, only_products) - unscored == pytest.approx(of_scored)
    assert seconds < engine_seconds(gpu, both, only_products) < 10 * seconds, "its efficiencies are guesses, and lower"


def test_a_small_model_waits_for_the_host_and_a_large_one_for_its_memory() -> None:
    replied = EngineWork.generating([[1] * 20] * 2, [40, 30], temperature=0.0)
    host = Speed(1e30, 1e30, operation_s=1e-5)
    alone, deeper = ENGINE, replace(ENGINE, config=CONFIG | {"num_hidden_layers": 4})
    assert engine_seconds(deeper, replied, host) > engine_seconds(alone, replied, host) > 40 * 10 * 1e-5
    memory = Speed(1e30, bytes_per_s=1e9)
    read = engine_seconds(replace(ENGINE, weight_bytes=8 * PARAMETERS), replied, memory)
    read -= engine_seconds(ENGINE, replied, memory)
    assert read == pytest.approx(40 * 4 * PARAMETERS / 1e9)  # all weights, for each token of all replies at once


def test_an_engine_takes_its_own_measures_where_they_are_known() -> None:
    """How fast weights are read for a single row, and how long an operation takes between products."""
    drawn = EngineWork.generating([[1] * 20] * 2, [40, 30], temperature=1.0)
    greedy = replace(drawn, drawn_tokens=0)
    assert drawn.drawn_tokens == 70
    host = Speed(1e30, 1e30, operation_s=1e-5)
    assert engine_seconds(ENGINE, drawn, host) > engine_seconds(ENGINE, greedy, host)
    busy = replace(host, busy_operation_s=2e-5)
    assert engine_seconds(ENGINE, drawn, busy) == pytest.approx(2 * engine_seconds(ENGINE, drawn, host))
    memory = Speed(1e30, bytes_per_s=1e9)
    slower = replace(memory, read_bytes_per_s=0.5e9)
    assert engine_seconds(ENGINE, drawn, slower) == pytest.approx(2 * engine_seconds(ENGINE, drawn, memory))


def test_errors_are_fractions_of_what_was_measured() -> None:
    comparison = Comparison(memory_bytes=100, planned_bytes=110, planned_s=9.0)
    facts = comparison.errors(10.0)
    assert facts == pytest.approx(
        {"plan/time_error": -0.1, "plan/memory_error": 0.1, "memory/rank_bytes": 100, "time/engine_s": 10.0}
    )
    assert "plan/memory_error" not in replace(comparison, memory_bytes=0).errors(10.0)
    assert "plan/time_error" not in comparison.errors(0.0)
    unknown = replace(comparison, planned_bytes=0, planned_s=0.0)
    assert unknown.errors(10.0) == {"memory/rank_bytes": 100, "time/engine_s": 10.0}


def test_a_config_that_the_formulas_do_not_know_leaves_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mixture that names its experts in a way of its own; and products that hold memory themselves."""
    families.write(tmp_path, "Qwen3-MoE")
    config = read_config(tmp_path)
    memory = PeakMemory("cpu")
    held = iter([100, 10**9])
    monkeypatch.setattr(memory, "bytes", lambda: next(held))

    def compared(config: dict[str, Any]) -> Comparison:
        work = EngineWork.scoring([[1] * 50])
        return compare(tmp_path, config, "float32", work, memory, max_tokens=100, kv_cache_bytes=10**6, on_cpu=True)

    unknown = {name: value for name, value in config.items() if name != "num_experts_per_tok"}
    assert compared(unknown) == Comparison(100, 0, 0.0)
    monkeypatch.setattr("pipelines.inference.hardware.peak_flops_per_s", lambda *_: next(held, 1e9))
    held = iter([100])
    known = compared(config)
    assert known.memory_bytes == 100 and known.planned_bytes > 0 and known.planned_s > 0
