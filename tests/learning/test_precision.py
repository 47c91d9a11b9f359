"""Which type a model is trained in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipelines.errors import UserError
from pipelines.inference import model_config
from pipelines.learning import precision
from pipelines.learning.precision import dtype_of, stored_dtype


@pytest.mark.parametrize(
    ("device", "gain", "hidden_size", "expected"),  # gain: of products, over float32; None: no instructions
    [
        ("cpu", 2.0, 576, torch.bfloat16),
        ("cpu", 2.0, 192, torch.bfloat16),
        ("cpu", 2.0, 128, torch.float32),
        ("cpu", 0.5, 4096, torch.float32),
        ("cpu", None, 4096, torch.float32),
        ("cuda:0", None, 64, torch.bfloat16),
    ],
)
def test_auto_is_the_faster_type(
    device: str, gain: float | None, hidden_size: int, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate(device: str, dtype: torch.dtype, *, seconds: float) -> float:
        assert gain is not None, "without instructions nothing is measured: emulated products take long"
        return 1e11 * (gain if dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": gain is not None})
    monkeypatch.setattr(precision, "peak_flops_per_s", rate)
    precision.multiplies_bfloat16_faster.cache_clear()
    assert dtype_of("auto", device, hidden_size) == expected
    assert dtype_of("float32", device, hidden_size) == torch.float32
    precision.multiplies_bfloat16_faster.cache_clear()


def test_an_engine_computes_in_the_models_type_where_the_cpu_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stored, has_instructions, expected in (
        ("bfloat16", True, "bfloat16"), ("bfloat16", False, "float32"), ("float16", True, "float32"),
        ("float32", True, "float32"),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": stored}))
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has_instructions: {"amx_bf16": has})
        assert model_config.engine_dtype(tmp_path, on_cpu=True) == expected
        assert model_config.engine_dtype(tmp_path, on_cpu=False) == stored


def test_a_type_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "float8_e4m3fn"}))
    with pytest.raises(
        UserError, match=r"config.json: dtype 'float8_e4m3fn'; expected one of float32, bfloat16, float16"
    ):
        stored_dtype(tmp_path)
