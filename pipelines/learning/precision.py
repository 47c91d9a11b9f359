"""Types of numbers: what a model is stored in, and what it is trained in on a device.

Training in bfloat16 holds the weights in it, with float32 masters, gradient sums and moments (engine.py; mixed
precision, Micikevicius et al. 2018). A model is saved in the type that it came in.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.errors import UserError
from pipelines.inference import model_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# On a CPU with instructions for bfloat16 a model 576 wide trains 1.7 × as fast in it, one 192 wide at 0.7 × the speed:
# its products are too small to make up for everything else.
MIN_HIDDEN_BFLOAT16 = 512


def dtype_of(name: str, device: str, hidden_size: int) -> torch.dtype:
    """The dtype of this name; "auto": bfloat16 on a GPU, and for a model of this width on a CPU that has instructions
    for it; otherwise float32."""
    if name != "auto":
        return DTYPES[name]
    wide = device.startswith("cuda") or hidden_size >= MIN_HIDDEN_BFLOAT16
    return torch.bfloat16 if wide and model_config.multiplies_bfloat16(device) else torch.float32


def name_of(dtype: torch.dtype) -> str:
    """The dtype's name, such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def stored_dtype(folder: Path) -> torch.dtype:
    """The type that a model's folder stores its weights in. Raises UserError for one that cannot be trained."""
    name = model_config.stored_dtype(folder)
    if name not in DTYPES:
        raise UserError(f"{folder / 'config.json'}: dtype {name!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[name]
