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
            options = entry.options.model_dump()
            return base_config(options["model"], options["revision"])
        if "model" not in entry.inputs:
            return _new_config(recipe, entry)
        entry = recipe.entry(entry.inputs["model"])


def base_config(model: str, revision: str | None = None) -> dict[str, Any]:
    """config.json of a base: a folder's, a GGUF file's, one that comes with Rayse, or of a hub id.

    Raises UserError where there is none."""
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return read_config(path)
    if path.is_file() and path.suffix == ".gguf":
        return _gguf_config(path)
    name = model.rsplit("/", 1)[-1].lower()
    is_name = model.count("/") <= 1 and not model.startswith(("/", ".", "~")) and path.suffix != ".gguf"
    shipped = [file for file in CONFIGS.glob("*.json") if is_name and name.startswith(file.stem)]
    if shipped:
        return json.loads(max(shipped, key=lambda file: len(file.stem)).read_text(encoding="utf-8"))
    return _hub_config(model, revision)


def _gguf_config(file: Path) -> dict[str, Any]:
    """The config of a GGUF file, whose weights are unpacked to bfloat16 when it is imported."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except Exception as error:  # readers of GGUF raise many types
        raise UserError(
            f"base.model: {file}: cannot be read as GGUF ({type(error).__name__}: {error}); expected a language model "
            f"of a family that transformers converts, or a Hugging Face folder"
        ) from error
    return {**config.to_dict(), "dtype": "bfloat16"}


def _hub_config(model: str, revision: str | None) -> dict[str, Any]:
    """config.json of a hub id: from the hub's cache, or downloaded."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return json.loads(Path(hf_hub_download(model, "config.json", revision=revision)).read_text(encoding="utf-8"))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.json")))
        raise UserError(
            f"base.model: {model}: neither a folder with a config.json nor a model that the hub can deliver "
            f"({type(error).__name__}), so its size is not known; expected a folder with its config.json (weights are "
            f"not needed for a plan), a hub id on a machine that reaches the hub, or one of {known}"
        ) from error


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
