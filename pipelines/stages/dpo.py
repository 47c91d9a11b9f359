"""Aligns a model with preferences directly: no reward model, no sampling (direct preference optimisation).

    preferences ──the model's chat template──► pairs of token sequences ──frozen model──► reference log-probabilities
                                               └──DPO's loss, DeepSpeed workers──► model in Hugging Face layout

The reference is the model as it comes in. Its log-probabilities are computed once, before the first step and again by
an attempt that goes on: the workers share the pairs out.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipelines.stage import Facts, Stage, Work
from pipelines.training import PairOptions, TrainCluster, copy_tokenizer, launch, learn, prepare_pairs

if TYPE_CHECKING:
    import torch

    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker


RATES = {"muon": 0.002, "adamw": 5e-7}


class DpoOptions(PairOptions):
    learning_rate: float | None = Field(
        None, gt=0, description="peak; default 0.002 for muon's matrices, which suits models of a few million "
                                "parameters that were raised here, 5e-7 for adamw, which suits large ones")  # fmt: skip
    adam_learning_rate: float = Field(2e-4, gt=0, description="peak, for what muon leaves to AdamW: embeddings, norms")
    beta: float = Field(0.1, gt=0, description="what a nat of distance from the incoming model costs: high stays near")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs thought to be the wrong way round")

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or RATES[self.optimizer]


def run(work: Work) -> Facts:
    options: DpoOptions = work.options
    pairs = prepare_pairs(work)
    lesson = pairs.lesson | {"beta": options.beta, "label_smoothing": options.label_smoothing}
    facts = launch(work, train_on_worker, lesson, steps=pairs.steps, rows=options.batch_pairs)
    copy_tokenizer(work.inputs["model"].local(), work.draft.out)
    return {**facts, **pairs.facts}


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: the crafts are imported here, so that the driver never loads torch."""
    from pipelines.learning.model import from_folder
    from pipelines.learning.pairs import PairRows, dpo_lesson, each_side, reply_logprobs

    wanted = config["lesson"]
    rows = PairRows(Path(wanted["train"]))

    def make_lesson(dtype: torch.dtype) -> Lesson:
        model = from_folder(Path(wanted["model"]))
        reference_N2 = each_side(model, partial(reply_logprobs, dtype=dtype), rows, **sharing(worker, config))
        terms = {name: wanted[name] for name in ("beta", "label_smoothing")}
        return dpo_lesson(model, rows, dtype, reference_N2, **terms)

    facts = learn(worker, config, make_lesson)
    return facts | judge(worker, config) if "held_out" in wanted else facts


def sharing(worker: Worker, config: dict[str, Any]) -> dict[str, Any]:
    """Where and how many pairs at once where nothing is kept for a backward pass."""
    return {"device": worker.device, "pairs_at_once": 4 * config["plan"]["micro_batch_rows"]}


def judge(worker: Worker, config: dict[str, Any]) -> Facts:
    """Whether the policy's implicit reward prefers what was preferred, on the held-out pairs."""
    import torch.distributed as dist

    from pipelines.learning.model import from_folder
    from pipelines.learning.pair_losses import implicit_rewards
    from pipelines.learning.pairs import PairRows, each_side, reply_logprobs
    from pipelines.metrics import pair_figures

    dist.barrier()  # rank 0 has written the model
    wanted = config["lesson"]
    rows = PairRows(Path(wanted["held_out"]))
    before_N2, after_N2 = (
        each_side(from_folder(Path(folder)), reply_logprobs, rows, **sharing(worker, config))
        for folder in (wanted["model"], config["plan"]["out"])
    )
    rewards_N2 = implicit_rewards(after_N2, before_N2, beta=wanted["beta"])
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
