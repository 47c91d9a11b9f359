"""Trains a reward model on preferences: a score of a reply, higher for the preferred one.

    preferences ──the model's chat template──► pairs of token sequences ──Bradley-Terry, DeepSpeed workers──►
    the model with a score head in place of its output embedding ──held-out pairs──► accuracy, calibration

The artifact opens with transformers' AutoModelForSequenceClassification; a reply's reward is its score at the token
that ends the assistant's turn. reliability.json holds its reliability diagram: accuracy by confidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
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
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipelines.data.dialogues.preferences import Pair
    from pipelines.learning.lesson import Evaluate, Lesson
    from pipelines.learning.loop import Worker
    from pipelines.learning.pairs import PairRows


class RewardModelOptions(PairOptions):
    default_learning_rates: ClassVar[Mapping[str, float]] = {"muon": 0.005, "adamw": 1e-5, "base": 1e-5, "lora": 1e-4}

    learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate; default 0.005 for muon's matrices, which suits models of a few "
                                "million parameters, 1e-5 for adamw, which suits large, 1e-4 for lora")  # fmt: skip
    adam_learning_rate: float = Field(1e-3, gt=0, description=f"{ADAM_LEARNING_RATE}, and the score head")
    every_token: bool = Field(
        False, description="Whether the loss compares two replies at every token from the first that differs, not at "
                           "their last tokens alone: learns faster where a single token makes a reply wrong, slower "
                           "where replies differ in most tokens")  # fmt: skip


def run(work: Work) -> Facts:
    model = work.inputs["model"].local()
    pairs = prepare_pairs(work)
    lesson = pairs.lesson | {
        "pad_id": padding_id(model), "every_token": work.options.every_token, **adapter_arguments(work)
    }  # fmt: skip
    facts = launch(work, train_on_worker, lesson, steps=pairs.steps, rows=work.options.batch_pairs)
    copy_tokenizer(model, work.draft.out)
    return {**facts, **pairs.facts}


def padding_id(model: Path) -> int | None:
    """A padding token that no sequence ends with; None without one.

    transformers takes the score at the last token that is not padding, so where a model pads with the token that ends
    its turns (Llama 3 with eos), another one is used."""
    from pipelines.data.tokens.chat import Chat

    chat = Chat.open(model)
    encoder, turn_end = chat.encoder, chat.stop_ids[0]
    choices = (encoder.pad_id, encoder.eos_id, encoder.bos_id)
    return next((token for token in choices if token is not None and token != turn_end), None)


def train_on_worker(worker: Worker, config: dict[str, Any]) -> Facts:
    """Runs in each worker process: torch is imported here, never in the driver."""
    from pipelines.inference.model_config import hidden_size
    from pipelines.learning.pairs import PairRows, new_reward_model, pair_scores, reward_lesson, rewards
    from pipelines.learning.precision import stored_dtype
    from pipelines.learning.saving import save

    arguments = config["lesson"]
    folder, rows = Path(arguments["model"]), PairRows(Path(arguments["train"]))

    def open_model(dtype: torch.dtype, four_bit: bool) -> PreTrainedModel:
        pad_id, seed = arguments["pad_id"], arguments["seed"]
        return new_reward_model(folder, seed=seed, pad_id=pad_id, dtype=dtype, four_bit=four_bit)

    def make(model: PreTrainedModel) -> Lesson:
        lesson = reward_lesson(model, rows, every_token=arguments["every_token"], dtype=stored_dtype(folder))
        return replace(lesson, after=partial(after, model)) if "held_out" in arguments else lesson

    def after(model: PreTrainedModel, evaluate: Evaluate) -> Facts:
        held_out = PairRows(Path(arguments["held_out"]))
        rewards_N2 = pair_scores(evaluate, rewards, model, held_out, batch_pairs=scoring_batch(config))
        if worker.rank:
            return {}
        folders = Path(arguments["preferences"]), Path(config["plan"]["out"])
        return held_out_facts(folders[0], rows, held_out, rewards_N2, folders[1])

    return learn(worker, config, lesson_of(arguments, open_model, make, save), hidden_size=hidden_size(folder))


def held_out_facts(folder: Path, train: PairRows, held_out: PairRows, rewards_N2: Tensor, out: Path) -> Facts:
    """Figures of the rewards of the held-out pairs, and of the baselines that do not understand them.

    folder: of the preferences, for the replies' texts. Writes reliability.json into `out`."""
    import numpy as np

    from pipelines.data.dialogues import preferences
    from pipelines.metrics import pair_baselines, pair_figures
    from pipelines.store.artifacts import write_json

    def pairs(split: str, rows: PairRows) -> list[Pair]:
        every_pair = preferences.read(folder / split)
        return [every_pair[row] for row in rows.pairs.rows]

    def texts(pairs: list[Pair]) -> list[tuple[str, str]]:
        return [pair.said for pair in pairs]

    train_pairs, held_out_pairs = pairs(preferences.TRAIN, train), pairs(preferences.HELD_OUT, held_out)
    margins_N = (rewards_N2[:, 0] - rewards_N2[:, 1]).double().numpy()
    bins = pair_figures.reliability(margins_N)
    write_json(out / "reliability.json", [asdict(each) for each in bins])
    names_N2 = np.array([[pair.language, pair.rule] for pair in held_out_pairs])
    groups = [(str(name), (names_N2 == name).any(axis=1)) for name in np.unique(names_N2)]
    lengths_N2 = held_out.pairs.reply_tokens_N2
    return {
        **pair_figures.figures(margins_N, groups),
        "heldout/calibration_error": pair_figures.calibration_error(bins),
        "heldout/accuracy_length_only": pair_baselines.length_only(train.pairs.reply_tokens_N2, lengths_N2),
        "heldout/accuracy_bag_of_characters": pair_baselines.bag_of_characters(
            texts(train_pairs), texts(held_out_pairs)
        ),
        "heldout/length_ratio": float(lengths_N2[:, 0].mean() / lengths_N2[:, 1].mean()),
    }


STAGE = Stage(
    kind="reward_model",
    version=5,
    makes="reward_model",
    needs=("model", "preferences"),
    options=RewardModelOptions,
    cluster=TrainCluster,
    run=run,
)
