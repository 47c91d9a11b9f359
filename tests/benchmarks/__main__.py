"""`make bench`: every benchmark, one after the other, as a table that says which goals were met.

With --store the figures join that store's report."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from pipelines.store.artifacts import write_atomically
from pipelines.store.provenance import machine
from tests.benchmarks import goals

BENCHMARKS = {  # and the module whose main() gives its figures
    "startup": "startup",
    "corpus": "corpus",
    "training": "training",
    "sampler": "sampling",
    "ppo": "ppo",
    "serve": "serving",
    "ppo_learns": "ppo_learns",
}
UNASKED = [name for name in BENCHMARKS if name != "ppo_learns"]  # that one takes minutes, and draws


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(BENCHMARKS)}; default: all but the last")
    parser.add_argument("--store", type=Path, default=Path("store"), help="store whose report shows the figures")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    here = machine()
    print(f"{here['cpu']} x {here['cores']}, {', '.join(here['instructions'])}")
    figures: dict[str, float] = {}
    for name in arguments.names or UNASKED:
        figures |= importlib.import_module(f"tests.benchmarks.{BENCHMARKS[name]}").main()
    goals.tell(figures)
    if (arguments.store / "artifacts").is_dir():
        place = arguments.store / "bench.json"
        known = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
        write_atomically(place, json.dumps(known | figures, indent=1))
        print(f"kept in {place}; `rayse report --json` shows train/tokens_per_s_bare")


if __name__ == "__main__":
    main()
