"""A model's config.json: its context length and its shape, without opening the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.processor import cpu_has_bfloat16

LOGITS_BYTES = 2**28
MIN_SCORED, MAX_SCORED = 512, 4096  # tokens of a row
NO_COMPUTATION = ("_name_or_path", "transformers_version", "use_cache")  # keys without effect on what a model computes


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def shape(folder: Path) -> dict[str, Any]:
    """What cannot change in a live engine. Models of equal shapes differ in their weights only."""
    return {key: value for key, value in read_config(folder).items() if key not in NO_COMPUTATION}


def architectures(folder: Path) -> tuple[str, ...]:
    """Names of the classes of a model, of which programs take the first that they know."""
    return tuple(read_config(folder).get("architectures") or ())


def quantisation(folder: Path) -> str | None:
    """The method that quantised a model's weights, such as compressed-tensors or gptq; None where none did."""
    config = read_config(folder).get("quantization_config")
    return None if config is None else str(config.get("quant_method", "unknown"))


def hidden_size(folder: Path) -> int:
    """Width of a model's hidden states; 0 where config.json names none."""
    return int(read_config(folder).get("hidden_size") or 0)


def stored_dtype(folder: Path) -> str:
    """The type that a model's folder stores its weights in, such as bfloat16; float32 where config.json names none."""
    return dtype_in(read_config(folder))


def dtype_in(config: Mapping[str, Any]) -> str:
    """The type that a config.json names; float32 where it names none."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def has_bfloat16(device: str) -> bool:
    """Whether the device has instructions for products of bfloat16."""
    return device.startswith("cuda") or cpu_has_bfloat16()


def engine_dtype(folder: Path, *, on_cpu: bool) -> str:
    """The type that an engine computes in: the model's. On a CPU float32 unless the model is bfloat16 and the CPU has
    instructions for it: reading weights of half the size then makes up for products that may be slower.

    vLLM's own choice would run a float32 model in 16 bits."""
    return engine_dtype_of(stored_dtype(folder), on_cpu=on_cpu)


def engine_dtype_of(stored: str, *, on_cpu: bool) -> str:
    """See engine_dtype. stored: the type of the model's weights."""
    if on_cpu and not (stored == "bfloat16" and has_bfloat16("cpu")):
        return "float32"
    return stored


def scoring_context(folder: Path) -> int:
    """Tokens of a row that an engine scores, by default: at most 4,096, and so few that the logits of a row take about
    256 MiB, since an engine holds them several times over; but 512 at least, where the model attends to so many."""
    return scored_tokens(int(read_config(folder).get("vocab_size") or 0), context_length(folder))


def scored_tokens(vocabulary: int, context: int) -> int:
    """See scoring_context. context: tokens that the model attends to."""
    fits = LOGITS_BYTES // (4 * max(vocabulary, 1))
    return min(context, MAX_SCORED, max(MIN_SCORED, 2 ** (fits.bit_length() - 1)))


def context_length(folder: Path, *, default: int | None = None) -> int:
    """Number of tokens that a model attends to at once.

    default: returned where config.json names no context length; None: raises UserError there."""
    config = read_config(folder)
    length = config.get("max_position_embeddings") or config.get("n_positions") or default
    if not isinstance(length, int):
        raise UserError(
            f"{folder / 'config.json'}: neither max_position_embeddings nor n_positions; expected a model "
            f"that names its context length"
        )
    return length
