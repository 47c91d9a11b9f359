"""Adapters: small tensors trained beside frozen linear layers, and merged into them at the end; and prefixes, which are
not merged (prefix.py). The only door to PEFT.

    LoRA    x ──► W x + alpha/rank · B A x      W frozen; A [rank, in] random, B [out, rank] zero at first
    IA3     x ──► l ⊙ (W x), or W (l ⊙ x)       W frozen; l [out], or [in] where inputs are scaled, one at first
    trained ──┬──► adapter/                     the small tensors alone, as PEFT writes them
              └──► model.safetensors            W + alpha/rank · B A, or l ⊙ W: a model like any other

Hu et al. 2021 (LoRA), section 4.1; Liu et al. 2022 (IA3, arXiv 2205.05638), section 3.3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, TaskType, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipelines.errors import UserError
from pipelines.learning import model as models
from pipelines.learning.lesson import Lesson
from pipelines.learning.saving import Weights

FOLDER = "adapter"
# Standard deviation of a prefix's first keys and values. PEFT draws them from N(0, 1), which takes the held-out loss of
# SmolLM2-135M-Instruct from 2.06 to 7.75 nats a token; with this it is 2.12.
PREFIX_STD = 0.1
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


@dataclass(frozen=True)
class Ia3:
    """IA3's options. targets: as of Lora; None: keys, values and the feed-forward's last layer, as in the paper. Of a
    layer named in INPUT_SCALED the inputs are scaled, of any other the outputs."""

    targets: tuple[str, ...] | None = None


Adapter = Lora | Ia3
INPUT_SCALED = ("down_proj", "fc2", "dense_4h_to_h")


def lesson(
    make: Callable[[PreTrainedModel], Lesson],
    open_model: OpenModel,
    save_merged: SaveModel,
    adapter: Adapter,
    *,
    seed: int,
    dtype: torch.dtype,
) -> Lesson:
    """The lesson that `make` returns for a model, training the adapter alone; saves the merged model and the adapter.

    open_model: it is called again to merge, since the model in training may be partitioned over many ranks, or be held
    in 4 bits. save_merged(model, weights, folder). dtype: of the weights in training."""
    four_bit = isinstance(adapter, Lora) and adapter.qlora
    made = make(cast(PreTrainedModel, fused(attach(open_model(dtype, four_bit), adapter, seed)).get_base_model()))

    def save(weights: Weights, folder: Path) -> None:
        export(attach(open_model(made.dtype, False), adapter, seed), weights, folder, save_merged)

    return replace(made, save=save, dtype=torch.float32, only_trainable=True)


def attach(model: PreTrainedModel, adapter: Adapter, seed: int) -> PeftModel:
    """Adds an adapter to the model and freezes everything else: the same bits for the same seed.

    LoRA's targets may name the experts of a mixture too, such as experts.down_proj. A reward model's score head is
    trained whole. Raises UserError for a target that is no linear layer between the embeddings."""
    names = [name for name, _ in models.linear_layers(model)]
    layers = {name.rpartition(".")[2] for name in names}
    experts = {".".join(name.split(".")[-2:]) for name in models.expert_parameters(model)}  # such as experts.down_proj
    if isinstance(adapter, Lora):
        option, known = "lora", layers | experts
        targets = adapter.targets or tuple(sorted(known))
        config = _lora_config(model, adapter, targets, experts)
    else:
        option, known = "ia3", layers
        targets = adapter.targets or _ia3_targets(known, has_experts=bool(experts))
        config = IA3Config(
            target_modules=list(targets),
            feedforward_modules=[name for name in targets if name.rpartition(".")[2] in INPUT_SCALED],
            task_type=TaskType.CAUSAL_LM,
        )
    missing = [name for name in targets if name not in known and not any(n.endswith(f".{name}") for n in names)]
    if missing:
        raise UserError(f"{option}.targets: {', '.join(missing)}: no such layer; layers here: "
                        f"{', '.join(sorted(known))}")  # fmt: skip
    torch.manual_seed(seed)
    return cast(PeftModel, get_peft_model(model, config, autocast_adapter_dtype=False))  # in the model's type


def attach_prefix(model: PreTrainedModel, tokens: int, projection: int | None, seed: int) -> PeftModel:
    """Puts `tokens` trained keys and values in front of what each layer attends to, and freezes the model.

    projection: hidden width of the MLP that computes them in training; None: they are parameters themselves.
    Raises UserError for heads of another width than PEFT's prefix has."""
    config = PrefixTuningConfig(
        num_virtual_tokens=tokens, prefix_projection=projection is not None,
        encoder_hidden_size=cast(int, projection), task_type=TaskType.CAUSAL_LM,
    )  # fmt: skip
    torch.manual_seed(seed)
    adapted = cast(PeftModel, get_peft_model(model, config, autocast_adapter_dtype=False))
    width = cast(int, config.token_dim) // cast(int, config.num_attention_heads)
    head_width = getattr(model.config, "head_dim", None) or width
    if head_width != width:
        raise UserError(
            f"{type(model).__name__}: heads of {head_width} columns; a prefix of PEFT has {width}, the hidden size "
            f"divided by the heads. Train sft with lora or ia3"
        )
    encoder = cast(Any, adapted).prompt_encoder
    if projection is None:
        encoder["default"].embedding.weight.data.mul_(PREFIX_STD)
    encoder.to(model.dtype)
    return adapted


