"""Goals of the benchmarks, in one place, and the table that prints figures with their goals and baselines."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import baselines


@dataclass(frozen=True)
class Goal:
    """A bound that a figure must reach: a minimum, or a maximum where `is_minimum` is False."""

    bound: float
    is_minimum: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.is_minimum else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.is_minimum else '≤'} {self.bound:g}"


FILTER_GATES = Path(__file__).with_name("filter_gates.json")  # {figure: minimum}
# What no change may make worse than this; the other goals are figures to reach.
GATES: Mapping[str, Goal] = {
    name: Goal(bound) for name, bound in json.loads(FILTER_GATES.read_text(encoding="utf-8")).items()
}
GOALS: Mapping[str, Goal] = {
    **GATES,
    "corpus/near_recall": Goal(0.95),
    "corpus/near_precision": Goal(0.99),
    "corpus/large_cost_growth": Goal(1.1, is_minimum=False),
    "corpus/ratio_to_datatrove": Goal(10),
    "corpus/ratio_to_datatrove_large": Goal(50),  # the same, of 500 MB and more
    "train/ratio_to_bare": Goal(0.9),
    "train/ratio_to_bare_same_kernels": Goal(0.95),
    "train/ratio_to_bare_default_dtype": Goal(0.95),
    "adapters/ratio_to_bare": Goal(0.95),
    "adapters/ratio_to_trainer": Goal(1.2),
    "attention/ratio_to_dense": Goal(2.0),
    "ppo/ratio_to_trl": Goal(1.5),
    "ppo/publish_fraction": Goal(0.02, is_minimum=False),
    "publish/logprob_gap": Goal(1e-4, is_minimum=False),
    "ppo/reward_last": Goal(0.9),
    "sampler/ratio_to_bare": Goal(0.9),
    "knowledge/hits_at_5_keywords_en": Goal(0.9),
    "knowledge/hits_at_5_keywords_zh": Goal(0.9),
    "knowledge/answered_with_over_without": Goal(2.0),
    "knowledge/lookup_both_ms": Goal(50, is_minimum=False),
    "quality/ratio_cpu": Goal(0.97),
    **{f"serve/ratio_to_bare_{in_flight}": Goal(0.95) for in_flight in (1, 8, 32)},
    **{f"serve_2_replicas/ratio_to_bare_{in_flight}": Goal(0.9) for in_flight in (1, 8, 32)},
    **{f"serve/ratio_to_unguarded_{in_flight}": Goal(0.9) for in_flight in (1, 8, 32)},
    **{f"serve/first_text_over_bare_{in_flight}": Goal(1.2, is_minimum=False) for in_flight in (1, 8, 32)},
    **{f"serve/{case}_failed": Goal(0, is_minimum=False) for case in ("killed", "slow_clients", "switched")},
    **{
        f"serve/{name}": Goal(0, is_minimum=False)
        for name in ("slow_clients_again", "slow_clients_cut", "switched_again", "switched_cut")
    },
    "soak/failed": Goal(0, is_minimum=False),
    "serve/first_over_tenth": Goal(1.5, is_minimum=False),
}


def verdict(name: str, value: float) -> str:
    """`goal ≥ 0.9: met`; an empty string for a figure without a goal."""
    goal = GOALS.get(name)
    return "" if goal is None else f"goal {goal}: {'met' if goal.met(value) else 'MISSED'}"


def missed_gates(figures: Mapping[str, float]) -> list[str]:
    """The names of the figures that miss a gate."""
    return [name for name, value in figures.items() if name in GATES and not GATES[name].met(value)]


def run(
    parser: argparse.ArgumentParser, main: Callable[..., Mapping[str, float]], arguments: Sequence[str] | None = None
) -> None:
    """Runs a benchmark with the options of its parser, and prints its figures: as a table, or with --json as JSON."""
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON object")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():  # progress is no JSON
        measured = main(**options)
    print(json.dumps(measured)) if as_json else print_figures(measured)


def print_figures(figures: Mapping[str, float], baseline: Mapping[str, baselines.Figure] | None = None) -> None:
    """Prints figures as a table with their goals, and the change from the baseline of each that has one."""
    baseline = baseline or {}
    for name, value in figures.items():
        unit = baselines.unit_of(name)[0]
        change = baselines.comparison(name, value, baseline[name]) if name in baseline else ""
        columns = f"{name:<36} {baselines.number(value):>12} {unit:<11}  {verdict(name, value):<20}  {change}"
        print(columns.rstrip())
    evaluated = [GOALS[name].met(value) for name, value in figures.items() if name in GOALS]
    if evaluated:
        print(f"goals: {sum(evaluated)} of {len(evaluated)} met")
    if baseline:
        worse = [n for n, v in figures.items() if n in baseline and "WORSE" in baselines.comparison(n, v, baseline[n])]
        print(f"baseline: {len(worse)} figures worse by more than the noise band of {baselines.NOISE:.0%}"
              + (f": {', '.join(worse)}" if worse else ""))  # fmt: skip
