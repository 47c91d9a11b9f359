"""What Ray costs before any work is done, in seconds, for each way in which a stage uses it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any


def nothing(worker: Any, config: dict[str, Any]) -> dict[str, Any]:
    """A training loop that does no training."""
    return {}


def same(row: dict[str, Any]) -> dict[str, Any]:
    """A pass over rows that changes nothing."""
    return row


def main() -> dict[str, float]:
    """Seconds: to start a local Ray, and what an empty Ray Data pass and an empty Ray Train run take on it."""
    from cluster.session import Session

    session = Session(say=lambda text: None)
    try:
        session.start()
        facts = {"startup/ray_s": session.start_s, "startup/ray_data_s": _data(), "startup/ray_train_s": _train()}
    finally:
        session.stop()
    return {name: round(value, 2) for name, value in facts.items()}


def _data() -> float:
    import ray.data

    began = time.monotonic()
    rows = ray.data.from_items([{"number": n} for n in range(2)], override_num_blocks=2)
    found = rows.map(same, num_cpus=1).take_all()
    if len(found) != 2:
        raise RuntimeError(f"an empty pass over 2 rows gave {len(found)}")
    return time.monotonic() - began


def _train() -> float:
    from cluster.resources import Resources
    from cluster.workers import run_workers

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as storage:
        run_workers(nothing, {}, resources=Resources(workers=2), storage=Path(storage), name="nothing")
    return time.monotonic() - began


if __name__ == "__main__":
    print(main())
