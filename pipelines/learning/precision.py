"""Types of numbers: what a model is stored in, and what it is trained in on a device.

Training in bfloat16 holds the weights in it, with float32 masters, gradient sums and moments (engine.py; mixed
precision, Micikevicius et al. 2018). A model is saved in the type that it came in.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from pipelines.errors import UserError
from pipelines.inference import model_config
from pipelines.inference.hardware import peak_flops_per_s

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# On a CPU that multiplies bfloat16 2.2 × as fast a model 192 wide trains 1.5 × as fast in it, a wider one up to 2 ×;
# narrower ones, whose products are small beside everything else, were not measured.
MIN_HIDDEN_BFLOAT16 = 192
MIN_GAIN_BFLOAT16 = 1.3  # of products, to make up for the conversions around them
# Of each type, in turns: whatever else runs meanwhile must not decide, since a run that is killed and goes on would
# compute in another type.
MEASURING_S, MEASURING_TURNS = 0.05, 4


def dtype_of(name: str, device: str, hidden_size: int) -> torch.dtype:
    """The dtype of this name; "auto": bfloat16 on a GPU, and for a model of this width on a CPU that multiplies it
    faster; otherwise float32."""
    if name != "auto":
        return DTYPES[name]
    wide = device.startswith("cuda") or hidden_size >= MIN_HIDDEN_BFLOAT16
    return torch.bfloat16 if wide and multiplies_bfloat16_faster(device) else torch.float32


@functools.cache
def multiplies_bfloat16_faster(device: str) -> bool:
    """Whether products of matrices take less time in bfloat16 than in float32: true of GPUs; measured on a CPU.

    Instructions alone do not tell: CPUs with AVX-512's multiply 0.5 to 2 × as fast as in float32, those with AMX up to
    8 ×, those with neither 0.2 ×."""
    if device.startswith("cuda") or not model_config.has_bfloat16(device):
        return device.startswith("cuda")
    types = (torch.float32, torch.bfloat16)
    turns = [[peak_flops_per_s(device, each, seconds=MEASURING_S) for each in types] for _ in range(MEASURING_TURNS)]
    float32, bfloat16 = map(max, zip(*turns, strict=True))
    return bfloat16 > MIN_GAIN_BFLOAT16 * float32


def name_of(dtype: torch.dtype) -> str:
    """The dtype's name, such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def stored_dtype(folder: Path) -> torch.dtype:
    """The type that a model's folder stores its weights in. Raises UserError for one that cannot be trained."""
    name = model_config.stored_dtype(folder)
    if name not in DTYPES:
        raise UserError(f"{folder / 'config.json'}: dtype {name!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[name]
