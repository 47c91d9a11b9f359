"""Weights on their way into a vLLM model, and a digest of each layer that shows whether all of them arrived.

    pushed tensors ──► by the names that the engine has ──► its layers        digests of these = digests of those

A push that left a layer as it was gives log-probabilities that are near the right ones: in 16 bits no probe tells them
from rounding. The digest does, to the last bit. It is taken before a CPU packs a layer: that the engine computes with
what it packed is for the probe to prove.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.inference.model_config import read_config

HEAD = "lm_head.weight"
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


def row_sums(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum modulo 2³² of each row's bits in this type, those of a vector being its elements. int32 [R], a copy."""
    bits = torch.atleast_1d(tensor.detach().to(dtype).contiguous())
    if bits.ndim < 2:
        return bits.view(INTEGERS[bits.itemsize]).to(torch.int32, copy=True)
    if bits.shape[-1] * bits.itemsize % 4:
        return bits.view(INTEGERS[bits.itemsize]).sum(-1, dtype=torch.int32).flatten()
    bits = bits.clone() if bits.storage_offset() * bits.itemsize % 4 else bits
    return bits.view(torch.int32).sum(-1, dtype=torch.int32).flatten()  # in words: 4 × faster for 16-bit weights


def scrambled(rows_R: Tensor) -> Tensor:
    """What a digest adds up for rows with these sums: int32 [R].

    A digest is the same for rows in any order, and those of matrices add up to that of the one whose rows vLLM joins
    them into. One changed bit changes a row's sum, and a row of zeros counts. Scrambling (steps of MurmurHash3's
    finalizer, Appleby) keeps changes of several rows from cancelling: a step of an optimizer moves about as many
    bfloat16 weights one place up as down, and plain sums may well be equal before and after."""
    rows_R = (rows_R + 1) * -2048144789
    return (rows_R ^ (rows_R >> 13)) * -1028477387


class HeldWeights:
    """The weights that a vLLM model holds, layer by layer, as they were when they were loaded: on a CPU vLLM packs a
    layer right after, and keeps no other copy."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        self._model, self._dtype = model, dtype
        self._loaded: dict[nn.Module, list[Tensor]] = {}
        self._layers: dict[nn.Module, str] = {}
        joined: Mapping[str, Sequence[str]] = getattr(model, "packed_modules_mapping", {})
        self._joined_into = {part: whole for whole, parts in joined.items() for part in parts}
        for name, layer in model.named_modules():
            method: Any = getattr(layer, "quant_method", None)
            if method is not None:
                self._layers[layer] = name
                method.process_weights_after_loading = partial(self._record, method.process_weights_after_loading)

    def _record(self, process: Callable[[nn.Module], None], layer: nn.Module) -> None:
        """In place of `process`, which vLLM calls when all weights of a layer are there."""
        num_rows = getattr(layer, "org_vocab_size", None)  # of an embedding, without those that it is padded by
        self._loaded[layer] = [row_sums(each[:num_rows], self._dtype) for each in layer.parameters(recurse=False)]
        process(layer)

    def forget(self) -> None:
        """Before a push: every layer is to be loaded again."""
        self._loaded.clear()

    def problem(self, pushed: Mapping[str, Tensor]) -> str:
        """What is wrong with the weights after a push of tensors with these names and row_sums; empty where
        nothing is."""
        counted = {id(p) for layer in self._loaded for p in layer.parameters(recurse=False)}
        missing = [
            name
            for layer, name in self._layers.items()
            if layer not in self._loaded and any(id(p) not in counted for p in layer.parameters(recurse=False))
        ]
        if missing:
            return f"the engine kept its old weights of {len(missing)} layers, such as {missing[0]}"
        held = [(f"{self._layers[layer]}.weight", value) for layer, of_one in self._loaded.items() for value in of_one]
        # A matrix of two layers, such as a tied embedding, counts once.
        others = [(name, p) for name, p in self._model.named_parameters() if id(p) not in counted]
        wrong = _different(
            self._by_layer([*held, *((name, row_sums(p, self._dtype)) for name, p in others)]),
            self._by_layer(pushed.items()),
        )
        tensors = [name for name in pushed if self._layer(name) in wrong]
        return "" if not wrong else (
            f"the engine does not hold what was pushed: digests of {len(wrong)} layers differ: {_some(wrong)}; of what "
            f"was pushed, {_some(tensors) or 'nothing'}"
        )  # fmt: skip

    def _by_layer(self, sums: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
        """Digests of the engine's layers, from the row sums of weights by their names."""
        names, rows = zip(*sums, strict=True)
        layers = [self._layer(name) for name in names]
        numbers = {layer: number for number, layer in enumerate(dict.fromkeys(layers))}
        values_R = scrambled(torch.cat([each.to(rows[0].device) for each in rows]))
        layer_R = torch.tensor([numbers[layer] for layer in layers]).repeat_interleave(torch.tensor([*map(len, rows)]))
        digests = torch.zeros(len(numbers), dtype=torch.int64, device=values_R.device)
        digests.index_add_(0, layer_R.to(values_R.device), values_R.long())
        return dict(zip(numbers, digests.tolist(), strict=True))

    def _layer(self, name: str) -> str:
        """The engine's layer that a weight is part of; the experts of a mixture are one."""
        of_experts, is_expert, _ = name.partition(".experts.")
        if is_expert:
            return f"{of_experts}.experts"
        path, dot, layer = name.rpartition(".")[0].rpartition(".")
        return f"{path}{dot}{self._joined_into.get(layer, layer)}"


def _different(held: Mapping[str, int], pushed: Mapping[str, int]) -> list[str]:
    """The layers whose sums differ modulo 2³². Layers of one side alone, such as a tied embedding that is pushed by its
    head's name, are compared all together."""
    wrong = [name for name in held if name in pushed and (held[name] - pushed[name]) % 2**32]
    of_one_side = sorted(held.keys() ^ pushed.keys())
    gap = sum(held.get(name, 0) - pushed.get(name, 0) for name in of_one_side)
    return wrong + (of_one_side if gap % 2**32 else [])


def _some(names: Sequence[str]) -> str:
    """A few of the names, for a message."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


class Pushed:
    """Tensors in the names that an engine has, with the row_sums of each once they were iterated over.

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
        self.row_sums: dict[str, Tensor] = {}  # by name, of the tensors so far

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._tensors:
            if (self._tied and name == HEAD) or name.endswith("rotary_emb.inv_freq"):
                continue  # a second copy in the file; a table that old files have
            if self._tied and self._has_head and name.endswith(self._tied):
                name = HEAD
            self.row_sums[name] = row_sums(tensor, self._dtype)
            plain = self._plain.get(name)
            if plain is None or plain.shape != tensor.shape:
                yield name, tensor
            else:
                plain.data.copy_(tensor)


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
    """Number of weights in a model's folder, by the headers of its files; of those that compressed-tensors packs into
    32 bits, all that are in there."""
    from safetensors import safe_open

    quantised = read_config(folder).get("quantization_config") or {}
    groups = [group.get("weights") or {} for group in (quantised.get("config_groups") or {}).values()]
    in_word = 32 // min((int(weights.get("num_bits") or 32) for weights in groups), default=32)
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                size = math.prod(tensors.get_slice(name).get_shape())
                total += size * in_word if name.endswith("weight_packed") else size
    return total


def of_folder(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a model's folder, with its name."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                yield name, tensors.get_tensor(name)
