"""How fast training is on the GPU, and how much memory it takes: sizes, ZeRO stages, adapters, a bare loop beside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from pipelines.learning import adapters
from pipelines.learning.adapters import Lora
from pipelines.learning.engine import Engine, OptimizerPlan
from pipelines.learning.memory import Setting, rank_bytes
from pipelines.learning.model import (
    NextTokenLearner,
    Recompute,
    Size,
    compile_layers,
    from_folder,
    from_scratch,
    hidden_matrices,
    num_parameters,
    recompute,
    shape_of,
)
from pipelines.learning.precision import name_of
from pipelines.learning.saving import save
from pipelines.learning.shapes import SIZES
from tests.gpu.machine import Machine, packed_rows, steps

Measure = Callable[[], dict[str, Any]]
Measurements = Iterator[tuple[str, Measure]]

LENGTH, VOCABULARY, MEAN_DOCUMENT = 2048, 32_768, 700
ADAMW = OptimizerPlan("adamw", learning_rate=1e-4, adam_learning_rate=1e-4, weight_decay=0.1, clip_norm=1.0)
MUON = OptimizerPlan("muon", learning_rate=0.01, adam_learning_rate=1e-3, weight_decay=0.0, clip_norm=0.0)
LORA = Lora(rank=16, alpha=32.0, dropout=0.0)
EIGHT_B = Size(4096, 32, 32, 8, 14_336, tied=False)  # Llama 3.1 8B
SETTINGS: dict[str, tuple[Recompute, ...]] = {
    "125m": ("none",), "350m": ("none", "attention", "full"), "1b": ("none", "attention", "full")
}  # fmt: skip
MICRO_ROWS = {"125m": 16, "350m": 8, "1b": 8, "8b": 4}  # that fit 80 GB with all activations kept


def sizes(machine: Machine) -> Measurements:
    """Three sizes at ZeRO 1 with compiled layers, as `compile: auto` has them on a GPU: activations kept, and computed
    again."""
    for size, choices in SETTINGS.items():
        for what in choices:
            yield f"train {size}, recompute {what}", partial(full, machine, size, what=what)
    yield "train 1b, recompute full, twice the rows", partial(full, machine, "1b", what="full", rows_factor=2)
    yield "train 350m, Muon", partial(full, machine, "350m", optimizer=MUON)


def not_compiled(machine: Machine) -> Measurements:
    """The same without torch.compile."""
    for size, choices in SETTINGS.items():
        for what in choices:
            name = f"train {size}, recompute {what}, not compiled"
            yield name, partial(full, machine, size, what=what, compiled=False)


def zero(machine: Machine) -> Measurements:
    """Stages and offload, all on one rank: what the bookkeeping alone costs."""
    yield "train 350m, ZeRO 2, optimiser on the host", partial(full, machine, "350m", zero_stage=2, offload=True)
    yield "train 350m, ZeRO 3, not compiled", partial(full, machine, "350m", zero_stage=3, compiled=False)


def full(
    machine: Machine, size: str, *, what: Recompute = "none", zero_stage: int = 1, offload: bool = False,
    optimizer: OptimizerPlan = ADAMW, compiled: bool = True, rows_factor: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Full training of a new model: four micro-batches a step, as many rows each as fit without recomputing."""
    model = new_model(machine, size)
    if compiled:
        compile_layers(model)
    recompute(model, what)
    learner = NextTokenLearner(model).train()
    with closing(Engine(learner, hidden_matrices(model), optimizer, zero_stage=zero_stage, offload=offload,
                        muon_in_bfloat16=machine.on_gpu)) as engine:  # fmt: skip
        parts = batches(machine, size, 4, rows_factor)
        setting = Setting(
            tokens=parts[0].tokens_BT.numel(), device=machine.device.partition(":")[0], dtype=name_of(machine.dtype),
            zero_stage=zero_stage, recompute=what, compiled=compiled, offload=offload,
            muon=optimizer.kind == "muon",
        )  # fmt: skip
        planned = sum(rank_bytes(shape_of(model), setting).values()) / 2**30
        return steps(machine, engine, model, parts) | {"planned_gib": round(planned, 3)}


def adapters_of(machine: Machine, size: str, what: Recompute) -> dict[str, Any]:
    """LoRA beside a frozen model in the training type."""
    model = new_model(machine, size)
    return with_adapters(machine, model, size, what)


