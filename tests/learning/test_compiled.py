"""Compiled decoder layers against the same layers as they are: losses, gradient norms and weights after some steps."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.utils as dynamo

from pipelines.learning.batch import PackedRows
from pipelines.learning.engine import Engine, OptimizerPlan
from pipelines.learning.loop import compiles
from pipelines.learning.model import NextTokenLearner, Recompute, Size, compile_layers, from_scratch, recompute
from tests.learning.packed import write_tokens
from tests.learning.processes import in_processes

SIZE = Size(32, 2, 2, 1, 64)
ADAMW = OptimizerPlan("adamw", learning_rate=1e-3, adam_learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
CASES: tuple[Recompute, ...] = ("none", "attention", "full")


def steps(folder: Path, compiled: bool, what: Recompute) -> list[torch.Tensor]:
    """Losses and gradient norms of three steps on batches of different documents, and the weights after them."""
    rows = PackedRows(folder / "train")
    model = from_scratch(SIZE, vocabulary=128, length=64, seed=1)
    if compiled:
        compile_layers(model)
    recompute(model, what)
    engine = Engine(NextTokenLearner(model).train(), [], ADAMW)
    results = []
    for step in range(3):
        batch = rows.read(np.arange(4 * step, 4 * step + 4))
        loss = engine.backward(batch, scale=1 / batch.num_labels, last=True)
        results += [loss, torch.tensor(engine.step(1.0))]
    return [*results, *(weight.clone() for _, weight in engine.each_weight())]


def every_case(folder: Path) -> None:
    for what in CASES:
        torch.compiler.reset()
        before = dynamo.counters["stats"]["unique_graphs"]
        cases = {"plain": steps(folder, False, what), "compiled": steps(folder, True, what)}
        graphs = dynamo.counters["stats"]["unique_graphs"] - before
        torch.save(cases | {"graphs": graphs}, folder / f"{what}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++, which torch.compile needs on a CPU")
    folder = tmp_path_factory.mktemp("compiled")
    write_tokens(folder)
    in_processes(every_case, 1, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("what", CASES)
def test_compiled_layers_learn_what_plain_ones_do(results: Path, what: Recompute) -> None:
    case = torch.load(results / f"{what}.pt")
    assert case["graphs"] > 0
    torch.testing.assert_close(case["compiled"], case["plain"], rtol=1e-4, atol=1e-5)


def test_layers_are_compiled_where_it_pays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = {"gcc"}
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in installed else None)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert compiles("auto", "cuda:0", 2)
    assert not compiles("auto", "cuda:0", 3)
    assert not compiles("auto", "cpu", 1)
    assert compiles(True, "cpu", 1)
    assert not compiles(False, "cuda:0", 1)
    installed.clear()
    assert not compiles("auto", "cuda:0", 1)
    monkeypatch.setenv("CC", "/opt/gcc")
    assert compiles("auto", "cuda:0", 1)
    (tmp_path / "Python.h").unlink()
    assert not compiles("auto", "cuda:0", 1)
