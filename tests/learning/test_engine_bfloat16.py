"""bfloat16 under the engine: gradients are summed, and masters kept, in float32, at every ZeRO stage."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.learning import checkpoint
from pipelines.learning import engine as engines
from pipelines.learning.batch import PackedRows
from pipelines.learning.engine import Engine, OptimizerPlan, partitioned
from pipelines.learning.model import NextTokenLearner, from_folder, hidden_matrices
from tests import families
from tests.learning.packed import write_tokens
from tests.learning.processes import in_processes

FAMILIES = ("Llama, tied", "Llama, untied", "Gemma 2", "Mixtral")  # no biases: ZeRO 3 rounds their sum otherwise
STAGES = (0, 1, 2, 3)
MANY_BUCKETS = 2048  # numbers: of several parameters, and fewer than the largest one has
ROWS = 16  # in micro-batches of one
ADAMW = OptimizerPlan("adamw", learning_rate=1e-3, adam_learning_rate=1.0, weight_decay=0.1, clip_norm=0.0)
MUON = OptimizerPlan("muon", learning_rate=0.02, adam_learning_rate=1e-3, weight_decay=0.1, clip_norm=0.0)


def new_engine(folder: Path, family: str, stage: int, plan: OptimizerPlan = ADAMW) -> Engine:
    with partitioned(stage, torch.bfloat16):
        model = from_folder(folder / family, torch.bfloat16)
    return Engine(NextTokenLearner(model), hidden_matrices(model), plan, zero_stage=stage)


def step(engine: Engine, rows: PackedRows) -> None:
    world = dist.get_world_size()
    mine = np.split(np.arange(ROWS), world)[dist.get_rank()]
    labels = rows.read(np.arange(ROWS)).num_labels
    for row in mine:
        engine.backward(rows.read(np.array([row])), scale=world / labels, last=row == mine[-1])
    engine.step(1.0)


def every_case(folder: Path) -> None:
    engines.REDUCE_BUCKET = MANY_BUCKETS
    rows = PackedRows(folder / "train")
    for family in FAMILIES:
        for stage in STAGES:
            engine = new_engine(folder, family, stage)
            step(engine, rows)
            state = folder / f"{family}-{stage}"
            state.mkdir(exist_ok=True)
            checkpoint.write(state, dist.get_rank(), engine.state(), {})
            weights = {name: weight.clone() for name, weight in engine.each_weight()}
            live = {name: weight.clone() for name, weight in engine.live_weights()}
            if dist.get_rank() == 0:
                torch.save({"masters": weights, "live": live}, folder / f"{family}-{stage}.pt")
    dist.barrier()
    for before, after in ((1, 3), (3, 1), (1, 1), (3, 3)):
        tensors, _ = checkpoint.read(folder / f"{FAMILIES[0]}-{before}")
        engine = new_engine(folder, FAMILIES[0], after)
        engine.load_state(tensors, step=1, padding=rows.padding())
        again = dict(engine.state())
        assert all(torch.equal(again[name], tensors[name]) for name in again)
        step(engine, rows)
        weights = {name: weight.clone() for name, weight in engine.each_weight()}
        if dist.get_rank() == 0:
            torch.save(weights, folder / f"resumed-{before}-{after}.pt")
    for stage in (1, 3):
        engine = new_engine(folder, FAMILIES[1], stage, MUON)
        step(engine, rows)
        weights = {name: weight.clone() for name, weight in engine.each_weight()}
        if dist.get_rank() == 0:
            torch.save(weights, folder / f"muon-{stage}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tokens(tmp_path_factory.mktemp("bfloat16"), num_rows=ROWS, length=32, vocabulary=families.VOCABULARY)
    for number, family in enumerate(FAMILIES):
        families.write(folder / family, family, seed=number, dtype="bfloat16")
    in_processes(every_case, 2, folder)
    return folder


@cache
def gradients_by_hand(folder: Path, family: str) -> dict[str, Tensor]:
    """Of bfloat16 weights, row by row, summed in float32."""
    model = from_folder(folder / family, torch.bfloat16)
    learner, rows = NextTokenLearner(model), PackedRows(folder / "train")
    labels = rows.read(np.arange(ROWS)).num_labels
    sums = {name: torch.zeros(p.shape) for name, p in model.named_parameters()}
    for row in range(ROWS):
        model.zero_grad()
        (learner(rows.read(np.array([row]))) * (2 / labels)).backward()  # 2 and ½ round nothing
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            sums[name] += parameter.grad.float() / 2
    return sums


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_summed_in_float32(folder: Path, family: str, stage: int) -> None:
    """Adam's first moment after one step is a tenth of the gradient."""
    tensors, _ = checkpoint.read(folder / f"{family}-{stage}")
    for name, expected in gradients_by_hand(folder, family).items():
        ours = tensors[f"exp_avg/model.{name}"] * 10
        assert (ours - expected).norm() < 1e-5 * expected.norm(), name


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_masters_are_finer_than_the_weights_that_compute(folder: Path, family: str, stage: int) -> None:
    saved = torch.load(folder / f"{family}-{stage}.pt")
    gradients, start = gradients_by_hand(folder, family), dict(from_folder(folder / family).named_parameters())
    for name, gradient in gradients.items():
        master, live = saved["masters"][f"model.{name}"], saved["live"][f"model.{name}"]
        assert master.dtype == torch.float32 and live.dtype == torch.bfloat16
        assert torch.equal(master.bfloat16(), live)
        decay = ADAMW.weight_decay if gradient.ndim >= 2 else 0.0
        expected = start[name].detach() * (1 - ADAMW.learning_rate * decay)
        expected = expected - ADAMW.learning_rate * gradient / (gradient.abs() + 1e-8)
        assert (master - expected).norm() < 1e-3 * (expected - start[name].detach()).norm(), name


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (1, 1), (3, 3)])
def test_training_goes_on_at_another_stage(folder: Path, before: int, after: int) -> None:
    ours = torch.load(folder / f"resumed-{before}-{after}.pt")
    reference = torch.load(folder / "resumed-1-1.pt")
    start = torch.load(folder / f"{FAMILIES[0]}-1.pt")["masters"]
    for name, weight in reference.items():
        assert (ours[name] - weight).norm() < 1e-3 * (weight - start[name]).norm(), name


def test_muon_takes_the_same_step_at_stages_1_and_3(folder: Path) -> None:
    one, three = torch.load(folder / "muon-1.pt"), torch.load(folder / "muon-3.pt")
    start = dict(NextTokenLearner(from_folder(folder / FAMILIES[1])).named_parameters())
    for name, weight in one.items():
        # DeepSpeed orthogonalises a bfloat16 momentum at stage 3, a float32 one at stage 2.
        assert (three[name] - weight).norm() < 5e-2 * (weight - start[name].detach()).norm(), name
