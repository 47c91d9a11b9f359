"""Quantising a model's linear layers with llmcompressor, into a folder that vLLM serves (compressed-tensors).

    folder ──transformers──► model ──scheme: rounding, or GPTQ on calibration rows──► folder: int8 matrices + scales

The output matrix stays as it is: where it is tied to the input's, the folder holds it once. Runs in a separate process
(Quantiser is made remote by the caller), since llmcompressor keeps global state and much memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UserError

IGNORED = ("lm_head",)  # 8 bits there change a small model's predictions most, and save no space where it is tied
WEIGHTS = "*.safetensors"
PROCESS_BYTES = 366 * 2**20  # torch, transformers and llmcompressor
HELD = 0.66  # of the stored weights: docs/planning.md


@dataclass(frozen=True)
class Scheme:
    """A quantisation scheme. preset: its name in compressed-tensors. calibrated: whether GPTQ (Frantar et al. 2023)
    calibrates it on rows of text; otherwise weights are rounded to the nearest value. on_cpu: whether vLLM runs it on
    CPUs."""

    preset: str
    calibrated: bool
    on_cpu: bool


SCHEMES: Mapping[str, Scheme] = {
    "int8": Scheme("W8A8", calibrated=False, on_cpu=True),  # activations too, dynamically, per token
    "fp8": Scheme("FP8_DYNAMIC", calibrated=False, on_cpu=False),
    "int4": Scheme("W4A16", calibrated=True, on_cpu=False),  # in groups of 128 inputs
}


class Quantiser:
    """Quantises models in this process."""

    def __init__(self, threads: int = 1):
        # No requests to a hub.
        os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
        import torch
        from loguru import logger

        torch.set_num_threads(threads)
        logger.disable("llmcompressor")

    def quantise(self, model: Path, out: Path, scheme: str, rows: Sequence[Sequence[int]] = ()) -> int:
        """Writes the quantised model into `out`; its tokenizer is the caller's to copy. Returns the bytes that this
        process held at most.

        scheme: of SCHEMES; rows: token ids to calibrate on, where it is calibrated. The same arguments give the same
        bytes. Raises UserError for a model that the scheme does not fit."""
        from llmcompressor import oneshot

        from pipelines.inference.hardware import PeakMemory
        from pipelines.learning.model import from_folder
        from pipelines.learning.precision import stored_dtype

        memory = PeakMemory("cpu")  # the model is on the host, whatever there is beside it
        loaded = from_folder(model, stored_dtype(model))  # what is not quantised is saved in the model's type
        try:
            oneshot(model=loaded, recipe=_recipe(SCHEMES[scheme]), **_calibration(SCHEMES[scheme], rows))
        except ValueError as error:
            raise UserError(
                f"model {model}: cannot be quantised to {scheme} ({error}); try another scheme, int8 fits any width"
            ) from error
        loaded.save_pretrained(out, save_compressed=True)
        (out / "recipe.yaml").unlink(missing_ok=True)  # llmcompressor's recipe; the manifest says more
        return memory.bytes()


def process_bytes(weight_bytes: int) -> dict[str, int]:
    """Bytes of the quantiser's process by part, on a CPU: stored weights are pages of their file, of which a part is
    held again as they are quantised and saved."""
    return {"weights": round(HELD * weight_bytes), "process": PROCESS_BYTES}


def _recipe(scheme: Scheme) -> Any:
    """llmcompressor's modifier for a scheme."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    modifier = GPTQModifier if scheme.calibrated else QuantizationModifier
    return modifier(targets="Linear", scheme=scheme.preset, ignore=list(IGNORED))


def _calibration(scheme: Scheme, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """oneshot's calibration arguments: batches of one row, so that there is no padding."""
    if not scheme.calibrated:
        return {}
    if not rows:
        raise UserError(f"{scheme.preset}: no rows to calibrate on; expected a corpus with training text")
    import torch
    from torch.utils.data import DataLoader

    tensors = [
        {"input_ids": torch.tensor(list(row)), "attention_mask": torch.ones(len(row), dtype=torch.long)} for row in rows
    ]
    loader = DataLoader(tensors, batch_size=1, shuffle=False)  # pyright: ignore[reportArgumentType] (a list is a dataset)
    return {"dataset": loader, "num_calibration_samples": len(rows)}


def weight_bytes(folder: Path) -> int:
    """Bytes of a folder's weights."""
    return sum(file.stat().st_size for file in folder.glob(WEIGHTS))
