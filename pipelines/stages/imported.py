"""Imports a pretrained model as the first artifact of a run: the recipe's `base:`.

Takes a Hugging Face folder or a hub id, with weights in safetensors only. Tokenizer and chat template are copied too;
code that comes with the model is not.
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
    model: str = Field(description="Hugging Face folder, or hub id such as Qwen/Qwen3-0.6B")
    revision: str | None = Field(
        None, description="Commit or tag of a model on the hub; without one the model can change between runs"
    )

    def identity(self) -> dict[str, Any]:
        """A folder counts by the bytes of its files (see `files`), not by its path."""
        return {"folder": True} if _is_folder(self.model) else super().identity()


def _is_folder(model: str) -> bool:
    return Path(model).expanduser().is_dir()


def files(options: BaseOptions) -> list[Path]:
    """Files of a local model that are part of the fingerprint; empty for a hub id."""
    if not _is_folder(options.model):
        return []
    folder = Path(options.model).expanduser()
    return sorted({path for pattern in FILE_PATTERNS for path in folder.glob(pattern)})


def run(work: Work) -> Facts:
    """Copies the model into work.draft.out. Raises UserError where it cannot be downloaded or a file is missing."""
    from pipelines.inference.model_config import read_config

    options: BaseOptions = work.options
    paths = files(options) if _is_folder(options.model) else _download(options)
    _check(options.model, {path.name for path in paths})
    for number, path in enumerate(paths, 1):
        shutil.copy(path, work.draft.out / path.name)
        work.progress.update(number, len(paths), "files")
    config = read_config(work.draft.out)
    return {
        "model/architecture": (config.get("architectures") or ["unknown"])[0],
        "model/bytes": sum(path.stat().st_size for path in paths if path.suffix == ".safetensors"),
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
            f"base.model: {options.model!r} is neither a folder nor a model that the hub can deliver "
            f"({type(error).__name__}); expected a Hugging Face folder, or a hub id on a machine that reaches the hub"
        ) from error
    return sorted({path for pattern in FILE_PATTERNS for path in folder.glob(pattern)})


def _check(model: str, names: set[str]) -> None:
    """Raises UserError where a required file is not among `names`."""
    from pipelines.errors import UserError

    missing = [name for name in ("config.json", "tokenizer.json") if name not in names]
    if not any(name.endswith(".safetensors") for name in names):
        missing.append("*.safetensors (pickled weights are not read)")
    if missing:
        raise UserError(f"base.model: {model}: has no {', '.join(missing)}; expected a Hugging Face folder")


STAGE = Stage(kind="base", version=1, makes="model", options=BaseOptions, files=files, run=run, evaluated=False)
