"""The GPU's script with tiny models on the CPU: nobody should find it broken there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PARTS = ("attention", "correctness", "bare", "adapters", "not_compiled", "zero", "rollout")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++, which torch.compile needs on a CPU")
def test_every_measurement_ends_with_figures(tmp_path: Path) -> None:
    out = tmp_path / "figures.jsonl"
    command = [sys.executable, "-m", "tests.gpu", "--dry-run", "--seconds", "1200", "--out", str(out)]
    done = subprocess.run([*command, *PARTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {"machine", "attention, time", "a run killed and resumed", "bare loop 1b", "sampler asleep and awake"} <= {
        line["name"] for line in lines
    }


def test_a_machine_without_a_gpu_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from tests.gpu.__main__ import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["python -m tests.gpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "sees no GPU" in capsys.readouterr().err
