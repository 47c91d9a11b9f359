"""The loop's promises, on plain workers: a kill loses no step, and results do not depend on how a step is cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipelines.errors import UserError
from pipelines.learning import checkpoint, loop
from pipelines.learning.batch import PackedRows
from pipelines.learning.engine import Engine, OptimizerPlan
from pipelines.learning.lesson import next_token
from pipelines.learning.loop import TrainingPlan, train
from pipelines.learning.model import NextTokenLearner, Size, from_folder, from_scratch, hidden_matrices
from pipelines.learning.precision import DTYPES
from pipelines.learning.schedule import Schedule
from tests.learning.packed import write_tokens
from tests.learning.processes import Killed, PlainWorker, in_processes

SIZE = Size(32, 2, 2, 2, 64)
STEPS = 12
MODEL_FILES = ("model.safetensors", "config.json", "generation_config.json", "probe.json")
MUON = OptimizerPlan("muon", learning_rate=0.02, adam_learning_rate=3e-3, weight_decay=0.0, clip_norm=1.0)
ADAMW = replace(MUON, kind="adamw", learning_rate=3e-3)


def new_model() -> PreTrainedModel:
    return from_scratch(SIZE, vocabulary=128, length=64, seed=1)


def plan(folder: Path, name: str, **changes: Any) -> TrainingPlan:
    out = folder / name / "out"
    out.mkdir(parents=True, exist_ok=True)
    made = TrainingPlan(
        out=out, seed=3, total_steps=STEPS, batch_rows=8, optimizer=MUON,
        schedule=Schedule("wsd", STEPS, warmup=1, decay=3), micro_batch_rows=4, zero_stage=1, dtype="float32",
        hidden_size=32, checkpoint_every_steps=4, log_every_steps=5,
    )  # fmt: skip
    return replace(made, **changes)


def run(folder: Path, name: str, *, die_after: int | None = None, **changes: Any) -> PlainWorker:
    """One attempt at the run `name`; its figures go to facts.json when it ends."""
    worker = PlainWorker(folder / name / "checkpoints", die_after=die_after)
    try:
        rows = PackedRows(folder / "train")
        facts = train(
            worker, plan(folder, name, **changes), lambda dtype: next_token(cast(Any, new_model()).to(dtype), rows)
        )
    except Killed:
        return worker
    if worker.rank == 0:
        kept = {"facts": facts, "reported": worker.reported, "saved": worker.saved}
        (folder / name / "facts.json").write_text(json.dumps(kept))
    return worker


def two_workers(folder: Path) -> None:
    run(folder, "whole")
    run(folder, "again")
    run(folder, "killed", die_after=4)
    run(folder, "killed", die_after=8)
    assert run(folder, "killed").saved == [12]
    run(folder, "moved", die_after=4)
    run(folder, "unsaved export", die_after=12)
    assert run(folder, "unsaved export").saved == []  # straight to the export
    with pytest.MonkeyPatch.context() as patch:
        multiply_float32(patch)
        run(folder, "two by two", micro_batch_rows=2)
    run(folder, "adamw", optimizer=ADAMW, checkpoint_every_steps=None)
    run(folder, "adamw two by two", optimizer=ADAMW, micro_batch_rows=2)
    run(folder, "bfloat16", dtype="bfloat16")
    gradients(folder, "gradient-2x2")
    with pytest.raises(UserError, match=r"step 2: the loss is .* norm (nan|inf) at a learning rate of 1e\+30"):
        run(folder, "diverges", optimizer=replace(MUON, learning_rate=1e30, adam_learning_rate=1e30))


def multiply_float32(patch: pytest.MonkeyPatch) -> None:
    """Muon orthogonalises in float32 also where the machine multiplies bfloat16 faster, whose rounding would hide what
    a test compares."""
    patch.setattr(loop, "multiplies_bfloat16_faster", lambda device: False)


def one_worker(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        multiply_float32(patch)
        run(folder, "one by four", micro_batch_rows=2)
    run(folder, "adamw one by four", optimizer=ADAMW, micro_batch_rows=2)
    run(folder, "moved")  # begun by two
    with pytest.MonkeyPatch.context() as patch:
        for dtype, die_after in ((torch.bfloat16, 4), (torch.float32, None)):  # what is measured at each start
            patch.setattr(loop, "dtype_of", lambda name, *_, auto=dtype: auto if name == "auto" else DTYPES[name])
            run(folder, "in one type", dtype="auto", die_after=die_after)
    gradients(folder, "gradient-1x4")


def gradients(folder: Path, name: str) -> None:
    """Writes the gradient of one step in micro-batches of two rows."""
    model = new_model()
    engine = Engine(NextTokenLearner(model), hidden_matrices(model), replace(MUON, clip_norm=0), zero_stage=0)
    rows = PackedRows(folder / "train")
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    mine = np.split(np.arange(8), world)[rank]
    labels = rows.read(np.arange(8)).num_labels
    for piece in np.split(mine, len(mine) // 2):
        engine.backward(rows.read(piece), scale=world / labels, last=piece[-1] == mine[-1])
    if rank == 0:
        torch.save({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tokens(tmp_path_factory.mktemp("loop"), num_rows=40, length=64, vocabulary=128)
    in_processes(two_workers, 2, folder)
    in_processes(one_worker, 1, folder)
    return folder


def files(folder: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / name / "out").iterdir()}


def record(folder: Path, name: str) -> dict:
    return json.loads((folder / name / "facts.json").read_text())


def curve(folder: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / name / "out" / "curve.jsonl").read_text().splitlines()]


def test_two_runs_leave_the_same_bytes(folder: Path) -> None:
    assert files(folder, "whole") == files(folder, "again")
    assert set(files(folder, "whole")) == {*MODEL_FILES, "curve.jsonl"}


def test_killed_twice_leaves_the_same_bytes(folder: Path) -> None:
    assert files(folder, "killed") == files(folder, "whole")


def test_killed_before_the_export_leaves_the_same_bytes(folder: Path) -> None:
    assert files(folder, "unsaved export") == files(folder, "whole")


def test_resume_goes_on_in_the_type_that_was_chosen(folder: Path) -> None:
    assert record(folder, "in one type")["facts"]["train/dtype"] == "bfloat16"
    assert record(folder, "in one type")["saved"] == [8, 12]


def test_resume_on_another_number_of_workers_learns_the_same(folder: Path) -> None:
    ours, whole = curve(folder, "moved"), curve(folder, "whole")
    assert [p["train/loss_nats"] for p in ours] == pytest.approx([p["train/loss_nats"] for p in whole], abs=1e-4)


def test_losses_do_not_depend_on_workers_and_micro_batches(folder: Path) -> None:
    for optimizer in ("", "adamw "):
        two, one = curve(folder, f"{optimizer}two by two"), curve(folder, f"{optimizer}one by four")
        assert [p["train/loss_nats"] for p in two] == pytest.approx([p["train/loss_nats"] for p in one], abs=1e-4)
        norms = [[point["train/gradient_norm"] for point in points] for points in (two, one)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_a_gradient_does_not_depend_on_workers_and_micro_batches(folder: Path) -> None:
    two, one = torch.load(folder / "gradient-2x2"), torch.load(folder / "gradient-1x4")
    assert two.keys() == one.keys()
    assert all((two[n] - one[n]).norm() <= 1e-5 * one[n].norm() for n in one)


def test_a_gradient_is_the_mean_over_all_tokens(folder: Path) -> None:
    learner = NextTokenLearner(new_model())
    batch = PackedRows(folder / "train").read(np.arange(8))
    (learner(batch) / batch.num_labels).backward()
    ours = torch.load(folder / "gradient-2x2")
    for name, parameter in learner.model.named_parameters():
        assert parameter.grad is not None
        assert (ours[name] - parameter.grad).norm() <= 1e-5 * parameter.grad.norm()


def test_the_model_learns_and_opens_in_transformers(folder: Path) -> None:
    points = curve(folder, "whole")
    assert points[0]["train/loss_nats"] > 4.5  # ln 128 = 4.85: the loss of a uniform prediction
    assert points[-1]["train/loss_nats"] < points[0]["train/loss_nats"] - 0.5
    model = AutoModelForCausalLM.from_pretrained(folder / "whole" / "out")
    stored = load_file(folder / "whole" / "out" / "model.safetensors")
    assert torch.equal(model.lm_head.weight, stored["model.embed_tokens.weight"])
    batch = PackedRows(folder / "train").read(np.arange(8))
    model = from_folder(folder / "whole" / "out")
    with torch.no_grad():
        assert NextTokenLearner(model)(batch) / batch.num_labels < points[0]["train/loss_nats"] - 0.5


def test_figures_and_facts(folder: Path) -> None:
    facts, reported = record(folder, "whole")["facts"], record(folder, "whole")["reported"]
    assert [step for step, _ in reported] == [5, 10, 12]
    assert facts["train/tokens"] == STEPS * 8 * 64
    assert facts["train/steps"] == STEPS
    last_tenth = [point["train/loss_nats"] for point in curve(folder, "whole")[-2:]]
    assert facts["train/loss_nats"] == pytest.approx(sum(last_tenth) / 2)
    assert 0 < facts["train/mfu"] < 1
    assert reported[-1][1]["train/learning_rate"] == pytest.approx(0.02 / 3)


def test_adamw_learns_too_and_its_last_step_is_saved(folder: Path) -> None:
    assert curve(folder, "adamw")[-1]["train/loss_nats"] < curve(folder, "adamw")[0]["train/loss_nats"] - 0.2
    assert record(folder, "adamw")["saved"] == [STEPS]


def test_bfloat16_products_leave_float32_weights_and_nearly_the_same_curve(folder: Path) -> None:
    rough, exact = curve(folder, "bfloat16"), curve(folder, "whole")
    assert rough != exact
    losses = [[point["train/loss_nats"] for point in points] for points in (rough, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)
    stored = load_file(folder / "bfloat16" / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_checkpoints_take_two_percent_of_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = [100.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])

    class CountingWorker:
        rank = 0

        def save(self, step: int, write: Callable[[Path], None]) -> None:
            clock[0] += 2.0

        def wait_until_written(self) -> None:
            clock[0] += 1.0

    class NoState:
        def state(self) -> Iterator[tuple[str, torch.Tensor]]:
            return iter([])

    saver = loop.Saver(CountingWorker(), None)  # pyright: ignore[reportArgumentType]
    assert not saver.due(1)
    clock[0] += checkpoint.FIRST_S
    assert saver.due(2)
    saver.save(NoState(), loop.Journal(step=2))  # pyright: ignore[reportArgumentType]
    clock[0] += 149
    assert not saver.due(3)
    clock[0] += 1  # 3 s of saving in 150 s: 2%
    assert saver.due(4)


def test_a_checkpoint_that_costs_much_is_made_every_ten_minutes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: clock[0])
    interval = checkpoint.Interval(None)
    interval.saved(60.0)
    clock[0] += 599
    assert not interval.due(7)
    clock[0] += 1
    assert interval.due(8)


def test_time_is_that_of_the_steps_that_were_timed() -> None:
    assert loop.Journal(step=1, seconds=9.0).timed() == (1, 9.0)
    assert loop.Journal(step=100, seconds=120.0, later_s=20.0, later_steps=10).timed() == (10, 20.0)
