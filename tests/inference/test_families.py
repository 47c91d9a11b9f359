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
from tests.inference.family_pushes import PARTS

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


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_layer_that_keeps_its_old_weights_is_found_where_no_probe_shows_it(
    pushes: dict[tuple[str, str], dict[str, Any]], family: str, stored: str
) -> None:
    """All weights grow by 0.4%, and one tensor is not pushed."""
    matrix, part_of_a_matrix, vector = (pushes[family, stored][part] for part in PARTS)
    assert "kept its old weights of 1 layers, such as model.layers.1.self_attn.o_proj" in matrix
    for reason in (part_of_a_matrix, vector):
        assert reason.startswith("the engine does not hold what was pushed: a digest of"), reason
