"""The formula of an engine's time against the rows that were measured on several machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import engine_times

MACHINES = sorted(engine_times.FOLDER.glob("*.json"))
WITHIN = 0.3


@pytest.mark.parametrize("file", MACHINES, ids=lambda file: file.stem)
def test_planned_times_are_those_that_were_measured(file: Path) -> None:
    errors = {
        f"{name}, {row['kind']} {row['number']} x {row['tokens']}": planned / seconds - 1
        for name, measured in json.loads(file.read_text(encoding="utf-8"))["models"].items()
        for row, seconds, planned in engine_times.compared(measured)
    }
    assert len(errors) >= 8
    assert not {part: error for part, error in errors.items() if abs(error) > WITHIN}
