"""Adapters beside weights in 4 bits: what is learnt is what a plain loop learns beside the same weights, unpacked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from pipelines.errors import UserError
from pipelines.learning import adapters
from pipelines.learning.adapters import Lora
from pipelines.learning.batch import DataOrder, PackedRows
from pipelines.learning.engine import OptimizerPlan
from pipelines.learning.lesson import next_token
from pipelines.learning.loop import TrainingPlan, train
from pipelines.learning.model import (
    NextTokenLearner,
    from_folder,
    last_hidden,
    num_parameters,
    score_head,
    scores_of_hidden,
)
from pipelines.learning.pairs import new_reward_model
from pipelines.learning.saving import save_proven
from pipelines.learning.schedule import Schedule
from tests import families
from tests.learning.packed import write_tokens
from tests.learning.processes import PlainWorker, in_processes

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, qlora=True)
STEPS, SEED = 5, 3
ADAMW = OptimizerPlan("adamw", learning_rate=0.02, adam_learning_rate=1.0, weight_decay=0.0, clip_norm=0.0)
STAGES: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)


def run(folder: Path, name: str, zero_stage: int, dtype: str = "float32") -> None:
    out = folder / name
    out.mkdir(exist_ok=True)
    plan = TrainingPlan(
        out=out, seed=SEED, total_steps=STEPS, batch_rows=8, optimizer=ADAMW, schedule=Schedule("wsd", STEPS, 0),
        micro_batch_rows=2, zero_stage=zero_stage, dtype=dtype, hidden_size=64, checkpoint_every_steps=3,
        log_every_steps=100,
    )  # fmt: skip
    rows = PackedRows(folder / "train")

    def lesson(dtype: torch.dtype) -> Any:
        open_model = partial(from_folder, folder / "model")
        make: Any = partial(next_token, rows=rows)
        return adapters.lesson(make, open_model, save_proven, LORA, seed=SEED, dtype=dtype)

    train(PlainWorker(out / "checkpoints"), plan, lesson)


def every_stage(folder: Path) -> None:
    for stage in STAGES:
        run(folder, f"zero-{stage}", stage)
    run(folder, "bfloat16", 1, "bfloat16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qlora")
    torch.manual_seed(1)
    shape = families.SHAPE | {"intermediate_size": 128, "tie_word_embeddings": True}
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder / "model")
    write_tokens(folder, num_rows=24, length=32, vocabulary=families.SHAPE["vocab_size"])
    in_processes(every_stage, 2, folder)
    return folder


def unpacked(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the linear layers as they are beside the adapters, by name."""
    modules = from_folder(folder / "model", four_bit=True).named_modules()
    packed = {f"{name}.weight": cast(Any, m).weight for name, m in modules if type(m).__name__ == "Linear4bit"}
    return {name: dequantize_4bit(weight.data, weight.quant_state) for name, weight in packed.items()}


def test_linear_layers_are_held_in_4_bits_and_the_head_is_not(folder: Path) -> None:
    model: Any = from_folder(folder / "model", four_bit=True)
    stored = load_file(folder / "model" / "model.safetensors")
    assert len(unpacked(folder)) == 7 * model.config.num_hidden_layers
    for name, weight in unpacked(folder).items():
        assert 0.05 < (weight - stored[name]).norm() / stored[name].norm() < 0.1, "rounded to 16 values"
    assert model.lm_head.weight.dtype == torch.float32
    assert num_parameters(model) == num_parameters(from_folder(folder / "model"))


@pytest.fixture(scope="module")
def by_hand(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight after the same steps of a plain loop; the adapters, learnt beside unpacked weights, are merged into
    the stored ones."""
    adapted = adapters.attach(from_folder(folder / "model"), replace(LORA, qlora=False), SEED)
    inner = adapted.get_base_model()
    stored = {name: parameter.detach().clone() for name, parameter in inner.named_parameters()}
    for name, weight in unpacked(folder).items():
        inner.get_parameter(name.replace(".weight", ".base_layer.weight")).data = weight
    learner = NextTokenLearner(cast(Any, inner))
    learnt = [p for p in inner.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(learnt, lr=ADAMW.learning_rate, betas=ADAMW.betas, weight_decay=0.0)
    rows = PackedRows(folder / "train")
    order, schedule = DataOrder(len(rows), 8, SEED), Schedule("wsd", STEPS, 0)
    for step in range(STEPS):
        batch = rows.read(order.rows_of_step(step))
        adam.zero_grad()
        (learner(batch) / batch.num_labels).backward()
        adam.param_groups[0]["lr"] = ADAMW.learning_rate * schedule.lr_factor(step)
        adam.step()
    small = {name: parameter.detach() for name, parameter in inner.named_parameters() if ".lora_" in name}
    merged = {}
    for name, weight in stored.items():
        if ".base_layer." in name:
            a, b = (small[name.replace("base_layer", f"lora_{side}.default")] for side in "AB")
            weight = weight + LORA.alpha / LORA.rank * b @ a
        if ".lora_" not in name:
            merged[name.replace(".base_layer", "")] = weight
    return merged


@pytest.mark.parametrize("stage", STAGES)
def test_learns_what_a_plain_loop_learns_beside_the_unpacked_weights(
    folder: Path, by_hand: dict[str, torch.Tensor], stage: int
) -> None:
    ours = load_file(folder / f"zero-{stage}" / "model.safetensors")
    start = load_file(folder / "model" / "model.safetensors")
    assert ours.keys() == by_hand.keys() == start.keys()
    moved = 0
    for name, weight in by_hand.items():
        distance = (weight - start[name]).norm()
        moved += bool(distance)
        assert (ours[name] - weight).norm() <= 2e-3 * distance, name
    assert moved == len(unpacked(folder))


def test_in_bfloat16_it_learns_nearly_the_same(folder: Path, by_hand: dict[str, torch.Tensor]) -> None:
    ours, start = (load_file(folder / name / "model.safetensors") for name in ("bfloat16", "model"))
    for name in unpacked(folder):
        moved = [(side[name] - start[name]).flatten() for side in (ours, by_hand)]
        assert torch.cosine_similarity(*moved, dim=0) > 0.7, name  # AdamW's first steps are little but signs


def test_a_reward_model_keeps_its_head_in_its_type_and_learns(folder: Path) -> None:
    model: Any = new_reward_model(folder / "model", seed=1, pad_id=0, four_bit=True)
    adapted: Any = adapters.attach(model, LORA, SEED).get_base_model()
    assert type(adapted.model.layers[0].mlp.down_proj.get_base_layer()).__name__ == "Linear4bit"
    head = score_head(adapted)
    assert head.weight.dtype == torch.float32 and head.weight.requires_grad
    scores_of_hidden(adapted, last_hidden(adapted, torch.tensor([[5, 6, 7]])).flatten(0, 1)).sum().backward()
    learnt = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in learnt.values())
    assert sum(bool(gradient.abs().max()) for gradient in learnt.values()) > 7, "B's gradients, and the head's"


def test_layers_whose_rows_do_not_fit_the_blocks_are_refused(tmp_path: Path) -> None:
    """On a CPU bitsandbytes 0.50 unpacks them wrongly, without a word."""
    families.write(tmp_path, "Llama, tied", seed=1, dtype="float32")
    with pytest.raises(UserError, match=r"lora.qlora: model.layers.0.mlp.down_proj has 96 inputs; expected a multiple"):
        from_folder(tmp_path, four_bit=True)
