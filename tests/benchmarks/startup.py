"""Seconds that Ray costs before any work is done, for each way in which a stage uses it.

python -m tests.benchmarks startup
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.workers import Worker


def no_training(worker: Worker, config: dict[str, Any]) -> dict[str, Any]:
    """A training function that returns at once."""
    return {}


def identity(row: dict[str, Any]) -> dict[str, Any]:
    """The row itself: a Ray Data pass that changes no row."""
    return row


def main() -> dict[str, float]:
    """Seconds to start a local Ray, then of an empty Ray Data pass and of an empty Ray Train run on it."""
    from cluster.session import Session

    session = Session(on_message=lambda text: None)
    try:
        session.start()
        figures = {
            "startup/ray_s": session.start_s,
            "startup/ray_data_s": _ray_data_s(),
            "startup/ray_train_s": _ray_train_s(),
        }
    finally:
        session.stop()
    return {name: round(value, 2) for name, value in figures.items()}


def _ray_data_s() -> float:
    import ray.data

    begin = time.monotonic()
    rows = ray.data.from_items([{"number": n} for n in range(2)], override_num_blocks=2)
    mapped = rows.map(identity, num_cpus=1).take_all()
    if len(mapped) != 2:
        raise RuntimeError(f"an empty Ray Data pass over 2 rows returned {len(mapped)} rows")
    return time.monotonic() - begin


def _ray_train_s() -> float:
    from cluster.resources import Resources
    from cluster.workers import run_workers

    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as storage:
        run_workers(no_training, {}, resources=Resources(workers=2), storage=Path(storage), name="startup")
    return time.monotonic() - begin


if __name__ == "__main__":
    print(main())
