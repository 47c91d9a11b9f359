"""Trains a model on preferences by direct preference optimisation (DPO): no reward model, no sampling.

    preferences ──the model's chat template──► pairs of token sequences ──frozen model──► reference log-probabilities
                                               └──DPO's loss, DeepSpeed workers──► model in Hugging Face layout

The reference is the initial model. Its log-probabilities are computed once, before the first step, and again by an
attempt that resumes; each worker computes a part of the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipelines.stage import Facts, Stage, Work
from pipelines.training import (
    ADAM_LEARNING_RATE,
    PairOptions,
    TrainCluster,
    copy_tokenizer,
    launch,
    learn,
    prepare_pairs,
    scoring_arguments,
)

if TYPE_CHECKING:
    import torch

    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker


class DpoOptions(PairOptions):
    default_learning_rates: ClassVar[Mapping[str, float]] = {"muon": 0.002, "adamw": 5e-7}

    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; default 0.002 for muon's matrices, which suits models of a few "
                                "million parameters, 5e-7 for adamw, which suits large ones")  # fmt: skip
    adam_learning_rate: float = Field(2e-4, gt=0, description=ADAM_LEARNING_RATE)
    beta: float = Field(
        0.1, gt=0, description="Strength of the KL penalty: the higher, the nearer to the initial model"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Assumed fraction of pairs with swapped labels")


def run(work: Work) -> Facts:
    options: DpoOptions = work.options
    pairs = prepare_pairs(work)
    lesson = pairs.lesson | {"beta": options.beta, "label_smoothing": options.label_smoothing}
    facts = launch(work, train_on_worker, lesson, steps=pairs.steps, rows=options.batch_pairs)
    copy_tokenizer(work.inputs["model"].local(), work.draft.out)
    return {**facts, **pairs.facts}


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: torch is imported here, never in the driver."""
    from pipelines.learning.model import from_folder
    from pipelines.learning.pairs import PairRows, dpo_lesson, pair_scores, reply_logprobs

    lesson = config["lesson"]
    rows = PairRows(Path(lesson["train"]))

    def make_lesson(dtype: torch.dtype) -> Lesson:
        model = from_folder(Path(lesson["model"]))
        log_probability = partial(reply_logprobs, dtype=dtype)
        reference_N2 = pair_scores(model, log_probability, rows, **scoring_arguments(worker, config))
        return dpo_lesson(
            model, rows, dtype, reference_N2, beta=lesson["beta"], label_smoothing=lesson["label_smoothing"]
        )

    facts = learn(worker, config, make_lesson)
    return facts | evaluate_held_out(worker, config) if "held_out" in lesson else facts


def evaluate_held_out(worker: Worker, config: dict[str, Any]) -> Facts:
    """Accuracy and margin of the policy's implicit reward on the held-out pairs."""
    import torch.distributed as dist

    from pipelines.learning.model import from_folder
    from pipelines.learning.pair_losses import implicit_rewards
    from pipelines.learning.pairs import PairRows, pair_scores, reply_logprobs
    from pipelines.metrics import pair_figures

    dist.barrier()  # rank 0 has written the model
    lesson = config["lesson"]
    rows = PairRows(Path(lesson["held_out"]))
    reference_N2, policy_N2 = (
        pair_scores(from_folder(Path(folder)), reply_logprobs, rows, **scoring_arguments(worker, config))
        for folder in (lesson["model"], config["plan"]["out"])
    )
    rewards_N2 = implicit_rewards(policy_N2, reference_N2, beta=lesson["beta"])
    return dict(pair_figures.figures((rewards_N2[:, 0] - rewards_N2[:, 1]).double().numpy()))


STAGE = Stage(
    kind="dpo",
    version=2,
    makes="model",
    needs=("model", "preferences"),
    options=DpoOptions,
    cluster=TrainCluster,
    run=run,
)
