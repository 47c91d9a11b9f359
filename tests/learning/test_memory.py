"""Memory of a rank: what training a model of 430M parameters takes at ZeRO 3, and what recomputing activations saves.

Anonymous memory alone counts: pages of the model's files are shared by all processes and can be dropped. malloc gives
freed tensors back at once here, or what it keeps for later, 2 bytes a parameter, would count too.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipelines.learning.batch import IGNORE, PackedBatch
from pipelines.learning.engine import Engine, OptimizerPlan, partitioned
from pipelines.learning.model import NextTokenLearner, Recompute, from_folder, num_parameters, recompute
from tests.learning.processes import anonymous_bytes, in_processes

ADAMW = OptimizerPlan("adamw", learning_rate=1e-4, adam_learning_rate=1e-4, weight_decay=0.0, clip_norm=1.0)
BIG = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 34, "num_attention_heads": 16,
       "num_key_value_heads": 8, "vocab_size": 32_768}  # fmt: skip
DEEP = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 6,
        "num_key_value_heads": 6, "vocab_size": 4096}  # fmt: skip


@contextmanager
def peak() -> Iterator[list[int]]:
    """The largest anonymous memory inside, sampled, as the list's only number afterwards."""
    seen, done = [anonymous_bytes()], threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            seen[0] = max(seen[0], anonymous_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def batch(rows: int, length: int, vocabulary: int) -> PackedBatch:
    tokens_BT = torch.tensor(np.random.default_rng(0).integers(0, vocabulary, (rows, length)))
    labels_BT = torch.cat((tokens_BT[:, 1:], torch.full((rows, 1), IGNORE)), 1)
    return PackedBatch(tokens_BT, torch.arange(length).expand(rows, -1), labels_BT)


def train(folder: Path, shape: dict[str, Any], what: Recompute, length: int, rows: int, zero_stage: Any) -> None:
    """Loads the model and makes two steps; writes this rank's figures, in bytes over what the process had before."""
    with partitioned(zero_stage, torch.bfloat16), torch.no_grad():
        pass  # DeepSpeed is imported now
    gc.collect()
    before = anonymous_bytes()
    with peak() as loading, partitioned(zero_stage, torch.bfloat16):
        model = from_folder(folder / "model", torch.bfloat16)
    recompute(model, what)
    engine = Engine(NextTokenLearner(model).train(), [], ADAMW, zero_stage=zero_stage)
    data = batch(rows, length, shape["vocab_size"])

    def step() -> None:
        engine.backward(data, scale=1 / data.num_labels, last=True)
        engine.step(1.0)

    step()  # makes the optimizer's state
    gc.collect()
    steady = anonymous_bytes()
    with peak() as stepping:
        step()
    figures = {"parameters": num_parameters(model), "load_peak": loading[0] - before, "steady": steady - before,
               "peak": stepping[0] - before}  # fmt: skip
    (folder / f"{what}-{torch.distributed.get_rank()}.json").write_text(json.dumps(figures))


def measured(folder: Path, shape: dict[str, Any], what: Recompute, world: int, *settings: Any) -> dict[str, float]:
    """The figures of the rank that took most."""
    if not (folder / "model").is_dir():
        torch.manual_seed(0)
        config = Qwen2Config(**shape, max_position_embeddings=2048, tie_word_embeddings=True)
        model: Any = Qwen2ForCausalLM(config)
        model.to(torch.bfloat16).save_pretrained(folder / "model")
    in_processes(partial(_in_rank, shape, what, settings), world, folder, method="spawn")
    ranks = [json.loads(file.read_text()) for file in folder.glob(f"{what}-*.json")]
    return {name: max(rank[name] for rank in ranks) for name in ranks[0]}


def _in_rank(shape: dict[str, Any], what: Recompute, settings: tuple[Any, ...], folder: Path) -> None:
    train(folder, shape, what, *settings)


@pytest.fixture(autouse=True)
def freed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of glibc's malloc for the processes that are started."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", str(2**20))


@pytest.mark.slow
def test_a_rank_at_zero_3_holds_its_part_of_weights_masters_and_moments(tmp_path: Path) -> None:
    """Of each parameter two ranks share 2 bytes of weight, 4 of master, 8 of moments and 4 of the gradient's sum."""
    figures = measured(tmp_path, BIG, "full", 2, 16, 1, 3)  # few tokens: CPUs without bfloat16 take 2 s for each
    by_parameter = {name: value / figures["parameters"] for name, value in figures.items()}
    assert figures["parameters"] > 400e6
    assert by_parameter["load_peak"] < 2.1, by_parameter
    assert by_parameter["steady"] < 11.0, by_parameter
    assert by_parameter["peak"] < 13.2, by_parameter


@pytest.mark.slow
def test_activations_take_a_third_where_they_are_computed_again(tmp_path: Path) -> None:
    kept, again = (measured(tmp_path, DEEP, what, 1, 1024, 4, 1) for what in ("none", "full"))
    over_state = [figures["peak"] - figures["steady"] for figures in (kept, again)]
    assert over_state[0] > 3 * over_state[1], over_state
