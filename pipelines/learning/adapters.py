"""LoRA: low-rank matrices trained beside frozen linear layers, and merged into them at the end. The only door to PEFT.

    x ──► W x + alpha/rank · B A x        W frozen; A [rank, in] random, B [out, rank] zero at first
    trained ──┬──► adapter/                A and B alone, as PEFT writes them
              └──► model.safetensors       W + alpha/rank · B A: a model like any other

Hu et al. 2021 (LoRA), section 4.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from pipelines.errors import UserError
from pipelines.learning import model as models
from pipelines.learning.lesson import Lesson
from pipelines.learning.saving import Weights

FOLDER = "adapter"
TOLERANCE = 1e-4  # difference of a layer's outputs before and after the merge, float32; relative where they exceed 1


OpenModel = Callable[[torch.dtype, bool], PreTrainedModel]
"""open_model(dtype, four_bit): the initial model, with weights in this type; four_bit: see models.open_folder."""


SaveModel = Callable[[PreTrainedModel, Weights, Path], None]
"""save_model(model, weights, folder): writes a model whose weights are these."""


@dataclass(frozen=True)
class Lora:
    """LoRA's options. targets: names of the layers, or suffixes of them, such as q_proj; None: every linear layer but
    the head, and the experts of a mixture. rslora: a scale of alpha / √rank (Kalajdzievski 2023); dora: magnitudes
    apart (Liu et al. 2024, DoRA); qlora: the frozen weights in 4 bits while the adapters are trained, which are merged
    into the weights as they were stored (Dettmers et al. 2023, QLoRA)."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...] | None = None
    rslora: bool = False
    dora: bool = False
    qlora: bool = False


def lesson(
    make: Callable[[PreTrainedModel], Lesson],
    open_model: OpenModel,
    save_merged: SaveModel,
    lora: Lora,
    *,
    seed: int,
    dtype: torch.dtype,
) -> Lesson:
    """The lesson that `make` returns for a model, training adapters alone; saves the merged model and the adapter.

    open_model: it is called again to merge, since the model in training may be partitioned over many ranks, or be held
    in 4 bits. save_merged(model, weights, folder). dtype: of the weights in training."""
    made = make(cast(PreTrainedModel, attach(open_model(dtype, lora.qlora), lora, seed).get_base_model()))

    def save(weights: Weights, folder: Path) -> None:
        export(attach(open_model(made.dtype, False), lora, seed), weights, folder, save_merged)

    return replace(made, save=save, dtype=torch.float32, only_trainable=True)


def attach(model: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """Adds adapters to the model and freezes everything else: the same bits for the same seed.

    targets may name the experts of a mixture too, such as experts.down_proj. A reward model's score head is trained
    whole. Raises UserError where targets name no linear layer, or an embedding."""
    layers = {name.rpartition(".")[2] for name, _ in models.linear_layers(model)}
    experts = {".".join(name.split(".")[-2:]) for name in models.expert_parameters(model)}  # such as experts.down_proj
    targets = lora.targets or tuple(sorted(layers | experts))
    of_experts = [name for name in targets if name in experts]
    if of_experts and (lora.dora or lora.dropout):
        raise UserError(
            f"lora.{'dora' if lora.dora else 'dropout'}: does not fit the experts of a mixture "
            f"({', '.join(of_experts)}); leave it out, or name lora.targets without them"
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=[name for name in targets if name not in experts],
        target_parameters=of_experts or None,
        task_type=TaskType.CAUSAL_LM if model.get_output_embeddings() is not None else TaskType.SEQ_CLS,
    )
    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)  # in the model's type
    except ValueError as error:
        known = ", ".join(sorted(layers | experts))
        raise UserError(f"lora.targets: {', '.join(targets)}: {error}; layers here: {known}") from error
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        if isinstance(embedding, BaseTunerLayer):
            raise UserError(f"lora.targets: {', '.join(targets)}: names an embedding; expected layers between the "
                            f"embeddings, such as q_proj")  # fmt: skip
    return cast(PeftModel, adapted)


