"""Every family in vLLM: it computes what transformers does, before and after its weights are replaced in place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.inference import probe
from tests import families

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pushes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    command = [sys.executable, "-m", "tests.inference.family_pushes", str(tmp_path_factory.mktemp("pushes"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(line["family"], line["stored"]): line for line in lines}


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_push_replaces_every_weight(pushes: dict[tuple[str, str], dict[str, Any]], family: str, stored: str) -> None:
    push = pushes[family, stored]
    tolerance = probe.TOLERANCE_NATS[stored]
    assert push["apart"] > 4 * tolerance, "the two models must differ, or a push that does nothing would pass"
    assert push["before"] < tolerance
    assert push["after"] is not None and push["after"] < tolerance, push["reason"]
