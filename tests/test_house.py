"""The rules of the house hold on this tree, and each rule can fail. The rules themselves are in tests/house.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import house
from tests.house import OURS, RULES, Module, Rule, no_traces

ROOT = Path(__file__).parent.parent

# ---- on this tree ----------------------------------------------------------------------------------------------------


def named(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.fixture(scope="module")
def tree() -> list[Module]:
    files = sorted(file for package in OURS for file in (ROOT / package).rglob("*.py"))
    return [Module(file.relative_to(ROOT).as_posix(), file.read_text()) for file in files]


def test_the_tree_was_found(tree: list[Module]) -> None:
    names = {module.name for module in tree}
    assert {"cluster", "pipelines", "pipelines.stages", "tests.test_house"} <= names


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_rule_is_kept(rule: Rule, tree: list[Module]) -> None:
    offences = list(rule(tree))
    assert not offences, "\n".join([rule.__doc__ or "", *offences])


def test_files_have_no_traces_of_a_machine() -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    paths = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    contents = {path: (ROOT / path).read_bytes() for path in paths if (ROOT / path).is_file()}
    texts = {path: content.decode(errors="replace") for path, content in contents.items() if b"\0" not in content}
    assert "pyproject.toml" in texts
    offences = list(no_traces(texts))
    assert not offences, "\n".join(offences)


def test_reading_recipes_and_stages_loads_neither_torch_nor_ray() -> None:
    heavy = {"torch", "ray", "deepspeed", "vllm"}
    code = (
        f"import sys, pipelines.recipe.reader, pipelines.stages, serve.trial.stage; print({heavy} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stdout + result.stderr


def test_help_takes_less_than_a_second_of_a_processor() -> None:
    """By the processor's time, which other work on the machine does not lengthen by much."""
    times: list[float] = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "pipelines", "--help"], cwd=ROOT, capture_output=True, check=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert 0 < min(times) < 1, times


# ---- each rule can fail ----------------------------------------------------------------------------------------------

LONG_FUNCTION = "def long() -> None:\n" + "    x = 1\n" * 60
BROKEN: list[tuple[Rule, dict[str, str]]] = [
    (house.direction, {"cluster/gang.py": "def call():\n    from pipelines import store"}),
    (house.direction, {"cluster/gang.py": "import serve.app"}),
    (house.direction, {"pipelines/run/walk.py": "import importlib\nimportlib.import_module('serve.trial')"}),
    (house.direction, {"serve/app.py": "from pipelines.stages import sft"}),
    (house.direction, {"serve/app.py": "from pipelines import recipe"}),
    (house.direction, {"pipelines/run/walk.py": "from tests import runs"}),
    (house.stages_apart, {"pipelines/stages/sft.py": "def run():\n    from pipelines.stages.pretrain import run"}),
    (house.stages_apart, {"pipelines/stages/sft.py": "from . import pretrain"}),
    (house.stages_apart, {"pipelines/stages/sft.py": "from pipelines.stages import STAGES"}),
    (house.stages_apart, {"pipelines/stages/ppo/update.py": "from ..sft import run"}),
    (house.layers, {"pipelines/data/corpus/parts.py": "from pipelines.store.artifacts import Store"}),
    (house.layers, {"pipelines/data/corpus/parts.py": "from pipelines.data.tokens import packing"}),
    (house.layers, {"pipelines/inference/sampler.py": "def ask():\n    from pipelines.learning import model"}),
    (house.layers, {"pipelines/report/page.py": "if TYPE_CHECKING:\n    from pipelines.verbs import run"}),
    (house.layers, {"serve/gateway/relay.py": "from serve.hosting.app import host"}),
    (house.layers, {"pipelines/attic.py": "x = 1"}),
    (house.crafts_without_ray, {"pipelines/learning/loop.py": "import ray"}),
    (house.crafts_without_ray, {"pipelines/metrics/f1.py": "from cluster.gang import Gang"}),
    (house.one_door_a_library, {"pipelines/stages/pretrain.py": "def run():\n    import deepspeed"}),
    (house.one_door_a_library, {"pipelines/evaluator.py": "def ask():\n    from vllm import SamplingParams"}),
    (house.one_door_a_library, {"pipelines/stages/pretrain.py": "import ray.train"}),
    (house.one_door_a_library, {"cluster/session.py": "import ray.tune"}),
    (house.one_door_a_library, {"pipelines/data/corpora.py": "import ray.data"}),
    (house.one_door_a_library, {"pipelines/cli.py": "import ray.serve"}),
    (house.no_shadows, {"serve/app.py": "from ray import serve"}),
    (house.no_shadows, {"tests/test_sweep.py": "from ray import tune"}),
    (house.small_files_and_functions, {"cluster/long.py": "x = 1\n" * 401}),
    (house.small_files_and_functions, {"tests/long.py": LONG_FUNCTION}),
    (house.no_circles, {"cluster/a.py": "from cluster.b import x", "cluster/b.py": "if 1:\n    import cluster.a"}),
    (house.no_circles, {"cluster/a.py": "from . import b", "cluster/b.py": "from cluster.a import y"}),
    (house.no_circles, {"cluster/a.py": "def f():\n    import cluster.b", "cluster/b.py": "import cluster.a"}),
    (house.no_circles, {"cluster/a.py": "if TYPE_CHECKING:\n    import cluster.b", "cluster/b.py": "import cluster.a"}),
    (house.everything_typed, {"cluster/a.py": "def f(x: int, *rest) -> int:\n    return x"}),
    (house.everything_typed, {"tests/a.py": "async def f(*, x: int):\n    return x"}),
    (house.telling_names, {"pipelines/utils/io.py": ""}),
    (house.telling_names, {"cluster/manager.py": ""}),
    (house.no_swallowed_errors, {"cluster/a.py": "try:\n    x = 1\nexcept Exception:\n    pass"}),
    (house.no_swallowed_errors, {"cluster/a.py": "for y in x:\n    try:\n        y()\n    except:\n        continue"}),
    (house.no_swallowed_errors, {"cluster/a.py": "try:\n    x = 1\nexcept (OSError, BaseException) as e:\n    ..."}),
    (house.no_swallowed_errors, {"cluster/a.py": "import contextlib\nwith contextlib.suppress(Exception):\n    x = 1"}),
    (house.light_stage_tops, {"pipelines/stages/sft.py": "import torch"}),
    (house.light_stage_tops, {"pipelines/stages/sft.py": "try:\n    from pipelines.data import x\nfinally:\n    1"}),
    (house.light_stage_tops, {"pipelines/stages/ppo/__init__.py": "import numpy as np"}),
    (house.light_stage_tops, {"serve/trial/stage.py": "from serve.hosting import server"}),
]  # fmt: skip

