"""What is computed on the GPU against what a CPU computes in float32, and a run that is killed and resumed there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedModel

from pipelines.learning import attention, pairs
from pipelines.learning.actor_critic import Policy, PolicyBatch, ValueBatch, ValueModel
from pipelines.learning.batch import PackedRows
from pipelines.learning.engine import Engine, OptimizerPlan
from pipelines.learning.lesson import next_token
from pipelines.learning.loop import TrainingPlan, train
from pipelines.learning.model import NextTokenLearner, compile_layers, from_scratch, hidden_matrices
from pipelines.learning.schedule import Schedule
from pipelines.learning.shapes import SIZES
from tests.gpu.machine import Machine, packed_rows
from tests.learning import reference
from tests.learning.packed import write_tokens
from tests.learning.processes import Killed, PlainWorker

VOCABULARY = 512
ADAMW = OptimizerPlan("adamw", learning_rate=1e-3, adam_learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
MUON = OptimizerPlan("muon", learning_rate=0.02, adam_learning_rate=1e-3, weight_decay=0.1, clip_norm=0.0)
STEPS = 8


def measurements(machine: Machine) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Training against a loop in plain torch on the CPU; losses and gradients of pairs and of PPO; a killed run."""
    for plan in (ADAMW, MUON):
        for dtype in (torch.float32, torch.bfloat16):
            for stage in (1, 3):
                name = f"{plan.kind} at ZeRO {stage} in {str(dtype).removeprefix('torch.')}, against the CPU"
                yield name, partial(training, machine, plan, dtype, stage)
    for name, make in LEARNERS.items():
        yield f"{name} loss and gradient, against the CPU", partial(loss_and_gradient, machine, make)
    yield "DPO of many widths, compiled and not", partial(widths, machine)
    yield "a run killed and resumed", partial(resumed, machine)


def small_model(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    size = SIZES["6m"]
    return cast(Any, from_scratch(size, vocabulary=VOCABULARY, length=128, seed=1)).to(dtype)


def training(machine: Machine, plan: OptimizerPlan, dtype: torch.dtype, stage: int) -> dict[str, Any]:
    """The same eight steps in both places: losses after them, and the gradient's norm at each."""
    batch = packed_rows(8, 128, vocabulary=VOCABULARY, mean_document=40)
    learner = NextTokenLearner(small_model())
    trained = reference.train(copy.deepcopy(learner), batch, plan, [1.0] * STEPS)
    model = small_model(dtype)
    norms = []
    with closing(Engine(NextTokenLearner(model), hidden_matrices(model), plan, zero_stage=stage,
                        muon_in_bfloat16=dtype == torch.bfloat16)) as engine:  # fmt: skip
        for _ in range(STEPS):
            engine.backward(batch, scale=1 / batch.num_labels, last=True)
            norms.append(engine.step(1.0))
        loss = float(engine.evaluate(NextTokenLearner(model), batch.to(engine.device))) / batch.num_labels
    learner.load_state_dict(trained.weights, strict=False)  # a tied matrix has one name there
    with torch.no_grad():
        expected = float(learner(batch)) / batch.num_labels
    expected_norms = trained.gradient_norms if plan.kind == "adamw" else trained.update_norms
    gap = max(abs(a - b) / b for a, b in zip(norms, expected_norms, strict=True))
    limit = 3e-4 if dtype == torch.float32 else 5e-2
    if not (abs(loss - expected) < limit * expected and gap < limit):
        raise AssertionError(f"loss {loss} after the last step, expected {expected}; norms {norms}, {expected_norms}")
    return {"loss": round(loss, 5), "loss_cpu": round(expected, 5), "norm_relative_gap": gap}


def some_pairs() -> pairs.PairBatch:
    random = np.random.default_rng(0)
    sequences = [random.integers(3, VOCABULARY, length) for length in (30, 50, 17, 40, 44, 20)]
    return pairs.pack(sequences, [10, 12, 9] * 2, np.arange(3))


def replies(**columns: str) -> dict[str, Any]:
    random = np.random.default_rng(1)
    lengths = (20, 5, 33)
    made: dict[str, Any] = {
        "prompts": [random.integers(3, VOCABULARY, 10).tolist() for _ in lengths],
        "replies": [random.integers(3, VOCABULARY, length).tolist() for length in lengths],
    }
    return made | {name: [random.normal(size=n).astype(np.float32) for n in lengths] for name in columns}


def reward_model() -> PreTrainedModel:
    size = SIZES["6m"]
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=size.hidden, num_hidden_layers=size.layers, pad_token_id=0,
        num_attention_heads=size.heads, num_key_value_heads=size.kv_heads, intermediate_size=size.intermediate,
    )  # fmt: skip
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)
    model.set_attn_implementation(attention.NAME)
    return model


def dpo() -> tuple[nn.Module, Any]:
    learner = pairs.DpoLearner(small_model(), beta=0.1, label_smoothing=0.1)
    learner.reference_N2 = torch.full((3, 2), -100.0)
    return learner, some_pairs()


def reward() -> tuple[nn.Module, Any]:
    return pairs.RewardLearner(reward_model(), every_token=True), some_pairs()


def policy() -> tuple[nn.Module, Any]:
    batch = PolicyBatch.pack(**replies(old_logprobs_N="", advantages_N=""))
    batch = replace(batch, old_logprobs_N=batch.old_logprobs_N - 6.0)
    return Policy(small_model(), temperature=0.9, clip=0.2, entropy_bonus=0.01), batch