def _ia3_targets(layers: set[str], *, has_experts: bool) -> tuple[str, ...]:
    """Keys, values and the feed-forward's last layer, which a mixture has in its experts alone."""
    last = tuple(name for name in INPUT_SCALED if name in layers)[:1]
    if not {"k_proj", "v_proj"} <= layers or not (last or has_experts):
        raise UserError(f"ia3: no layers k_proj, v_proj and {' or '.join(INPUT_SCALED)} here; name ia3.targets among "
                        f"{', '.join(sorted(layers))}")  # fmt: skip
    return ("k_proj", "v_proj", *last)


def _lora_config(model: PreTrainedModel, lora: Lora, targets: tuple[str, ...], experts: set[str]) -> PeftConfig:
    """PEFT's configuration. Raises UserError for options that do not fit the experts of a mixture."""
    of_experts = [name for name in targets if name in experts]
    if of_experts and (lora.dora or lora.dropout):
        raise UserError(
            f"lora.{'dora' if lora.dora else 'dropout'}: does not fit the experts of a mixture "
            f"({', '.join(of_experts)}); leave it out, or name lora.targets without them"
        )
    return LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=[name for name in targets if name not in experts],
        target_parameters=of_experts or None,
        task_type=TaskType.CAUSAL_LM if model.get_output_embeddings() is not None else TaskType.SEQ_CLS,
    )


def fused(adapted: PeftModel) -> PeftModel:
    """The model, with LoRA's layers computing in fewer passes over their outputs on a CPU: see _LoraLinear. Layers with
    dropout, DoRA, 4-bit weights or weights that ZeRO 3 partitions stay PEFT's."""
    for layer in adapted.modules():
        if isinstance(layer, LoraLinear) and _is_plain(layer):
            layer.forward = partial(_lora_forward, layer, layer.forward)
    return adapted