KEPT = {
    "cluster/workers.py": "import ray.train\nimport ray",
    "cluster/gang.py": "try:\n    import cluster.workers\nexcept OSError:\n    pass\nexcept Exception:\n    raise",
    "pipelines/cli.py": "def serve() -> None:\n    from serve.hosting.app import start",
    "pipelines/stages/__init__.py": "from pipelines.stages import ppo, sft",
    "pipelines/stages/sft.py": (
        "import json\nfrom typing import TYPE_CHECKING\nfrom pydantic import Field\nfrom pipelines.stage import Stage\n"
        "if TYPE_CHECKING:\n    import torch\n    from pipelines.store.artifacts import Artifact\n"
        "def run() -> None:\n    import ray.data\n    from pipelines.learning.engine import Engine"
    ),
    "pipelines/stages/ppo/__init__.py": "from pipelines.stages.ppo.options import PpoOptions",
    "pipelines/stages/ppo/update.py": "import torch\nfrom pipelines.stages.ppo import options",
    "pipelines/learning/engine.py": "import deepspeed\nfrom pipelines.learning.batch import Batch",
    "pipelines/learning/batch.py": "import torch\nfrom pipelines.inference import probe",
    "serve/hosting/app.py": "import ray.serve, cluster\nfrom serve.gateway import relay\nimport pipelines.store",
    "tests/test_engine.py": "import deepspeed, vllm\nfrom pipelines.stages import sft\n" + LONG_FUNCTION[:-10],
}


@pytest.mark.parametrize(("rule", "sources"), BROKEN, ids=named)
def test_rule_can_fail(rule: Rule, sources: dict[str, str]) -> None:
    offences = list(rule([Module(path, source) for path, source in sources.items()]))
    assert len(offences) == 1
    assert re.match(r"[\w/]+\.py:\d+: ", offences[0])


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_rule_has_a_snippet_that_breaks_it_and_lets_good_code_pass(rule: Rule) -> None:
    assert rule in [broken for broken, _ in BROKEN]
    assert list(rule([Module(path, source) for path, source in KEPT.items()])) == []


def test_traces_are_found() -> None:
    text = "see /ro" + "ot/.cache\ncd /wo" + "rk/x\nhttps://py" + "pi.org/simple\na framework/root/x of ~/work/, pypi"
    assert [offence.split(":")[1] for offence in no_traces({"a.md": text})] == ["1", "2", "3"]