def critic() -> tuple[nn.Module, Any]:
    return ValueModel(reward_model(), value_clip=0.2), ValueBatch.pack(**replies(values_N="", returns_N=""))


LEARNERS = {"DPO": dpo, "reward model": reward, "PPO policy": policy, "PPO critic": critic}


def loss_and_gradient(machine: Machine, make: Callable[[], tuple[nn.Module, Any]]) -> dict[str, Any]:
    """In float32 and in the training type; relative distance of the gradient of all parameters."""
    learner, batch = make()

    def results(dtype: torch.dtype, device: str) -> tuple[float, Tensor]:
        placed = copy.deepcopy(learner).to(device, dtype)
        loss = placed(batch.to(device))
        loss.backward()
        gradients = [p.grad.flatten().double().cpu() for p in placed.parameters() if p.grad is not None]
        return float(loss), torch.cat(gradients)

    expected, expected_gradient = results(torch.float32, "cpu")
    figures: dict[str, Any] = {"loss_cpu": round(expected, 5)}
    for dtype, limit in ((torch.float32, 1e-3), (machine.dtype, 0.1)):
        loss, gradient = results(dtype, machine.device)
        distance = float((gradient - expected_gradient).norm() / expected_gradient.norm())
        name = str(dtype).removeprefix("torch.")
        figures |= {f"loss_{name}": round(loss, 5), f"gradient_distance_{name}": distance}
        if not (abs(loss - expected) <= limit * abs(expected) and distance < limit):
            raise AssertionError(f"{figures}, expected less than {limit}")
    return figures


def widths(machine: Machine) -> dict[str, Any]:
    """DPO on eight batches whose rows are of a different length each, as real pairs are: losses of compiled layers and
    of others, and seconds of a pass, the second time."""
    random, batches = np.random.default_rng(0), []
    for _ in range(8):
        lengths = random.integers(20, 400 if machine.on_gpu else 30, 16)
        sequences = [random.integers(3, VOCABULARY, length) for length in lengths]
        batches.append(pairs.pack(sequences, [10] * 16, np.arange(8)).to(machine.device))

    losses, figures = {}, {}
    for side in ("plain", "compiled"):
        learner = pairs.DpoLearner(small_model(machine.dtype), beta=0.1, label_smoothing=0.0)
        learner.reference_N2 = torch.full((8, 2), -100.0)
        if side == "compiled":
            compile_layers(learner.model)
        learner.to(machine.device)
        losses[side] = one_pass(learner, batches)
        figures[f"{side}_pass_s"] = machine.seconds(partial(one_pass, learner, batches), rounds=2, warm_up=0)
    gap = max(abs(a - b) / abs(b) for a, b in zip(losses["compiled"], losses["plain"], strict=True))
    if not gap < (3e-2 if machine.on_gpu else 1e-4):
        raise AssertionError(f"losses {losses}")
    return figures | {"loss_relative_gap": gap}


def one_pass(learner: nn.Module, batches: list[pairs.PairBatch]) -> list[float]:
    """Losses of the batches, each with its backward pass."""
    losses = []
    for batch in batches:
        loss = learner(batch)
        loss.backward()
        losses.append(float(loss))
    return losses


class Worker(PlainWorker):
    """A rank on the machine's device."""

    def __init__(self, folder: Path, device: str, *, die_after: int | None = None):
        super().__init__(folder, die_after=die_after)
        self.device = device


def resumed(machine: Machine) -> dict[str, Any]:
    """pretrain's loop over rows on disk, whole, and ended after its first checkpoint and gone on with: how far the
    exported weights are apart. Kernels of a GPU add up in any order, so that equal bits are not promised."""
    rows = PackedRows(write_tokens(tokens_folder(machine), vocabulary=VOCABULARY, length=128) / "train")

    def run(name: str, die_after: int | None = None) -> dict[str, float | str]:
        folder = machine.folder / name
        (folder / "out").mkdir(parents=True, exist_ok=True)
        plan = TrainingPlan(
            out=folder / "out", seed=3, total_steps=12, batch_rows=8, optimizer=MUON,
            schedule=Schedule("wsd", 12, warmup=1, decay=3), micro_batch_rows=4, zero_stage=1, dtype="auto",
            hidden_size=256, checkpoint_every_steps=4, log_every_steps=4, compile="auto",
        )  # fmt: skip
        worker = Worker(folder / "checkpoints", machine.device, die_after=die_after)
        return train(worker, plan, lambda dtype: next_token(small_model(dtype), rows, dtype))

    facts = run("whole")
    try:
        run("killed", die_after=4)
    except Killed:
        run("killed")
    whole, killed = (load_file(machine.folder / name / "out" / "model.safetensors") for name in ("whole", "killed"))
    distance = max(float((whole[n].double() - killed[n].double()).norm() / whole[n].double().norm()) for n in whole)
    if not distance < 0.02:
        raise AssertionError(f"relative distance {distance} of the exported weights")
    kept = ("train/loss_nats", "train/dtype", "train/tokens_per_s", "train/mfu")
    return {"relative_distance": distance, "equal_bits": distance == 0, **{name: facts[name] for name in kept}}


def tokens_folder(machine: Machine) -> Path:
    folder = machine.folder / "tokens"
    folder.mkdir()
    return folder