def _is_plain(layer: Any) -> bool:
    """Whether a layer is W x + scale · B A x of whole matrices in the type that they were trained in."""
    weights = (layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    return (
        type(layer.base_layer) is nn.Linear
        and isinstance(layer.lora_dropout["default"], nn.Identity)
        and not layer.lora_variant
        and not any(hasattr(weight, "ds_id") for weight in weights)
        and len({weight.dtype for weight in weights}) == 1
    )


def _lora_forward(layer: Any, peft_forward: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if x.is_cuda or layer.disable_adapters or args or kwargs:  # on a GPU torch.compile joins the passes
        return peft_forward(x, *args, **kwargs)
    base, a, b = layer.base_layer, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return cast(Tensor, _LoraLinear.apply(x, base.weight, base.bias, a, b, layer.scaling["default"]))


class _LoraLinear(torch.autograd.Function):
    """W x + bias + scale · B A x, of frozen W and bias.

    What the adapter adds to outputs [N, O] and to the gradient by inputs [N, I] is added by the products themselves;
    PEFT's layer takes six passes over memory for it, forward and backward, which on a CPU are a tenth of the layer's
    time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
                ) -> Tensor:  # fmt: skip
        hidden_NR = x.flatten(0, -2) @ a_RI.T
        out = F.linear(x, weight_OI, bias_O)
        out.view(-1, out.shape[-1]).addmm_(hidden_NR, b_OR.T, alpha=scale)
        ctx.save_for_backward(x, weight_OI, a_RI, b_OR, hidden_NR)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        x, weight_OI, a_RI, b_OR, hidden_NR = ctx.saved_tensors
        grad_NO = grad_outputs[0].flatten(0, -2)
        grad_hidden_NR = (grad_NO @ b_OR).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_NO @ weight_OI).addmm_(grad_hidden_NR, a_RI).view_as(x)
        grad_b_OR = (grad_NO.T @ hidden_NR).mul_(ctx.scale)
        return grad_x, None, None, grad_hidden_NR.T @ x.flatten(0, -2), grad_b_OR, None


def export(adapted: PeftModel, weights: Weights, folder: Path, save_merged: SaveModel) -> None:
    """Writes FOLDER and, with save_merged, the model, one merged layer after another.

    adapted: a model with adapters of the trained shape; weights: the trained ones in float32, by their names in its
    base model. Raises UserError where a merged layer computes something else."""
    model = cast(PreTrainedModel, adapted.get_base_model())
    dtype, trained = model.dtype, dict(weights)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = trained[name].to(parameter.device)  # float32, whatever the model's type
    save_adapter(adapted, folder / FOLDER)

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
    adapted = {name: layer for layer in layers for name in _adapted_names(layer, layers[layer])}
    small = {name: weight.float().clone() for name, weight in live(_is_small)}
    for name, weight in live(lambda name: not _is_small(name)):
        plain = name.replace(".base_layer", "").replace(".modules_to_save.default", "")
        if name not in adapted:
            if ".original_module." not in name:  # of a head that was trained whole, as it was before
                yield plain, weight
            continue
        layer = layers[adapted[name]]
        if f"{adapted[name]}.ia3_l.default" in small:
            merged = scaled(weight.float(), small[f"{adapted[name]}.ia3_l.default"])
        else:
            merged = _with_lora(adapted[name], layer, weight.float(), small)
        if check and weight.ndim == 2:
            check_merge(adapted[name], layer, merged)
        yield plain, merged.view(weight.shape).to(weight.dtype)


def scaled(weight: Tensor, scales: Tensor) -> Tensor:
    """A weight [O, I], or a bias [O], under IA3: rows times scales [O, 1], or columns times scales [1, I]."""
    return weight * (scales if weight.ndim == 2 else scales.flatten())


def _is_small(name: str) -> bool:
    """Whether a parameter is part of an adapter."""
    return ".lora_" in name or ".ia3_l." in name


def _adapted_names(name: str, layer: Any) -> list[str]:
    """The parameters that a layer's adapter changes: its weight, and the bias of one whose outputs are scaled."""
    weight = f"{name}.{_base_path(layer)}"
    scales_bias = hasattr(layer, "ia3_l") and not layer.is_feedforward and layer.base_layer.bias is not None
    return [weight, f"{name}.base_layer.bias"] if scales_bias else [weight]


def _with_lora(name: str, layer: Any, weight: Tensor, small: Mapping[str, Tensor]) -> Tensor:
    """A layer's weight with its adapter of this name merged. float32."""
    a_RI, b_OR = small[f"{name}.lora_A.default.weight"], small[f"{name}.lora_B.default.weight"]
    magnitude_O = small.get(f"{name}.lora_magnitude_vector.default.weight")
    scale, num_experts = layer.scaling["default"], getattr(layer, "num_experts", 1)
    if num_experts == 1:
        return merged_weight(weight, a_RI, b_OR, scale, magnitude_O)
    return weight + scale * expert_deltas(a_RI, b_OR, num_experts)


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
        bias_O = base.bias
        if len(_adapted_names(name, layer)) == 2:
            bias_O = scaled(bias_O, layer.ia3_l["default"])
        gap = float((unmerged_8O - F.linear(inputs_8I, merged_OI, bias_O)).abs().max())
    base.to(dtype)
    max_gap = TOLERANCE * max(1.0, float(unmerged_8O.abs().max()))
    if not gap <= max_gap:
        raise UserError(
            f"merging the adapter of {name} changes its output by {gap:.2g}; expected at most {max_gap:.2g}. The "
            f"adapters have grown beyond what float32 can add to the weights: lower learning_rate or alpha"
        )


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json: the same bytes for the same adapter."""
    adapted.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    for key in ("target_modules", "feedforward_modules"):  # PEFT writes sets, in any order
        if key in config:
            config[key] = sorted(config[key])
    config["base_model_name_or_path"] = None  # a path of this machine; the lineage names the parent
    file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
