"""A model's folder in Hugging Face layout, written weight by weight: no more than one file's weights are in memory.

weights, one after another ──► model.safetensors, or model-00001-of-00003.safetensors … and their index
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from pipelines.inference import probe
from pipelines.learning.model import file_weights

FILE_BYTES = 4 * 2**30
INDEX = "model.safetensors.index.json"
Weights = Iterable[tuple[str, Tensor]]
"""Weights by the model's parameter names; each is valid until the next one is asked for."""


def save(model: PreTrainedModel, weights: Weights, folder: Path, *, file_bytes: int = FILE_BYTES) -> None:
    """Writes config.json, generation_config.json and the weights, in their type: the same bytes for the same weights.

    file_bytes: of a file at most, where no single weight is larger."""
    files: list[list[str]] = []
    total = 0
    for number, part in enumerate(_parts(file_weights(model, weights), file_bytes), 1):
        save_file(part, folder / _part(number), {"format": "pt"})
        files.append(list(part))
        total += sum(weight.nbytes for weight in part.values())
        model.config.dtype = next(iter(part.values())).dtype  # in training it may have been another
    _name(folder, files, total)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def save_proven(model: PreTrainedModel, weights: Weights, folder: Path) -> None:
    """Writes a causal model with its probe, which proves later pushes."""
    save(model, weights, folder)
    probe.write(folder, probe.by_transformers(folder))


def _parts(weights: Weights, file_bytes: int) -> Iterator[dict[str, Tensor]]:
    """The weights, copied, in groups of at most so many bytes."""
    part: dict[str, Tensor] = {}
    part_bytes = 0
    for name, weight in weights:
        if part and part_bytes + weight.nbytes > file_bytes:
            yield part
            part, part_bytes = {}, 0
        part[name] = weight.detach().to("cpu", copy=True).contiguous()
        part_bytes += weight.nbytes
    if part:
        yield part


def _part(number: int) -> str:
    return f"part-{number}.safetensors"


def _name(folder: Path, files: list[list[str]], total_bytes: int) -> None:
    """Gives the parts the names that tools look for, once their number is known."""
    if len(files) == 1:
        (folder / _part(1)).rename(folder / "model.safetensors")
        return
    names = [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    for number, name in enumerate(names, 1):
        (folder / _part(number)).rename(folder / name)
    weight_map = {weight: name for name, weights in zip(names, files, strict=True) for weight in weights}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
