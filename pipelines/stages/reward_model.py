"""Trains a reward model on preferences: one score for a reply, higher where it was preferred.

    preferences ──the model's chat template──► pairs of token sequences ──Bradley-Terry, DeepSpeed workers──►
    the model with a score head in place of its output embedding ──held-out pairs──► accuracy, calibration

The artifact opens with transformers' AutoModelForSequenceClassification; a reply's reward is its score at the token
that ends the assistant's turn. Beside it lies reliability.json: how often the model is right when it is so sure.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipelines.stage import Facts, Stage, Work
from pipelines.training import PairOptions, TrainCluster, copy_tokenizer, launch, learn, prepare_pairs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipelines.learning.lesson import Lesson
    from pipelines.learning.loop import Worker
    from pipelines.learning.pairs import PairRows


RATES = {"muon": 0.005, "adamw": 1e-5}


class RewardModelOptions(PairOptions):
    learning_rate: float | None = Field(
        None, gt=0, description="peak; default 0.005 for muon's matrices, which suits models of a few million "
                                "parameters that were raised here, 1e-5 for adamw, which suits large ones")  # fmt: skip
    adam_learning_rate: float = Field(
        1e-3, gt=0, description="peak, for what muon leaves to AdamW: also the score head"
    )
    every_token: bool = Field(
        False, description="compare two replies at every token from the first that differs, not at their ends alone: "
                           "learns faster where a single token makes a reply wrong, slower where replies differ anyhow"
    )  # fmt: skip

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or RATES[self.optimizer]


def run(work: Work) -> Facts:
    model = work.inputs["model"].local()
    pairs = prepare_pairs(work)
    lesson = pairs.lesson | {"seed": work.seed, "pad_id": padding_id(model), "every_token": work.options.every_token}
    facts = launch(work, train_on_worker, lesson, steps=pairs.steps, rows=work.options.batch_pairs)
    copy_tokenizer(model, work.draft.out)
    return {**facts, **pairs.facts}


def padding_id(model: Path) -> int | None:
    """A token that no sequence ends with. transformers scores at the last token that is no padding, so where a model
    pads with the token that ends its turns (Llama 3 with eos), another one stands for it; None where there is none."""
    from pipelines.data.tokens.chat import Chat

    chat = Chat.open(model)
    encoder, turn_end = chat.encoder, chat.stop_ids[0]
    choices = (encoder.pad_id, encoder.eos_id, encoder.bos_id)
    return next((token for token in choices if token is not None and token != turn_end), None)


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: the crafts are imported here, so that the driver never loads torch."""
    from pipelines.learning.pairs import PairRows, new_reward_model, reward_lesson

    wanted = config["lesson"]
    rows = PairRows(Path(wanted["train"]))

    def make_lesson(dtype: torch.dtype) -> Lesson:
        model = new_reward_model(Path(wanted["model"]), seed=wanted["seed"], pad_id=wanted["pad_id"])
        return reward_lesson(model, rows, dtype, every_token=wanted["every_token"])

    facts = learn(worker, config, make_lesson)
    return facts | judge(worker, config, rows) if "held_out" in wanted else facts


def judge(worker: Worker, config: dict[str, Any], train: PairRows) -> Facts:
    """Scores the held-out pairs with the finished model, each rank its share; rank 0 gives the facts."""
    import torch.distributed as dist

    from pipelines.learning.pairs import PairRows, each_side, open_reward_model, rewards

    dist.barrier()  # rank 0 has written the model
    out = Path(config["plan"]["out"])
    held_out = PairRows(Path(config["lesson"]["held_out"]))
    rewards_N2 = each_side(
        open_reward_model(out), rewards, held_out,
        device=worker.device, pairs_at_once=4 * config["plan"]["micro_batch_rows"],  # nothing is kept for later
    )  # fmt: skip
    if worker.rank:
        return {}
    return held_out_facts(Path(config["lesson"]["preferences"]), train, held_out, rewards_N2, out)


def held_out_facts(folder: Path, train: PairRows, held_out: PairRows, rewards_N2: Tensor, out: Path) -> Facts:
    """How good the rewards of the held-out pairs are, and what could be told without understanding them.

    folder: of the preferences, for the replies' texts. Writes reliability.json into `out`."""
    import numpy as np

    from pipelines.data.dialogues import preferences
    from pipelines.metrics import pair_baselines, pair_figures

    learnt, judged = (
        [found[row] for row in rows.pairs.rows]
        for found, rows in (
            (preferences.read(folder / preferences.TRAIN), train),
            (preferences.read(folder / preferences.HELD_OUT), held_out),
        )
    )
    margins_N = (rewards_N2[:, 0] - rewards_N2[:, 1]).double().numpy()
    bins = pair_figures.reliability(margins_N)
    (out / "reliability.json").write_text(json.dumps([asdict(one) for one in bins], indent=1) + "\n", encoding="utf-8")
    names_N2 = np.array([[pair.language, pair.rule] for pair in judged])
    groups = [(str(name), (names_N2 == name).any(axis=1)) for name in np.unique(names_N2)]
    lengths_N2 = held_out.pairs.reply_tokens_N2
    texts = lambda pairs: [(pair.chosen, pair.rejected) for pair in pairs]  # noqa: E731
    return {
        **pair_figures.figures(margins_N, groups),
        "heldout/calibration_error": pair_figures.calibration_error(bins),
        "heldout/accuracy_length_only": pair_baselines.length_only(train.pairs.reply_tokens_N2, lengths_N2),
        "heldout/accuracy_bag_of_characters": pair_baselines.bag_of_characters(texts(learnt), texts(judged)),
        "heldout/length_ratio": float(lengths_N2[:, 0].mean() / lengths_N2[:, 1].mean()),
    }


STAGE = Stage(
    kind="reward_model",
    version=2,
    makes="reward_model",
    needs=("model", "preferences"),
    options=RewardModelOptions,
    cluster=TrainCluster,
    run=run,
)
