"""The model that each stage of a recipe trains, by its config alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.inference.model_config import read_config
from pipelines.recipe.reader import SHIPPED, Entry, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIGS = SHIPPED / "configs"


def config_of(recipe: Recipe, entry: Entry) -> dict[str, Any]:
    """config.json of the model that an entry makes: that of its base, or of a new model."""
    while True:
        if entry.stage.kind == "base":
            return base_config(entry.options.model_dump()["model"])
        if "model" not in entry.inputs:
            return _new_config(recipe, entry)
        entry = recipe.entry(entry.inputs["model"])


def base_config(model: str) -> dict[str, Any]:
    """config.json of a base: a folder's, a hub id's as far as this machine has it, or one that comes with Rayse.

    Raises UserError where there is none."""
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return read_config(path)
    cached = _cached_config(model)
    if cached is not None:
        return read_config(cached)
    name = model.rsplit("/", 1)[-1].lower()
    shipped = [file for file in CONFIGS.glob("*.json") if name.startswith(file.stem)]
    if shipped:
        return json.loads(max(shipped, key=lambda file: len(file.stem)).read_text(encoding="utf-8"))
    what = (
        "a GGUF file names no config"
        if path.is_file()
        else "neither a folder with a config.json nor in the hub's cache"
    )
    known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.json")))
    raise UserError(
        f"base.model: {model}: {what}, so its size is not known; expected a folder that holds its config.json (weights "
        f"are not needed for a plan), a model that `hf download` has fetched, or one of {known}"
    )


def _cached_config(model: str) -> Path | None:
    """The folder of a hub id's config.json in the hub's cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(file).parent if isinstance(file, str) else None


def _new_config(recipe: Recipe, entry: Entry) -> dict[str, Any]:
    """The config of the model that pretrain makes."""
    from pipelines.learning.model import SIZES

    options = entry.options.model_dump()
    size = SIZES[options["size"] or "2m"]
    tokens = recipe.entry(entry.inputs["tokens"])
    tokenizer = recipe.entry(tokens.inputs["tokenizer"])
    return {
        "model_type": "llama", "vocab_size": tokenizer.options.model_dump()["vocabulary"], "hidden_size": size.hidden,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "num_key_value_heads": size.kv_heads,
        "intermediate_size": size.intermediate, "tie_word_embeddings": size.tied, "torch_dtype": "float32",
        "max_position_embeddings": tokens.options.model_dump()["length"],
    }  # fmt: skip


def stored_dtype(config: Mapping[str, Any]) -> str:
    """The type that the model is stored in."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


@cache
def with_adapters(config_json: str, lora_json: str) -> PreTrainedModel:
    """The model on the meta device, its weights frozen beside LoRA's where there is such a thing.

    config_json, lora_json: as JSON, `null` for no LoRA: the same model is made once."""
    from pipelines.learning.memory import on_meta

    lora = json.loads(lora_json)
    model = on_meta(json.loads(config_json))
    if lora is not None:
        _freeze_beside(model, lora)
    return model


def _freeze_beside(model: PreTrainedModel, lora: Mapping[str, Any]) -> None:
    """Freezes a model's weights, and gives its target layers LoRA's matrices (rank × in, out × rank), as PEFT does;
    without PEFT, whose import takes longer than all the rest of a plan."""
    from torch import empty, nn

    from pipelines.learning.model import expert_parameters, linear_layers

    def is_target(name: str) -> bool:
        return lora["targets"] is None or any(f".{name}".endswith(f".{target}") for target in lora["targets"])

    model.requires_grad_(False)
    shapes: list[tuple[nn.Module, str]] = [
        (module, "weight") for name, module in linear_layers(model) if is_target(name)
    ]
    for name in filter(is_target, expert_parameters(model)):
        module, _, last = name.rpartition(".")
        shapes.append((model.get_submodule(module), last))
    for module, name in shapes:
        *experts, rows, columns = getattr(module, name).shape
        rank = lora["rank"] * (experts[0] if experts else 1)
        matrices = {"in": (rank, columns), "out": (rows, rank)} | ({"magnitude": (rows,)} if lora["dora"] else {})
        for which, shape in matrices.items():
            module.register_parameter(f"lora_{name}_{which}", nn.Parameter(empty(shape, device="meta")))
