"""Weights on their way into a vLLM model, and a digest that shows whether all of them arrived.

    pushed tensors ──► by the names that the engine has ──► its layers        digest of these = digest of those

A push that left a layer as it was gives log-probabilities that are near the right ones: in 16 bits no probe tells them
from rounding. The digest does: a sum of the weights' bits, which does not change when vLLM joins matrices or pads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HEAD = "lm_head.weight"
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum modulo 2³² of the bits of a tensor's elements in this type, as integers. int32 [], on the tensor's device."""
    return tensor.detach().to(dtype).view(BITS[dtype.itemsize]).sum(dtype=torch.int32)


class HeldWeights:
    """The weights that a vLLM model holds, layer by layer, as they were when they were loaded: on a CPU vLLM packs a
    layer right after, and keeps no other copy."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        self._model, self._dtype = model, dtype
        self._loaded: dict[nn.Module, Tensor] = {}
        self._layers: dict[str, nn.Module] = {}
        for name, layer in model.named_modules():
            method: Any = getattr(layer, "quant_method", None)
            if method is not None:
                self._layers[name] = layer
                method.process_weights_after_loading = partial(self._record, method.process_weights_after_loading)

    def _record(self, process: Callable[[nn.Module], None], layer: nn.Module) -> None:
        """In place of `process`, which vLLM calls when all weights of a layer are there."""
        self._loaded[layer] = self._bits_of(layer.parameters(recurse=False))
        process(layer)

    def _bits_of(self, parameters: Iterable[Tensor]) -> Tensor:
        return sum((bits(parameter, self._dtype) for parameter in parameters), torch.zeros((), dtype=torch.int32))

    def forget(self) -> None:
        """Before a push: every layer is to be loaded again."""
        self._loaded.clear()

    def problem(self, digest: int) -> str:
        """What is wrong with the weights after a push of weights with this digest; empty where nothing is."""
        counted = {id(p) for layer in self._loaded for p in layer.parameters(recurse=False)}
        missing = [
            name
            for name, layer in self._layers.items()
            if layer not in self._loaded and any(id(p) not in counted for p in layer.parameters(recurse=False))
        ]
        if missing:
            return f"the engine kept its old weights of {len(missing)} layers, such as {missing[0]}"
        # A matrix of two layers, such as a tied embedding, counts once.
        held = self._bits_of(p for p in self._model.parameters() if id(p) not in counted).cpu()
        held = int(sum((part.cpu() for part in self._loaded.values()), held))
        return "" if held == digest else (
            f"the engine does not hold what was pushed: a digest of {held:#x} instead of {digest:#x}"
        )  # fmt: skip


class Pushed:
    """Tensors in the names that an engine has, with their digest once they were iterated over.

    dtype: the engine's. tied: last part of the name of a matrix that is both input and output embedding, if there is
    one; has_head: whether the engine's model has a head, by whose name such a matrix is pushed. plain: parameters of
    the engine that are stored as in files, such as norms; they are copied in place, which vLLM would take 0.2 ms for
    each."""

    def __init__(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        dtype: torch.dtype,
        *,
        tied: str | None,
        has_head: bool,
        plain: dict[str, Tensor],
    ):
        self._tensors, self._dtype = tensors, dtype
        self._tied, self._has_head, self._plain = tied, has_head, plain
        self._digest = torch.zeros((), dtype=torch.int32)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._tensors:
            if (self._tied and name == HEAD) or name.endswith("rotary_emb.inv_freq"):
                continue  # a second copy in the file; a table that old files have
            if self._tied and self._has_head and name.endswith(self._tied):
                name = HEAD
            self._digest = self._digest.to(tensor.device) + bits(tensor, self._dtype)
            plain = self._plain.get(name)
            if plain is None or plain.shape != tensor.shape:
                yield name, tensor
            else:
                plain.data.copy_(tensor)

    def digest(self) -> int:
        """The digest of the tensors so far."""
        return int(self._digest)


def has_head(model: nn.Module) -> bool:
    """Whether vLLM's model has a head; some multiply with the input embedding instead."""
    return hasattr(model, "lm_head")


def plain(model: nn.Module) -> dict[str, Tensor]:
    """Vectors of vLLM's model that are stored as in the folder, such as norms: no weight loader merges or splits
    them."""
    return {name: p for name, p in model.named_parameters() if p.ndim == 1 and not hasattr(p, "weight_loader")}


def forget_packed_experts(model: nn.Module) -> None:
    """Lets a reload pack the experts of a mixture anew: on a CPU vLLM would keep those that it packed first, and serve
    the old weights without a word."""
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def num_parameters(folder: Path) -> int:
    """Number of weights in a model's folder, by the headers of its files; packed 4-bit ones count by container."""
    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def of_folder(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a model's folder, with its name."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                yield name, tensors.get_tensor(name)
