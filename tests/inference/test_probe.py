"""Probes: what is recorded beside a model's weights, to prove an engine."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.inference import probe
from tests import tiny_models
from tests.tiny_models import Tiny


def test_probe_from_logits_is_torchs_log_softmax() -> None:
    logits_TV = np.random.default_rng(3).normal(0, 30, (9, 50)).astype(np.float32)  # wide: exp would overflow float32
    row = [4, 0, 49, 7, 7, 3, 12, 30, 1]
    expected = torch.log_softmax(torch.tensor(logits_TV, dtype=torch.float64), -1)
    computed = probe.from_logits(row, logits_TV)
    assert computed.logprobs == pytest.approx([float(expected[t, row[t + 1]]) for t in range(8)], abs=1e-12)


def test_probe_of_a_folder_is_what_transformers_gives_and_survives_writing(tiny: Tiny, tmp_path: Path) -> None:
    computed = probe.by_transformers(tiny.first)
    assert len(computed.tokens) == probe.LENGTH
    assert computed.logprobs == pytest.approx(
        tiny_models.reference_logprobs(tiny.first, [computed.tokens])[0], abs=1e-5
    )
    probe.write(tmp_path, computed)
    again = probe.read(tmp_path)
    assert again is not None and again.tokens == computed.tokens
    assert probe.gap_nats(computed, np.array(again.logprobs)) < 1e-6
    assert probe.read(tiny.first) is None


def test_every_single_matrix_moves_the_probe(tiny: Tiny) -> None:
    """A push that forgets one matrix must show: each alone moves the row by far more than rounding."""
    from transformers import AutoModelForCausalLM

    expected = probe.by_transformers(tiny.first)
    model = AutoModelForCausalLM.from_pretrained(tiny.first, dtype=torch.float32)
    other = AutoModelForCausalLM.from_pretrained(tiny.second, dtype=torch.float32).state_dict()
    matrices = [name for name, tensor in model.named_parameters() if tensor.ndim == 2]
    for name in matrices:
        tensor = model.get_parameter(name)
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.copy_(other[name])
            changed = probe.from_logits(expected.tokens, model(torch.tensor([expected.tokens])).logits[0].numpy())
            tensor.copy_(kept)
        assert probe.gap_nats(expected, np.array(changed.logprobs)) > 100 * probe.TOLERANCE_NATS["float32"], name


def test_a_log_probability_that_is_no_number_is_an_infinite_gap() -> None:
    assert probe.gap_nats(probe.Probe([1, 2, 3], [-1.0, -2.0]), np.array([-1.0, np.nan])) == math.inf
    assert probe.gap_nats(probe.Probe([1, 2, 3], [-1.0, -2.0]), np.array([-1.5, -2.0])) == 0.5
