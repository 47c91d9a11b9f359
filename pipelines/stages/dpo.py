"""Trains a model on preferences by direct preference optimisation (DPO): no reward model, no sampling.

    preferences ──the model's chat template──► pairs of token sequences ──frozen model──► reference log-probabilities
                                               └──DPO's loss, DeepSpeed workers──► model in Hugging Face layout

The reference is the initial model. Its log-probabilities are computed once, before the first step, and again by an
attempt that resumes; each worker computes a part of the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipelines.stage import Facts, Stage, Work
from pipelines.training import (
    ADAM_LEARNING_RATE,
    PairOptions,
    TrainCluster,
    adapter_arguments,
    copy_tokenizer,
    launch,
    learn,
    lesson_of,
    prepare_pairs,
    scoring_batch,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipelines.learning.lesson import Evaluate, Lesson
    from pipelines.learning.loop import Worker
    from pipelines.learning.pairs import PairRows


class DpoOptions(PairOptions):
    default_learning_rates: ClassVar[Mapping[str, float]] = {"muon": 0.002, "adamw": 5e-7, "base": 5e-7, "lora": 5e-6}

    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; default 0.002 for muon's matrices, which suits models of a few "
                                "million parameters, 5e-7 for adamw, which suits large, 5e-6 for lora")  # fmt: skip
    adam_learning_rate: float = Field(2e-4, gt=0, description=ADAM_LEARNING_RATE)
    beta: float = Field(
        0.1, gt=0, description="Strength of the KL penalty: the higher, the nearer to the initial model"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Assumed fraction of pairs with swapped labels")


def run(work: Work) -> Facts:
    options: DpoOptions = work.options
    pairs = prepare_pairs(work)
    lesson = pairs.lesson | {
        "beta": options.beta, "label_smoothing": options.label_smoothing, **adapter_arguments(work)
    }  # fmt: skip
    facts = launch(work, train_on_worker, lesson, steps=pairs.steps, rows=options.batch_pairs)
    copy_tokenizer(work.inputs["model"].local(), work.draft.out)
    return {**facts, **pairs.facts}


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: torch is imported here, never in the driver."""
    from pipelines.inference.model_config import hidden_size
    from pipelines.learning.model import from_folder
    from pipelines.learning.pairs import PairRows, dpo_lesson
    from pipelines.learning.precision import stored_dtype
    from pipelines.learning.saving import save_proven

    arguments = config["lesson"]
    folder, rows = Path(arguments["model"]), PairRows(Path(arguments["train"]))
    held_out = PairRows(Path(arguments["held_out"])) if "held_out" in arguments else None
    batch_pairs = scoring_batch(config)

    def make(model: PreTrainedModel) -> Lesson:
        lesson = dpo_lesson(
            model, rows, beta=arguments["beta"], label_smoothing=arguments["label_smoothing"],
            dtype=stored_dtype(folder), batch_pairs=batch_pairs,
        )  # fmt: skip
        return lesson if held_out is None else judged(lesson, held_out, beta=arguments["beta"], batch_pairs=batch_pairs)

    return learn(
        worker,
        config,
        lesson_of(arguments, partial(from_folder, folder), make, save_proven),
        hidden_size=hidden_size(folder),
    )


def judged(lesson: Lesson, held_out: PairRows, *, beta: float, batch_pairs: int) -> Lesson:
    """The lesson, with accuracy and margin of the policy's implicit reward on the held-out pairs among its figures."""
    from pipelines.learning.pair_losses import implicit_rewards
    from pipelines.learning.pairs import pair_scores, reply_logprobs
    from pipelines.metrics import pair_figures

    reference: list[Tensor] = []

    def before(evaluate: Evaluate) -> None:
        lesson.before(evaluate)
        reference.append(pair_scores(evaluate, reply_logprobs, lesson.model, held_out, batch_pairs=batch_pairs))

    def after(evaluate: Evaluate) -> dict[str, float]:
        policy_N2 = pair_scores(evaluate, reply_logprobs, lesson.model, held_out, batch_pairs=batch_pairs)
        rewards_N2 = implicit_rewards(policy_N2, reference[0], beta=beta)
        return dict(pair_figures.figures((rewards_N2[:, 0] - rewards_N2[:, 1]).double().numpy()))

    return replace(lesson, before=before, after=after)


STAGE = Stage(
    kind="dpo",
    version=5,
    makes="model",
    needs=("model", "preferences"),
    options=DpoOptions,
    cluster=TrainCluster,
    run=run,
)