def with_adapters(machine: Machine, model: PreTrainedModel, size: str, what: Recompute) -> dict[str, Any]:
    adapted = cast(PreTrainedModel, adapters.attach(model, LORA, 0).get_base_model())
    compile_layers(adapted)
    recompute(adapted, what)
    with closing(Engine(NextTokenLearner(adapted).train(), [], ADAMW, zero_stage=1)) as engine:
        return steps(machine, engine, adapted, batches(machine, size, 2))


def adapters_part(machine: Machine) -> Measurements:
    yield "LoRA 1b, recompute none", partial(adapters_of, machine, "1b", "none")
    yield "LoRA 8b, recompute full", partial(adapters_of, machine, "8b", "full")


def four_bit(machine: Machine) -> Measurements:
    """QLoRA: loading in 4 bits, and training beside it."""
    yield "QLoRA 1b, recompute none", partial(quantised, machine, "1b")


def quantised(machine: Machine, size: str) -> dict[str, Any]:
    folder = machine.folder / f"model-{size}"
    folder.mkdir()
    source = new_model(machine, size)
    save(source, source.named_parameters(), folder)
    del source
    before = machine.allocated()
    model = from_folder(folder, machine.dtype, four_bit=True)
    loaded = (machine.allocated() - before) / num_parameters(model)
    return with_adapters(machine, model, size, "none") | {"loaded_bytes_per_parameter": round(loaded, 3)}


def new_model(machine: Machine, size: str, *, seed: int = 0) -> PreTrainedModel:
    """A model with random weights in the training type, made on the device."""
    shape = SIZES["micro"] if not machine.on_gpu else EIGHT_B if size == "8b" else SIZES[size]
    torch.set_default_dtype(machine.dtype)
    try:
        with torch.device(machine.device):
            return cast(PreTrainedModel, from_scratch(shape, vocabulary=vocabulary(machine), length=LENGTH, seed=seed)
                        .to(machine.dtype))  # pyright: ignore[reportArgumentType]  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)


def vocabulary(machine: Machine) -> int:
    return VOCABULARY if machine.on_gpu else 512


def batches(machine: Machine, size: str, count: int, rows_factor: int = 1) -> list[Any]:
    """Micro-batches of random documents of 700 tokens on average, in rows of 2,048."""
    rows, length = (MICRO_ROWS[size] * rows_factor, LENGTH) if machine.on_gpu else (2, 64)
    mean = MEAN_DOCUMENT * length // LENGTH
    return [
        packed_rows(rows, length, vocabulary=vocabulary(machine), mean_document=mean, seed=seed)
        for seed in range(count)
    ]


def bare(machine: Machine) -> Measurements:
    """What people would write without us, on the same rows."""
    for size in ("350m", "1b"):
        yield f"bare loop {size}", partial(bare_loop, machine, size)


def bare_loop(machine: Machine, size: str) -> dict[str, Any]:
    """transformers' model in float32 under bfloat16 autocast, its SDPA attention over whole rows (documents see one
    another), cross-entropy of all logits, and fused AdamW."""
    model = cast(Any, new_model(machine, size)).float()
    model.set_attn_implementation("sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    parts = batches(machine, size, 4)
    labels = sum(batch.num_labels for batch in parts)

    def step() -> None:
        for batch in parts:
            tokens_BT, labels_BT = batch.tokens_BT.to(machine.device), batch.labels_BT.to(machine.device)
            with torch.autocast(machine.device.partition(":")[0], torch.bfloat16, enabled=machine.on_gpu):
                logits = model(input_ids=tokens_BT, use_cache=False).logits
                loss = F.cross_entropy(logits.flatten(0, 1).float(), labels_BT.flatten(), reduction="sum") / labels
            del logits
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    at_rest, peak = machine.allocated(), machine.peak(step)
    step_s = machine.seconds(step, rounds=4, warm_up=0)
    tokens = sum(batch.tokens_BT.numel() for batch in parts)
    return {"tokens_per_s": round(tokens / step_s), "step_s": round(step_s, 4), "rest_gib": round(at_rest / 2**30, 3),
            "peak_gib": round(peak / 2**30, 3)}  # fmt: skip
