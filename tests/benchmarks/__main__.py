"""`make bench`: every benchmark, one after the other, as a table; with --store the figures join that store's report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipelines.provenance import machine
from pipelines.store import write_atomically
from tests.benchmarks import corpus, startup, training

BENCHMARKS = {"startup": startup.main, "corpus": corpus.main, "training": training.main}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--store", type=Path, default=Path("store"), help="store whose report shows the figures")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    here = machine()
    print(f"{here['cpu']} x {here['cores']}, {', '.join(here['instructions'])}")
    figures: dict[str, float] = {}
    for name in arguments.names or BENCHMARKS:
        figures |= BENCHMARKS[name]()
    for name, value in figures.items():
        print(f"{name:<36} {value:>12,.2f}")
    if (arguments.store / "artifacts").is_dir():
        place = arguments.store / "bench.json"
        known = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
        write_atomically(place, json.dumps(known | figures, indent=1))
        print(f"kept in {place}; `rayse report --json` shows train/tokens_per_s_bare")


if __name__ == "__main__":
    main()
