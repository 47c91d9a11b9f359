"""Files of other people's models: GGUF unpacked, and every tensor read once before anything is trained.

file.gguf ──transformers──► Hugging Face folder, bfloat16        folder ──check──► UserError that names file and tensor
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from pipelines.data.tokens.tokenizing import Encoder
from pipelines.errors import UserError
from pipelines.inference.model_config import read_config

INDEX = "model.safetensors.index.json"


def unpack_gguf(file: Path, out: Path) -> None:
    """Writes the model, the tokenizer and the chat template of a GGUF file as a Hugging Face folder, in bfloat16.

    Raises UserError for a file that transformers cannot read."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16, local_files_only=True,
            quantization_config=GgufConfig(dequantize=True),
        )  # fmt: skip
    except Exception as error:  # readers of GGUF raise many types
        raise UserError(
            f"base.model: {file}: cannot be read as GGUF ({type(error).__name__}: {error}); expected a language "
            f"model of a family that transformers converts, such as Llama, Qwen2 or Mistral, or a Hugging Face folder"
        ) from error
    finally:
        transformers.logging.set_verbosity(before)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _drop_foreign_tokens(out / "tokenizer.json", model.config.vocab_size)


def _drop_foreign_tokens(file: Path, vocabulary: int) -> None:
    """Removes added tokens beyond the model's vocabulary: transformers gives every byte-level tokenizer GPT-2's
    <|endoftext|>, also where the GGUF file has none."""
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < vocabulary]
    file.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")


def check(folder: Path, origin: str, on_progress: Callable[[int, int], object]) -> None:
    """Raises UserError, naming origin, file and tensor, where the model in the folder is of no use: code of its own,
    matrices that are stored transposed, a missing or damaged file, a weight that is no number, a tokenizer of another
    vocabulary."""
    config = read_config(folder)
    _check_code(config, origin)
    _check_orientation(config, origin)
    _check_vocabulary(folder, config, origin)
    names = _files_by_tensor(folder, origin)
    for number, (tensor, file) in enumerate(names.items(), 1):
        _check_tensor(folder / file, tensor, origin)
        if number % 20 == 0 or number == len(names):
            on_progress(number, len(names))


def _check_code(config: Mapping[str, Any], origin: str) -> None:
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        remark = "; it brings code of its own, which is not run" if "auto_map" in config else ""
        raise UserError(
            f"base.model: {origin}: config.json: model_type {kind!r} is not known to transformers "
            f"{transformers.__version__}{remark}; expected a model that transformers has a class for"
        )


def _check_orientation(config: Mapping[str, Any], origin: str) -> None:
    """Adapters, quantising and the digests of a push expect the orientation of Linear; Conv1D's is the other."""
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(CONFIG_MAPPING[config["model_type"]], None)
    if model_class is not None and hasattr(sys.modules[model_class.__module__], "Conv1D"):
        raise UserError(
            f"base.model: {origin}: {model_class.__name__} stores its matrices transposed (Conv1D, as GPT-2 does), "
            f"and cannot be trained and pushed into vLLM here; choose one with linear layers, such as Llama or Qwen3"
        )


def _check_vocabulary(folder: Path, config: Mapping[str, Any], origin: str) -> None:
    """A vocabulary larger than the tokenizer's is padding, and allowed."""
    vocabulary, tokens = int(config.get("vocab_size") or 0), Encoder.open(folder).vocabulary
    if 0 < vocabulary < tokens:
        raise UserError(f"base.model: {origin}: its tokenizer has {tokens:,} tokens, config.json a vocab_size of "
                        f"{vocabulary:,}; expected the tokenizer that belongs to the model")  # fmt: skip


def _files_by_tensor(folder: Path, origin: str) -> dict[str, str]:
    """The file of each tensor: by the index where there is one, which must agree with the files."""
    inside = {name: file.name for file in sorted(folder.glob("*.safetensors")) for name in _names(file, origin)}
    if not (folder / INDEX).is_file():
        return inside
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise UserError(f"base.model: {origin}: {INDEX} cannot be read ({error}); fetch the model again") from error
    for name, file in index.items():
        if inside.get(name) != file:
            raise UserError(
                f"base.model: {origin}: {INDEX} says that {file} holds {name}, which is not there; fetch the model "
                f"again"
            )
    return index


def _names(file: Path, origin: str) -> list[str]:
    try:
        with safe_open(str(file), framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"base.model: {origin}: {file.name} is damaged or cut off ({error}); fetch the model again"
        ) from error


def _check_tensor(file: Path, name: str, origin: str) -> None:
    with safe_open(str(file), framework="pt") as tensors:
        values = tensors.get_tensor(name)
    if values.is_floating_point() and values.itemsize == 1:
        values = values.float()  # torch sums no float8
    if values.is_floating_point() and not torch.isfinite(values.sum(dtype=torch.float32)):
        bad = int((~torch.isfinite(values)).sum())
        if bad:
            raise UserError(
                f"base.model: {origin}: {file.name}: {bad:,} of {values.numel():,} weights of {name} are no finite "
                f"numbers; expected none. Fetch the model again, or choose another"
            )
