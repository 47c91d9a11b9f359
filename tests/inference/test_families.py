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
    for reason, layer in ((part_of_a_matrix, "model.layers.1.self_attn.qkv_proj"), (vector, "model.norm")):
        assert reason.startswith(f"the engine does not hold what was pushed: digests of 1 layers differ: {layer};")


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_one_bit_that_is_lost_on_its_way_is_named(
    pushes: dict[tuple[str, str], dict[str, Any]], family: str, stored: str
) -> None:
    """Parts of joined matrices, biases, experts, heads and embeddings, tied or not."""
    push = pushes[family, stored]
    lost, has_experts = push["lost"], families.FAMILIES[family].has_experts
    assert push["widened"] == "", "float32 tensors of a learner lose nothing else in an engine of 16 bits"
    assert len(lost) == 4 - bool(push["tied"]) + (family == "Qwen2"), lost
    assert any("experts" in layer for layer in lost) == has_experts
    for layer, reason in lost.items():
        assert "the engine does not hold what was pushed: digests of" in reason and f" {layer}" in reason, reason
