"""DPO and reward models on plain workers: a kill, the number of workers and the ZeRO stage change no result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from pipelines.data.dialogues import preferences, tokenized_pairs
from pipelines.data.tokens.chat import Chat
from pipelines.learning import loop
from pipelines.learning.batch import DataOrder
from pipelines.learning.dealing import drawn_steps
from pipelines.learning.engine import OptimizerPlan
from pipelines.learning.lesson import Lesson
from pipelines.learning.loop import TrainingPlan, train
from pipelines.learning.model import from_folder
from pipelines.learning.pairs import PairRows, dpo_lesson, new_reward_model, reward_lesson
from pipelines.learning.schedule import Schedule
from pipelines.stages.dpo import judged
from tests.learning.processes import Killed, PlainWorker, in_processes
from tests.stages.preference_work import pairs
from tests.tiny_models import Tiny

STEPS = 4
ZERO_STAGES: tuple[Literal[2, 3], ...] = (2, 3)
MUON = OptimizerPlan("muon", learning_rate=0.002, adam_learning_rate=1e-3, weight_decay=0.0, clip_norm=1.0)
ADAMW = replace(MUON, kind="adamw")


def lesson(model: Path, rows: PairRows, dtype: torch.dtype) -> Lesson:
    policy = from_folder(model, dtype)
    return dpo_lesson(policy, rows, beta=0.2, label_smoothing=0.0, dtype=torch.float32, batch_pairs=4)


def judge(model: Path, rows: PairRows, dtype: torch.dtype) -> Lesson:
    return reward_lesson(new_reward_model(model, seed=3, pad_id=0, dtype=dtype), rows, every_token=False, dtype=dtype)


def judged_lesson(model: Path, rows: PairRows, dtype: torch.dtype) -> Lesson:
    """The lesson that also scores pairs before and after training, as the stage does: here those that it learns."""
    return judged(lesson(model, rows, dtype), rows, beta=0.2, batch_pairs=4)


def run(
    folder: Path, model: Path, name: str, *, die_after: int | None = None, optimizer: OptimizerPlan = MUON,
    zero_stage: Literal[1, 2, 3] = 1, make: Callable[[Path, PairRows, torch.dtype], Lesson] = lesson,
) -> None:  # fmt: skip
    out = folder / name / "out"
    out.mkdir(parents=True, exist_ok=True)
    plan = TrainingPlan(
        out=out, seed=3, total_steps=STEPS, batch_rows=5,  # odd: one rank has fewer, now and then none
        optimizer=optimizer,
        schedule=Schedule("wsd", STEPS, warmup=0), micro_batch_rows=1, zero_stage=zero_stage,
        dtype="float32", hidden_size=32,
        checkpoint_every_steps=2, log_every_steps=1,
    )  # fmt: skip
    worker = PlainWorker(folder / name / "checkpoints", die_after=die_after)
    rows = PairRows(folder / "train.arrow")
    try:
        facts = train(worker, plan, lambda dtype: make(model, rows, dtype))
        (folder / name / f"facts-{worker.rank}.json").write_text(json.dumps(facts))
    except Killed:
        assert worker.saved == [2]
    if worker.rank == 0:
        (folder / name / "reported.json").write_text(json.dumps(worker.reported))


def two_workers(folder: Path, model: Path) -> None:
    run(folder, model, "whole")
    run(folder, model, "killed", die_after=2)
    run(folder, model, "killed")
    run(folder, model, "whole by adamw", optimizer=ADAMW, make=judged_lesson)
    for stage in ZERO_STAGES:
        run(folder, model, f"dpo {stage}", optimizer=ADAMW, zero_stage=stage)
        run(folder, model, f"reward model {stage}", optimizer=ADAMW, zero_stage=stage, make=judge)


def one_worker(folder: Path, model: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "REPORT_S", 0.0)
        run(folder, model, "alone")
    run(folder, model, "alone by adamw", optimizer=ADAMW, make=judged_lesson)
    run(folder, model, "reward model alone", optimizer=ADAMW, make=judge)


@pytest.fixture(scope="module")
def runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    preferences.write(folder / preferences.TRAIN, pairs(17, split="train"))
    tokenized_pairs.tokenize_split(
        folder,
        preferences.TRAIN,
        Chat.open(tiny.first),
        folder,
        max_tokens=160,
        seed=3,
        on_progress=lambda done, total: None,
    )
    in_processes(two_workers, 2, folder, tiny.first)
    in_processes(one_worker, 1, folder, tiny.first)
    return folder


def test_a_kill_does_not_change_the_result(runs: Path) -> None:
    """The reference is computed again from the model that came in, not from the half-trained one."""
    files = [runs / name / "out" / "model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_largest_micro_batch_is_as_long_as_the_longest_pair(runs: Path) -> None:
    """What memory is planned for; the mean is far less."""
    rows = PairRows(runs / "train.arrow")
    largest = max(rows.read(np.array([row])).tokens_BT.numel() for row in range(len(rows)))
    assert drawn_largest(rows, 1, 1, 1) == largest > rows.row_tokens
    assert largest < drawn_largest(rows, 4, 1, 4) <= 4 * largest
    draw = np.random.default_rng(1)
    of_four = [rows.read(draw.permutation(len(rows))[:4]).tokens_BT.numel() for _ in range(300)]
    assert np.quantile(of_four, 0.99) <= drawn_largest(rows, 4, 1, 4) <= 1.1 * max(of_four)


def test_the_largest_micro_batch_of_steps_that_are_dealt_to_two_ranks(runs: Path) -> None:
    rows = PairRows(runs / "train.arrow")
    order = DataOrder(len(rows), 8, seed=3, tokens_N=rows.tokens_N)

    def computed_by(step: int, rank: int) -> list[int]:
        pieces = order.micro_batches(step, rank=rank, world=2, micro_batch_rows=2)
        return [rows.read(piece).tokens_BT.numel() for piece in pieces]

    tokens_SRP = np.array([[computed_by(step, rank) for rank in (0, 1)] for step in range(100)])
    largest, computed = order.computed_tokens(range(100), rows.batch_tokens, world=2, micro_batch_rows=2)
    assert largest == tokens_SRP.max()
    assert computed == 2 * tokens_SRP.sum(axis=2).max(axis=1).mean(), "the other rank waits"
    drawn = drawn_steps(rows.pairs.lengths_N2, batch_pairs=8, world=2, micro_batch_pairs=2)
    assert largest <= drawn.largest <= 1.1 * largest
    assert drawn.padded == pytest.approx(computed / (8 * rows.row_tokens), rel=0.05)


def drawn_largest(rows: PairRows, batch_pairs: int, world: int, micro_batch_pairs: int) -> int:
    return drawn_steps(
        rows.pairs.lengths_N2, batch_pairs=batch_pairs, world=world, micro_batch_pairs=micro_batch_pairs
    ).largest


def test_progress_of_the_references_scores_is_displayed(runs: Path) -> None:
    reported = json.loads((runs / "alone" / "reported.json").read_text())
    scored = [figures for step, figures in reported if step == 0]
    assert [figures["evaluation/done"] for figures in scored] == [4, 8, 12, 16, 17]
    assert {figures["evaluation/total"] for figures in scored} == {17}


@pytest.mark.parametrize("objective", ["dpo", "reward model"])
@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_every_zero_stage_learns_the_same(runs: Path, objective: str, stage: int) -> None:
    expected = curve(runs, "alone by adamw" if objective == "dpo" else "reward model alone")
    ours = curve(runs, f"{objective} {stage}")
    for point, reference in zip(ours, expected, strict=True):
        assert point["train/loss_nats"] == pytest.approx(reference["train/loss_nats"], abs=1e-4)
        assert point["train/gradient_norm"] == pytest.approx(reference["train/gradient_norm"], rel=1e-3)
    assert ours[-1]["train/loss_nats"] < ours[0]["train/loss_nats"]


def curve(runs: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (runs / name / "out" / "curve.jsonl").read_text().splitlines()]


def test_what_is_learnt_does_not_depend_on_the_number_of_workers(runs: Path) -> None:
    two, one = curve(runs, "whole"), curve(runs, "alone")
    norms = [curve(runs, f"{name} by adamw")[0]["train/gradient_norm"] for name in ("whole", "alone")]
    assert len(two) == STEPS
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    for here, there in zip(two, one, strict=True):  # a difference of sums over wide weights: rounding shows
        assert here["train/loss_nats"] == pytest.approx(there["train/loss_nats"], abs=1e-3)
    assert two[-1]["train/loss_nats"] < two[0]["train/loss_nats"]


def test_pairs_are_judged_alike_by_any_number_of_workers(runs: Path) -> None:
    """The last batch is one pair: a worker of two has none."""
    files = [runs / "whole by adamw" / "facts-0.json", runs / "whole by adamw" / "facts-1.json",
             runs / "alone by adamw" / "facts-0.json"]  # fmt: skip
    first, second, alone = (
        {name: value for name, value in json.loads(file.read_text()).items() if name.startswith("heldout/")}
        for file in files
    )
    assert first == second == pytest.approx(alone, abs=1e-3)
    assert first["heldout/pairs"] == 17 and first["heldout/margin"] > 0