def export(adapted: PeftModel, weights: Weights, folder: Path, save_merged: SaveModel) -> None:
    """Writes FOLDER and, with save_merged, the model, one merged layer after another.

    adapted: a model with adapters of the trained shape; weights: the trained ones in float32, by their names in its
    base model. Raises UserError where a merged layer computes something else."""
    model = cast(PreTrainedModel, adapted.get_base_model())
    dtype, trained = model.dtype, dict(weights)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = trained[name].to(parameter.device)  # float32, whatever the model's type
    _save_adapter(adapted, folder / FOLDER)

    def live(select: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
        return ((name, parameter.detach()) for name, parameter in model.named_parameters() if select(name))

    merged = ((name, weight.to(dtype)) for name, weight in merged_weights(model, live, check=True))
    save_merged(model, merged, folder)


def merged_weights(
    model: PreTrainedModel,
    live: Callable[[Callable[[str], bool]], Iterator[tuple[str, Tensor]]],
    *,
    check: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the model with its adapters merged, in float32 and then in its own type, by its name in the model
    without adapters, one after another.

    live(select): yields the selected weights of the model, by their names in it, whole. check: raises UserError where a
    merged layer computes something else than PEFT's; the model must be whole, on the CPU."""
    layers: dict[str, Any] = {n: module for n, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    adapted = {f"{name}.{_base_path(layer)}": name for name, layer in layers.items()}  # a weight: its adapter's layer
    small = {name: weight.float().clone() for name, weight in live(lambda name: ".lora_" in name)}
    for name, weight in live(lambda name: ".lora_" not in name):
        plain = name.replace(".base_layer", "").replace(".modules_to_save.default", "")
        if name not in adapted:
            if ".original_module." not in name:  # of a head that was trained whole, as it was before
                yield plain, weight
            continue
        layer = adapted[name]
        a_RI, b_OR = small[f"{layer}.lora_A.default.weight"], small[f"{layer}.lora_B.default.weight"]
        magnitude_O = small.get(f"{layer}.lora_magnitude_vector.default.weight")
        scale, num_experts = layers[layer].scaling["default"], getattr(layers[layer], "num_experts", 1)
        if num_experts == 1:
            merged = merged_weight(weight.float(), a_RI, b_OR, scale, magnitude_O)
            if check:
                check_merge(layer, layers[layer], merged)
        else:
            merged = weight.float() + scale * expert_deltas(a_RI, b_OR, num_experts)
        yield plain, merged.view(weight.shape).to(weight.dtype)


def _base_path(layer: Any) -> str:
    """The name of the weight that a layer adapts, below the layer."""
    name, depth = getattr(layer, "parameter_name", "weight"), 1
    while isinstance(
        layer.base_layer, BaseTunerLayer
    ):  # one inside another: adapters of several parameters of a module
        layer, depth = layer.base_layer, depth + 1
    return "base_layer." * depth + name


def expert_deltas(a_SI: Tensor, b_OS: Tensor, num_experts: int) -> Tensor:
    """B A of each expert [E, O, I], as PEFT stores them: S = R · E, experts outermost in A and innermost in B."""
    a_ERI = a_SI.unflatten(0, (num_experts, -1))
    return torch.einsum("ore,eri->eoi", b_OS.unflatten(1, (-1, num_experts)), a_ERI)


def merged_weight(weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor, scale: float, magnitude_O: Tensor | None) -> Tensor:
    """W + scale · B A; with magnitudes (DoRA, Liu et al. 2024, equation 5) each row of that scaled to its magnitude.

    Shapes: O outputs, I inputs, R rank."""
    merged_OI = weight_OI + scale * b_OR @ a_RI
    return merged_OI if magnitude_O is None else merged_OI * (magnitude_O / merged_OI.norm(dim=1))[:, None]


def check_merge(name: str, layer: Any, merged_OI: Tensor) -> None:
    """Raises UserError where PEFT's layer, with its adapter beside it, and the merged weight give different outputs on
    random inputs, in float32, by more than rounding."""
    base = layer.get_base_layer()
    dtype = base.weight.dtype
    inputs_8I = torch.randn(8, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unmerged_8O = layer.float().eval()(inputs_8I)
        gap = float((unmerged_8O - F.linear(inputs_8I, merged_OI, base.bias)).abs().max())
    base.to(dtype)
    max_gap = TOLERANCE * max(1.0, float(unmerged_8O.abs().max()))
    if not gap <= max_gap:
        raise UserError(
            f"lora: merging the adapter of {name} changes its output by {gap:.2g}; expected at most {max_gap:.2g}. The "
            f"adapters have grown beyond what float32 can add to the weights: lower learning_rate or lora.alpha"
        )


def _save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json: the same bytes for the same adapter."""
    adapted.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set, in any order
    config["base_model_name_or_path"] = None  # a path of this machine; the lineage names the parent
    file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
