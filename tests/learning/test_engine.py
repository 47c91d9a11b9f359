"""The engine against the same optimisers written out, at every ZeRO stage, in two processes."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.utils as dynamo

from pipelines.learning import checkpoint
from pipelines.learning import engine as engines
from pipelines.learning.batch import PackedRows
from pipelines.learning.engine import Engine, OptimizerPlan
from pipelines.learning.model import NextTokenLearner, Size, from_scratch, hidden_matrices
from tests.learning import reference
from tests.learning.packed import write_tokens
from tests.learning.processes import in_processes

# Odd sizes: matrices lie over the edge between two ranks' parts, and parameters do not divide by two.
SIZE = Size(48, 2, 3, 1, 56)
LR_FACTORS = [0.5, 1.0, 1.0, 0.25]
STAGES = (0, 1, 2, 3)
MANY_BUCKETS = 2048  # numbers: of several parameters, and fewer than the largest one has
# The first steps' gradients have a norm of about 0.5: AdamW's are always clipped to 0.2, never to 1,000, Muon's never.
PLANS = {
    "muon": OptimizerPlan("muon", learning_rate=0.02, adam_learning_rate=3e-3, weight_decay=0.1, clip_norm=0.2),
    "adamw": OptimizerPlan("adamw", learning_rate=3e-3, adam_learning_rate=1.0, weight_decay=0.1, clip_norm=0.2),
    "adamw unclipped": OptimizerPlan(
        "adamw", learning_rate=3e-3, adam_learning_rate=1.0, weight_decay=0.0, clip_norm=1000
    ),
}
CASES = list(itertools.product(PLANS, STAGES))


def new_learner() -> NextTokenLearner:
    return NextTokenLearner(from_scratch(SIZE, vocabulary=99, length=32, seed=4))


def new_engine(plan: str, stage: int) -> Engine:
    learner = new_learner()
    return Engine(learner, hidden_matrices(learner.model), PLANS[plan], zero_stage=stage)


def steps(engine: Engine, rows: PackedRows, lr_factors: list[float]) -> list[float]:
    """Trains on rows 0-7, two micro-batches a rank, and returns the gradient's norms."""
    world = torch.distributed.get_world_size()
    mine = np.split(np.arange(8), world)[torch.distributed.get_rank()]
    batches = [rows.read(piece) for piece in np.split(mine, 2)]
    labels = rows.read(np.arange(8)).num_labels
    norms = []
    for lr_factor in lr_factors:
        for number, batch in enumerate(batches):
            engine.backward(batch, scale=world / labels, last=number == 1)
        norms.append(engine.step(lr_factor))
    return norms


def every_case(folder: Path) -> None:
    engines.REDUCE_BUCKET = MANY_BUCKETS
    rows = PackedRows(folder / "train")
    for plan, stage in CASES:
        name = f"{plan}-{stage}"
        engine = new_engine(plan, stage)
        norms = steps(engine, rows, LR_FACTORS[:2])
        (folder / f"{name}-state").mkdir(exist_ok=True)
        checkpoint.write(folder / f"{name}-state", torch.distributed.get_rank(), engine.state(), {"norms": norms})
        norms += steps(engine, rows, LR_FACTORS[2:])
        weights = {name: weight.clone() for name, weight in engine.each_weight()}
        if torch.distributed.get_rank() == 0:
            torch.save({"weights": weights, "norms": norms}, folder / f"{name}.pt")
    (folder / "compiled").write_text(str(dynamo.counters["frames"]["total"]))


def every_resume(folder: Path, cases: list[tuple[str, int, int]]) -> None:
    """Goes on from the state of one ZeRO stage at another, in this number of processes."""
    rows = PackedRows(folder / "train")
    world = torch.distributed.get_world_size()
    for plan, before, after in cases:
        tensors, _ = checkpoint.read(folder / f"{plan}-{before}-state")
        engine = new_engine(plan, after)
        engine.load_state(tensors, step=2, padding=rows.padding())
        again = dict(engine.state())
        assert all(torch.equal(again[name], tensors[name]) for name in again)
        steps(engine, rows, LR_FACTORS[2:])
        weights = {name: weight.clone() for name, weight in engine.each_weight()}
        if torch.distributed.get_rank() == 0:
            torch.save({"weights": weights}, folder / f"{plan}-{before}-to-{after}-on-{world}.pt")


RESUMES_ON_TWO = [("muon", 1, 1), ("muon", 1, 3), ("muon", 3, 2), ("muon", 2, 0), ("adamw", 1, 1), ("adamw", 0, 3)]
RESUMES_ON_ONE = [("muon", 1, 1), ("muon", 3, 1), ("adamw", 2, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs: two processes for every case and some resumes, then one process for resumes on fewer workers."""
    folder = write_tokens(tmp_path_factory.mktemp("engine"), num_rows=8, length=32, vocabulary=99)
    in_processes(two_processes, 2, folder)
    in_processes(every_resume, 1, folder, RESUMES_ON_ONE)
    return folder


def test_nothing_is_compiled_on_a_cpu(folder: Path) -> None:
    assert (folder / "compiled").read_text() == "0"


def two_processes(folder: Path) -> None:
    every_case(folder)
    torch.distributed.barrier()
    every_resume(folder, RESUMES_ON_TWO)


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest norm of a difference, relative to how far the parameter has moved from the start."""
    start = dict(new_learner().named_parameters())
    assert ours.keys() == theirs.keys()
    return max(float((ours[n] - theirs[n]).norm() / (theirs[n] - start[n].detach()).norm()) for n in ours)


@cache
def by_hand(folder: Path, plan: str) -> reference.Trained:
    """The same optimiser, written out, over the same rows."""
    batch = PackedRows(folder / "train").read(np.arange(8))
    return reference.train(new_learner(), batch, PLANS[plan], LR_FACTORS)


@pytest.mark.parametrize(("plan", "stage"), CASES)
def test_equals_the_optimiser_written_out(folder: Path, plan: str, stage: int) -> None:
    ours = torch.load(folder / f"{plan}-{stage}.pt")
    theirs = by_hand(folder, plan)
    clip, norms = PLANS[plan].clip_norm, theirs.gradient_norms
    assert clip < min(norms) or clip > max(norms)  # so that a clip that is missing, or too much, is seen below
    assert ours["norms"] == pytest.approx(theirs.update_norms if stage else norms, rel=1e-5)
    assert difference(ours["weights"], theirs.weights) < 2e-4


@pytest.mark.parametrize(("plan", "before", "after"), RESUMES_ON_TWO)
def test_resume_at_another_zero_stage_goes_on_where_it_stood(folder: Path, plan: str, before: int, after: int) -> None:
    whole = torch.load(folder / f"{plan}-{after}.pt")["weights"]
    resumed = torch.load(folder / f"{plan}-{before}-to-{after}-on-2.pt")["weights"]
    if before == after:
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert difference(resumed, whole) < 1e-4


@pytest.mark.parametrize(("plan", "before", "after"), RESUMES_ON_ONE)
def test_resume_on_another_number_of_workers(folder: Path, plan: str, before: int, after: int) -> None:
    whole = torch.load(folder / f"{plan}-{after}.pt")["weights"]
    resumed = torch.load(folder / f"{plan}-{before}-to-{after}-on-1.pt")["weights"]
    assert difference(resumed, whole) < 1e-4
