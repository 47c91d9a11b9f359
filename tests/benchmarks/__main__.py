"""Runs the benchmarks one after the other (`make bench`) and prints a table of figures, goals and baselines.

The baseline of this machine is tests/benchmarks/baselines/<machine>.json; --save writes the measured figures into it.
With --store the figures join that store's report. Exits with 1 where a figure misses a gate (filter_gates.json), after
all figures are printed and kept; the other goals are figures to reach, and one that is missed is only printed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipelines.store.artifacts import write_atomically
from pipelines.store.provenance import machine
from tests.benchmarks import baselines, goals

BENCHMARKS = {  # name → the module whose main() returns its figures
    "startup": "startup",
    "corpus": "corpus",
    "corpus_filters": "corpus_filters",
    "tokens": "tokens",
    "training": "training",
    "attention": "attention",
    "adapters": "adapters",
    "sampler": "sampling",
    "ppo": "ppo",
    "serve": "serving",
    "knowledge": "knowledge",
    "quality": "quality_sampling",
    "serve_failures": "serving_failures",
    "soak": "serving_soak",
    "ppo_learns": "ppo_learns",
    "planning": "planning",
    "engine_times": "engine_times",
    "writing": "writing",
}
DEFAULT = [
    name
    for name in BENCHMARKS
    if name
    not in ("ppo_learns", "adapters", "quality", "serve_failures", "soak", "planning", "engine_times", "writing")
]  # these take minutes; soak an hour


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the requested benchmarks, prints and keeps their figures. Returns the exit status:
    1 where a gate is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(BENCHMARKS)}; default: {', '.join(DEFAULT)}")
    parser.add_argument("--store", type=Path, default=Path("store"), help="store whose report includes the figures")
    parser.add_argument("--save", action="store_true", help="write the figures into this machine's baseline")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")

    this_machine = machine()
    baseline_file = baselines.path_for(this_machine)
    print(f"{this_machine['cpu']} x {this_machine['cores']}, {', '.join(this_machine['instructions'])}")
    figures: dict[str, float] = {}
    commands: dict[str, str] = {}
    for name in options.names or DEFAULT:
        measured = importlib.import_module(f"tests.benchmarks.{BENCHMARKS[name]}").main()
        figures |= measured
        commands |= dict.fromkeys(measured, f"python -m tests.benchmarks {name}")
    goals.print_figures(figures, baselines.read(baseline_file))

    if options.save:
        baselines.save(baseline_file, figures, commands, datetime.now(UTC).date().isoformat())
        print(f"saved in {baseline_file}")
    elif not baseline_file.is_file():
        print(f"no baseline of this machine yet ({baseline_file.name}); --save writes it")
    keep_in_store(options.store, figures)
    if missed := goals.missed_gates(figures):
        print(f"gates missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def keep_in_store(store: Path, figures: dict[str, float]) -> None:
    """Adds the figures to STORE/bench.json, which the report reads. Does nothing where there is no store."""
    if not (store / "artifacts").is_dir():
        return
    file = store / "bench.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_atomically(file, json.dumps(before | figures, indent=1))
    print(f"kept in {file}; `rayse report --json` includes train/tokens_per_s_bare")


if __name__ == "__main__":
    sys.exit(main())
