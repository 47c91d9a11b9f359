"""LoRA: low-rank matrices trained beside frozen linear layers, and merged into them at the end. The only door to PEFT.

    x ──► W x + alpha/rank · B A x        W frozen; A [rank, in] random, B [out, rank] zero at first
    trained ──┬──► adapter/                A and B alone, as PEFT writes them
              └──► model.safetensors       W + alpha/rank · B A: a model like any other

Hu et al. 2021 (LoRA), section 4.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipelines.errors import UserError
from pipelines.inference import probe
from pipelines.learning import model as models
from pipelines.learning.batch import PackedRows
from pipelines.learning.lesson import Lesson, save_proven

FOLDER = "adapter"
TOLERANCE = 1e-4  # difference of logits before and after the merge, in float32; relative where they exceed 1


@dataclass(frozen=True)
class Lora:
    """LoRA's options. targets: names of the layers, or suffixes of them, such as q_proj; None: every linear layer but
    the head."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...] | None = None


def next_token(
    open_model: Callable[[], PreTrainedModel], rows: PackedRows, dtype: torch.dtype, lora: Lora, *, seed: int
) -> Lesson:
    """Next-token prediction as lesson.next_token, training adapters alone; saves the merged model and the adapter.

    open_model: returns the same float32 model at every call; it is called again to merge, since the model in training
    may be partitioned over many ranks."""
    model = attach(open_model(), lora, seed).get_base_model()

    def save(weights: dict[str, Tensor], folder: Path) -> None:
        export(attach(open_model(), lora, seed), weights, folder)

    return Lesson(models.NextTokenLearner(cast(Any, model), dtype), cast(Any, model), "model", rows, save)


def attach(model: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """Adds adapters to the model and freezes everything else: the same bits for the same seed.

    Raises UserError where targets name no linear layer, or an embedding."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = model.get_output_embeddings()
    inner = [name for name in linear if model.get_submodule(name) is not head]
    targets = lora.targets or tuple(sorted({name.rpartition(".")[2] for name in inner}))
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        task_type=TaskType.CAUSAL_LM,
    )
    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in inner}))
        raise UserError(f"lora.targets: {', '.join(targets)}: {error}; layers here: {known}") from error
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        if isinstance(embedding, BaseTunerLayer):
            raise UserError(f"lora.targets: {', '.join(targets)}: names an embedding; expected layers between the "
                            f"embeddings, such as q_proj")  # fmt: skip
    return cast(PeftModel, adapted)


def export(adapted: PeftModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes FOLDER and the merged model in Hugging Face layout, with its probe.

    adapted: a model with adapters of the trained shape; weights: the trained ones, by their names in its base model.
    Raises UserError where the merged model computes something else."""
    with torch.no_grad():
        for name, parameter in adapted.get_base_model().named_parameters():
            parameter.copy_(weights[name])
    adapted.eval()
    unmerged_TV = _logits(adapted.get_base_model())
    _save_adapter(adapted, folder / FOLDER)
    merged = cast(PreTrainedModel, cast(Any, adapted).merge_and_unload())
    check_merge(unmerged_TV, _logits(merged))
    save_proven(merged, dict(merged.named_parameters()), folder)


def check_merge(unmerged_TV: Tensor, merged_TV: Tensor) -> None:
    """Raises UserError where logits before and after the merge differ by more than rounding."""
    gap = float((unmerged_TV - merged_TV).abs().max())
    max_gap = TOLERANCE * max(1.0, float(unmerged_TV.abs().max()))
    if not gap <= max_gap:
        raise UserError(
            f"lora: merging the adapters changes logits by {gap:.2g}; expected at most {max_gap:.2g}. The adapters "
            f"have grown beyond what float32 can add to the weights: lower learning_rate or lora.alpha"
        )


def _logits(model: Any) -> Tensor:
    """Logits of the probe's row. float32 [T, V]."""
    row = probe.tokens(model.config.vocab_size, model.config.max_position_embeddings)
    with torch.no_grad():
        return model(input_ids=torch.tensor([row]), use_cache=False).logits[0].float()


def _save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json: the same bytes for the same adapter."""
    adapted.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set, in any order
    config["base_model_name_or_path"] = None  # a path of this machine; the lineage names the parent
    file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
