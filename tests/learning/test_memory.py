"""Memory of a rank that trains a model of 330M parameters in bfloat16: at ZeRO 3 no rank holds the model while it
loads, and recomputing activations takes less.

Measured: anonymous resident memory (files that are mapped do not count), sampled every few milliseconds.
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
import torch
import torch.distributed as dist

from pipelines.learning.batch import PackedRows
from pipelines.learning.engine import Engine, OptimizerPlan, partitioned
from pipelines.learning.model import NextTokenLearner, from_folder, num_parameters, recompute
from tests.learning.packed import write_tokens
from tests.learning.processes import in_processes

pytestmark = pytest.mark.slow

SHAPE = {
    "vocab_size": 16_384, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
ADAMW = OptimizerPlan("adamw", learning_rate=1e-5, adam_learning_rate=1.0, weight_decay=0.0, clip_norm=1.0)
LENGTH = 512


def anonymous_bytes() -> int:
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match.group(1)) * 1024


class Peak:
    """The most anonymous memory over what there was at the start, within a with-block."""

    def __enter__(self) -> Peak:
        self.start, self.bytes, self._over = anonymous_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._over.wait(0.003):
            self.bytes = max(self.bytes, anonymous_bytes() - self.start)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


def measure(folder: Path, what: str) -> None:
    rows = PackedRows(folder / "train.arrow")
    with Peak() as loading, partitioned(3, torch.bfloat16):
        model = from_folder(folder / "model", torch.bfloat16)
    loaded = anonymous_bytes() - loading.start
    recompute(model, "full" if what == "recompute" else "none")
    engine = Engine(NextTokenLearner(model), [], ADAMW, zero_stage=3)
    peaks = []
    for _ in range(2):
        with Peak() as step:
            batch = rows.read(np.arange(4))
            engine.backward(batch, scale=1 / batch.num_labels, last=True)
        peaks.append(step.bytes)
        engine.step(1.0)
    if dist.get_rank() == 0:
        figures = {
            "parameters": num_parameters(model), "load_peak": loading.bytes, "loaded": loaded,
            "trained": anonymous_bytes() - loading.start, "activations": peaks[-1],
        }  # fmt: skip
        (folder / f"{what}.json").write_text(json.dumps(figures))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = write_tokens(tmp_path_factory.mktemp("memory"), num_rows=8, length=LENGTH, vocabulary=16_384)
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**SHAPE)).to(torch.bfloat16).save_pretrained(folder / "model", max_shard_size="200MB")  # pyright: ignore[reportCallIssue, reportArgumentType]
    for what in ("plain", "recompute"):
        in_processes(measure, 2, folder, what)
        (folder / "group-2").unlink()
    return {what: json.loads((folder / f"{what}.json").read_text()) for what in ("plain", "recompute")}


def test_at_zero_3_a_rank_holds_its_part_from_loading_on(figures: dict[str, dict[str, int]]) -> None:
    """Two bytes a parameter would be the whole model; half of it and a shard of 200 MB are there at once."""
    plain = figures["plain"]
    assert plain["loaded"] < 1.6 * plain["parameters"]
    assert plain["load_peak"] < 1.6 * plain["parameters"] + 250e6


def test_trained_state_is_shared_out(figures: dict[str, dict[str, int]]) -> None:
    """bfloat16 weights 2, float32 masters, moments and gradients 16 bytes a parameter, of which a rank has half: 9."""
    plain = figures["plain"]
    assert plain["trained"] < 1.3 * 9 * plain["parameters"]


def test_recomputing_takes_a_third_of_the_activations_memory(figures: dict[str, dict[str, int]]) -> None:
    assert figures["recompute"]["activations"] < figures["plain"]["activations"] / 3
