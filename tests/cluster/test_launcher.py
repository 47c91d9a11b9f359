"""ray_config.yaml as `ray up` reads it, without an AWS account."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import ROOT

COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The configuration with Ray's defaults, after Ray's strict check of both the file and the result."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    written = yaml.safe_load((ROOT / "ray_config.yaml").read_text())
    validate_config(written | {"cluster_synced_files": []})  # a key that Ray fills in
    complete = prepare_config(written)
    validate_config(complete)
    return complete


def commands(config: dict[str, Any]) -> list[str]:
    """All shell commands that nodes run."""
    lists = [config[key] for key in COMMANDS]
    lists += [kind.get("worker_setup_commands", []) for kind in config["available_node_types"].values()]
    return [command for each in lists for command in each]


def test_cpu_and_gpu_nodes_scale_from_zero(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert {name: (kind["min_workers"], kind["max_workers"]) for name, kind in types.items()} == {
        "head": (0, 0), "cpu": (0, 6), "gpu": (0, 2)
    }  # fmt: skip
    assert config["head_node_type"] == "head" and config["idle_timeout_minutes"] > 0
    assert sum(kind["max_workers"] for kind in types.values()) <= config["max_workers"]


def test_each_node_type_installs_its_lock_instead_of_rays_defaults(config: dict[str, Any]) -> None:
    gpu = config["available_node_types"]["gpu"]["worker_setup_commands"]
    for kind, installed in {"cpu": config["head_setup_commands"], "gpu": gpu}.items():
        assert re.findall(r"LOCK=(\w+) bash (\S+)", " ".join(installed)) == [(kind, "cluster/setup.sh")]
        assert (ROOT / "cluster" / "locks" / f"{kind}.txt").is_file()
    assert re.findall(r"LOCK=(\w+)", " ".join(config["worker_setup_commands"])) == ["cpu"]
    assert (ROOT / "cluster" / "setup.sh").is_file()
    assert not any("wheels" in command or "anaconda" in command for command in commands(config))


def test_copied_files_exist_and_include_the_token(config: dict[str, Any]) -> None:
    mounts = dict(config["file_mounts"])
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert all((ROOT / local).exists() for local in mounts.values())
    for start in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in config[start][-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_the_commands_are_valid_shell(config: dict[str, Any], tmp_path: Path) -> None:
    for command in commands(config):
        subprocess.run(["bash", "-n", "-c", command], check=True)
