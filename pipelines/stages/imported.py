"""Imports a pretrained model as the first artifact of a run: the recipe's `base:`.

Takes a Hugging Face folder or a hub id with weights in safetensors, or a GGUF file, whose quantised weights are
unpacked to bfloat16. Tokenizer and chat template come too; code that comes with the model does not. Every tensor is
read once: a file that is cut off, or a weight that is no number, is found here and not after a night of training.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines.stage import Facts, Options, Stage, Work

FILE_PATTERNS = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json",
          "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")  # fmt: skip


class BaseOptions(Options):
    model: str = Field(description="Hugging Face folder, GGUF file, or hub id such as Qwen/Qwen3-0.6B")
    revision: str | None = Field(
        None, description="Commit or tag of a model on the hub; without one the model can change between runs"
    )

    def identity(self) -> dict[str, Any]:
        """A local model counts by the bytes of its files (see `files`), not by its path."""
        if _is_gguf(self.model):
            return {"gguf": True}
        return {"folder": True} if _is_folder(self.model) else super().identity()


def _is_folder(model: str) -> bool:
    return Path(model).expanduser().is_dir()


def _is_gguf(model: str) -> bool:
    return Path(model).expanduser().is_file() and model.endswith(".gguf")


def files(options: BaseOptions) -> list[Path]:
    """Files of a local model that are part of the fingerprint; empty for a hub id."""
    path = Path(options.model).expanduser()
    if _is_gguf(options.model):
        return [path]
    return sorted({file for pattern in FILE_PATTERNS for file in path.glob(pattern)}) if path.is_dir() else []


def run(work: Work) -> Facts:
    """Copies the model into work.draft.out. Raises UserError where it cannot be downloaded, a file is missing or
    damaged, or transformers has no class for it. A model with quantised weights can be evaluated and served."""
    from pipelines.inference.model_config import quantisation, read_config
    from pipelines.learning import model_files

    options: BaseOptions = work.options
    out = work.draft.out
    if _is_gguf(options.model):
        model_files.unpack_gguf(Path(options.model).expanduser(), out)
    else:
        paths = files(options) if _is_folder(options.model) else _download(options)
        _check_names(options.model, {path.name for path in paths})
        for number, path in enumerate(paths, 1):
            shutil.copy(path, out / path.name)
            work.progress.update(number, len(paths), "files")
    config = read_config(out)
    model_files.check(out, options.model, lambda done, total: work.progress.update(done, total, "tensors"))
    method = quantisation(out)
    return {
        **({"model/quantisation": method} if method else {}),
        "model/architecture": (config.get("architectures") or ["unknown"])[0],
        "model/dtype": str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        "model/bytes": sum(path.stat().st_size for path in out.glob("*.safetensors")),
    }


def _download(options: BaseOptions) -> list[Path]:
    """Downloads a model from the hub into its cache; returns the files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from pipelines.errors import UserError

    try:
        folder = Path(snapshot_download(options.model, revision=options.revision, allow_patterns=list(FILE_PATTERNS)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"base.model: {options.model!r} is neither a folder, a GGUF file nor a model that the hub can deliver "
            f"({type(error).__name__}); expected a Hugging Face folder, or a hub id on a machine that reaches the hub"
        ) from error
    return sorted({path for pattern in FILE_PATTERNS for path in folder.glob(pattern)})


def _check_names(model: str, names: set[str]) -> None:
    """Raises UserError where a required file is not among `names`."""
    from pipelines.errors import UserError

    missing = [name for name in ("config.json", "tokenizer.json") if name not in names]
    if not any(name.endswith(".safetensors") for name in names):
        missing.append("*.safetensors (pickled weights are not read)")
    if missing:
        raise UserError(f"base.model: {model}: has no {', '.join(missing)}; expected a Hugging Face folder")


STAGE = Stage(kind="base", version=2, makes="model", options=BaseOptions, files=files, run=run, evaluated=False)
