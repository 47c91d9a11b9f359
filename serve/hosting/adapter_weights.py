"""Whether the matrices of a LoRA adapter fit the layers of a base, read from the headers of their files alone.

    x ──► W x + alpha/rank · B A x        W [outputs, inputs] of the base; A [rank, inputs], B [outputs, rank] beside it

An engine that is to load others fails while it serves, so that they are refused before. Hu et al. 2021 (LoRA), section
4.1; names of tensors as PEFT writes them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pipelines.errors import UserError

WEIGHTS_FILE = "adapter_model.safetensors"
MATRIX = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
# The part of a layer's name that every writer of a model has alike: layers.0.self_attn.q_proj, or lm_head.
TAIL = re.compile(r"(?:\w+\.\d+\..+|[^.]+)$")
PACKED = (".weight_packed", ".qweight")  # quantised weights, whose shapes are not their layers'
REMEDY = "Train it on this base, or serve the merged model as a model of its own"
Shape = tuple[int, ...]


def check_fits(what: str, adapter: Path, base: Path, *, rank: int, transposed: bool) -> None:
    """Raises UserError for an adapter with other tensors than LoRA's of this rank for linear layers of the base.

    what: begins the message. adapter, base: folders. transposed: whether the base stores W as [inputs, outputs]."""
    layers = _layers(base)
    for name, sides in _matrices(what, adapter / WEIGHTS_FILE).items():
        shapes = layers.get(_tail(name))
        if shapes is None:
            raise UserError(f"{what}: has matrices for {name}, and its base has no such linear layer; expected those "
                            f"of the base, such as {next(iter(layers), 'none')}. {REMEDY}")  # fmt: skip
        if sides.keys() != {"A", "B"}:
            raise UserError(f"{what}: {adapter.name}/{WEIGHTS_FILE} has one of two matrices for {name}; expected "
                            f"lora_A and lora_B. {REMEDY}")  # fmt: skip
        (a_rank, *inputs), (*outputs, b_rank) = sides["A"], sides["B"]
        product = (*inputs, *outputs) if transposed else (*outputs, *inputs)
        if {a_rank, b_rank} != {rank} or (shapes and product not in shapes):
            raise UserError(
                f"{what}: {name}: lora_A is {_text(sides['A'])}, lora_B {_text(sides['B'])}, and the layer of the base "
                f"{' or '.join(map(_text, sorted(shapes))) or 'packed'}; expected matrices of rank {rank}, whose "
                f"product B × A has the layer's shape. {REMEDY}"
            )


def _matrices(what: str, file: Path) -> Mapping[str, dict[str, Shape]]:
    """{layer: {A or B: shape}} of an adapter's file. Raises UserError where it holds anything else."""
    matrices: dict[str, dict[str, Shape]] = defaultdict(dict)
    place = f"{what}: {file.parent.name}/{file.name}"
    try:
        shapes = _shapes(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{place}: cannot be read ({error}); expected what PEFT writes. {REMEDY}") from None
    for name, shape in shapes.items():
        match = MATRIX.fullmatch(name)
        if match is None or len(shape) != 2:
            raise UserError(f"{place}: has {name} of {_text(shape)}, which is no matrix of LoRA; expected lora_A and "
                            f"lora_B of linear layers. {REMEDY}")  # fmt: skip
        matrices[match["layer"]][match["side"]] = shape
    if not matrices:
        raise UserError(f"{place}: has no tensors; expected lora_A and lora_B of linear layers. {REMEDY}")
    return matrices


def _layers(base: Path) -> dict[str, set[Shape]]:
    """The shapes of a base's linear layers, by the tail of their names; empty sets where they are packed. Several parts
    of a model may have layers of one tail, as those that read images."""
    layers: dict[str, set[Shape]] = defaultdict(set)
    for file in sorted(base.glob("*.safetensors")):
        for name, shape in _shapes(file).items():
            if name.endswith(".weight") and len(shape) == 2:
                layers[_tail(name.removesuffix(".weight"))].add(shape)
            elif name.endswith(PACKED):
                _ = layers[_tail(name.rpartition(".")[0])]
    return dict(layers)


def _shapes(file: Path) -> dict[str, Shape]:
    """The shapes of the tensors in a file, by their names."""
    with safe_open(str(file), framework="np") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _tail(name: str) -> str:
    match = TAIL.search(name)
    return match[0] if match else name


def _text(shape: Shape) -> str:
    return " × ".join(map(str, shape))
