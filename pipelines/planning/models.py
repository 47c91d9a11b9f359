"""The model that each stage of a recipe trains, by its config alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.inference.model_config import read_config
from pipelines.learning.shapes import SIZES, ModelShape, Role, Weight, of_config
from pipelines.recipe.reader import Entry, Recipe
from pipelines.recipe.shipped import SHIPPED

CONFIGS = SHIPPED / "configs"
SCALED_INPUTS = ("down_proj", "fc2", "dense_4h_to_h")  # layers whose inputs IA3 scales: adapters.INPUT_SCALED


def config_of(recipe: Recipe, entry: Entry) -> dict[str, Any]:
    """config.json of the model that an entry makes: that of its base, or of a new model."""
    while True:
        if entry.stage.kind == "base":
            options = entry.options.model_dump()
            return base_config(options["model"], options["revision"])
        if "model" not in entry.inputs:
            return _new_config(recipe, entry)
        entry = recipe.entry(entry.inputs["model"])


def begins_as_base(recipe: Recipe, entry: Entry) -> bool:
    """Whether the model that an entry trains began as the recipe's base."""
    while entry.stage.kind != "base" and "model" in entry.inputs:
        entry = recipe.entry(entry.inputs["model"])
    return entry.stage.kind == "base"


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
def with_adapters(config_json: str, adapters_json: str) -> ModelShape:
    """The shape of a model, its weights frozen beside adapters where there are any.

    config_json; adapters_json: options of `lora`, `ia3` or `prefix` by that name, if any: as JSON, so that the same
    shape is made once. A family that shapes.py does not know is made by transformers on the meta device."""
    config = json.loads(config_json)
    shape = of_config(config)
    if shape is None:
        from pipelines.learning.model import on_meta, shape_of

        shape = shape_of(on_meta(config))
    adapters = json.loads(adapters_json)
    if adapters.get("lora") is not None:
        return beside_lora(shape, adapters["lora"])
    if adapters.get("prefix") is not None:
        return beside_prefix(shape, **adapters["prefix"])
    return shape if adapters.get("ia3") is None else beside_ia3(shape, adapters["ia3"]["targets"])


def beside_lora(shape: ModelShape, lora: Mapping[str, Any]) -> ModelShape:
    """Freezes a model's weights, and gives its target layers LoRA's matrices (rank × in, out × rank), as PEFT does; and
    DoRA's magnitudes (out)."""
    added: list[Weight] = []
    for weight in _targets(shape, lora["targets"], "linear", "experts"):
        *experts, rows, columns = weight.shape
        rank = lora["rank"] * (experts[0] if experts else 1)
        matrices = {"in": (rank, columns), "out": (rows, rank)} | ({"magnitude": (rows,)} if lora["dora"] else {})
        added += [Weight(f"{weight.name}.lora_{which}", size, "other") for which, size in matrices.items()]
    return ModelShape(shape.config, (*shape.frozen().weights, *added))


def beside_ia3(shape: ModelShape, targets: list[str] | None) -> ModelShape:
    """Freezes a model's weights, and gives its target layers IA3's scales, as PEFT does: of their inputs in the
    feed-forward's last layer, of their outputs in all others. targets: default as of adapters.Ia3."""
    added: list[Weight] = []
    for weight in _targets(shape, targets or ["k_proj", "v_proj", *SCALED_INPUTS], "linear"):
        rows, columns = weight.shape
        scaled = columns if _layer(weight).rpartition(".")[2] in SCALED_INPUTS else rows
        added.append(Weight(f"{weight.name}.ia3", (scaled,), "other"))
    return ModelShape(shape.config, (*shape.frozen().weights, *added))


def beside_prefix(shape: ModelShape, num_virtual_tokens: int, projection: int | None) -> ModelShape:
    """Freezes a model's weights, and puts keys and values of so many tokens in front of each layer, as PEFT does.

    projection: hidden width of the MLP that computes them; None: they are trained themselves."""
    config = shape.config
    columns = config["hidden_size"] // config["num_attention_heads"]
    width = columns * (config.get("num_key_value_heads") or config["num_attention_heads"])
    of_layers = 2 * config["num_hidden_layers"] * width
    sizes = {"embedding": (num_virtual_tokens, of_layers)}
    if projection is not None:
        sizes = {"embedding": (num_virtual_tokens, width), "in": (projection, width), "in_bias": (projection,),
                 "out": (of_layers, projection), "out_bias": (of_layers,)}  # fmt: skip
    added = (Weight(f"encoder.{name}", size, "embedding") for name, size in sizes.items())
    return ModelShape(config, (*shape.frozen().weights, *added))


def without_head(shape: ModelShape) -> ModelShape:
    """A model that gives scores: without an output embedding, whose matrix stays where it is the input's too."""
    tied = shape.config.get("tie_word_embeddings")
    kept = (weight for weight in shape.weights if weight.role != "head" or tied)
    return replace(
        shape, weights=tuple(replace(each, role="embedding") if each.role == "head" else each for each in kept)
    )


def _targets(shape: ModelShape, targets: list[str] | None, *roles: Role) -> Iterator[Weight]:
    """Weights whose layers' names end so; None: all with these roles."""
    for weight in shape.of_role(*roles):
        if targets is None or any(f".{_layer(weight)}".endswith(f".{target}") for target in targets):
            yield weight


def _layer(weight: Weight) -> str:
    return weight.name.removesuffix(".weight")
