"""Baselines: the figures a machine gave before, one JSON file a machine, and how today's figures compare with them.

    baselines/<machine>.json    {"train/tokens_per_s": {"value": …, "unit": "tokens/s", "date": …, "command": …}, …}

A machine is its CPU model, its number of cores and its instruction sets: figures of another machine are never compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.store.artifacts import write_atomically

FOLDER = Path(__file__).with_name("baselines")
# Two calls on one quiet machine differ by up to this fraction: serving one request 438 and 483 tokens/s.
NOISE = 0.10

Better = Literal["higher", "lower", "reference"]
# The first pattern that a figure's name contains says its unit and which way is better. What Rayse is compared with
# (bare loops, TRL) is only a reference: where that changes, it was the machine.
UNITS: tuple[tuple[str, str, Better], ...] = (
    (r"step_dense_s$", "s", "reference"),
    (r"_growth$", "ratio", "lower"),
    (r"^plan/\w+_error", "fraction", "reference"),  # of either sign: 0 is best
    (r"^(serve|soak)/(\w+_)?failed$", "requests", "lower"),
    (r"^serve/slow_clients_reply_over", "ratio", "lower"),
    (r"mb_an_hour$", "MB/h", "lower"),
    (r"mb_per_cpu_s$", "MB/s", "higher"),
    (r"knowledge/passages$", "passages", "reference"),
    (r"_mb$", "MB", "lower"),
    (r"^(serve|soak)/(\w+_)?(requests|again|cut)$", "requests", "reference"),
    (r"(large|peer|datatrove)_(bytes|documents)$|near_(pairs|decoys)$", "", "reference"),
    (r"datatrove\w*_cpu_s$", "s", "reference"),
    (r"datatrove_cpu_ms_a_document$", "ms", "reference"),
    (r"_ms_a_document$", "ms", "lower"),
    (r"tokens_per_s_(bare|unguarded)", "tokens/s", "reference"),
    (r"first_text_bare\w*_ms$", "ms", "reference"),
    (r"first_text_over_bare", "ratio", "lower"),
    (r"documents_per_s_bare", "documents/s", "reference"),
    (r"trl\w*_s$|stage_s_bare$", "s", "reference"),
    (r"tokens_per_s", "tokens/s", "higher"),
    (r"documents_per_s", "documents/s", "higher"),
    (r"gflops$", "GFLOP/s", "reference"),
    (r"parameters$", "parameters", "reference"),
    (r"loss_nats_bare$", "nats", "reference"),
    (r"loss_nats$", "nats", "lower"),
    (r"logprob_gap", "nats", "reference"),  # rounding: its goal alone decides
    (r"peak_gib_(bare|trainer)$", "GiB", "reference"),
    (r"peak_gib", "GiB", "lower"),
    (r"_ms$", "ms", "lower"),
    (r"_s$", "s", "lower"),
    (r"first_over_tenth$", "ratio", "lower"),
    (r"publish_\w+$", "fraction", "lower"),
    (r"ratio|_over_", "ratio", "higher"),
)


@dataclass(frozen=True)
class Figure:
    """A figure as a baseline keeps it. date: ISO 8601; command: what measured it."""

    value: float
    unit: str
    date: str
    command: str


def unit_of(name: str) -> tuple[str, Better]:
    """The unit of a figure and which way is better; a fraction where higher is better if no pattern matches."""
    for pattern, unit, better in UNITS:
        if re.search(pattern, name):
            return unit, better
    return "fraction", "higher"


def path_for(machine: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """The baseline file of a machine, as `provenance.machine` describes it."""
    words = f"{machine['cpu']} {machine['cores']} cores {' '.join(machine['instructions'])}"
    return folder / f"{re.sub(r'[^a-z0-9_]+', '-', words.lower()).strip('-')}.json"


def read(path: Path) -> dict[str, Figure]:
    """The figures of a baseline file; none where there is no file."""
    if not path.is_file():
        return {}
    return {name: Figure(**entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}


def save(path: Path, figures: Mapping[str, float], commands: Mapping[str, str], date: str) -> None:
    """Writes measured figures into a baseline file; those that were not measured now stay as they were.

    commands: what measured each figure."""
    measured = {name: Figure(value, unit_of(name)[0], date, commands[name]) for name, value in figures.items()}
    entries = {name: asdict(figure) for name, figure in sorted({**read(path), **measured}.items())}
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def comparison(name: str, value: float, baseline: Figure) -> str:
    """`was 8,350 on 2026-11-22, −12%: WORSE`; a change within the noise band is neither worse nor better."""
    was = f"was {number(baseline.value)} on {baseline.date}"
    if baseline.value == 0:
        return was
    change = value / baseline.value - 1
    better = unit_of(name)[1]
    if better == "reference":
        verdict = "reference"
    elif abs(change) <= NOISE:
        verdict = "within noise"
    else:
        verdict = "better" if (change > 0) == (better == "higher") else "WORSE"
    return f"{was}, {change:+.0%}: {verdict}"


def number(value: float) -> str:
    """A figure's value in a table: two decimals from 1 on, else three digits that count."""
    return f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
