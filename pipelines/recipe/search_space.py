"""Search spaces: a range or list that a recipe has instead of a value, and the values that a sweep tries.

    pretrain: {learning_rate: {log_uniform: [1e-3, 1e-1], default: 0.02}}
              ──find_spaces──► Space ──draw(spaces, num_trials, seed)──► [{path: 0.0031}, {path: 0.047}, …]

A space replaces the value of an option of a stage, or of a key of `base:`. `rayse run` uses its default. The values are
a function of the seed and the trial's number, so a sweep with more trials keeps the earlier ones.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from pipelines.errors import UserError
from pipelines.options import Options
from pipelines.recipe.yaml_lines import Path, dotted

KINDS = ("choose", "uniform", "log_uniform", "range")
SPELLINGS = "{choose: [1, 2]}, {uniform: [from, to]}, {log_uniform: [from, to]} or {range: [from, to, step]}"
DIGITS = 4  # significant digits of a drawn number, so that it can be typed by hand
MAX_POINTS = 10_000  # of one range; beyond that it is drawn like a continuous space
MAX_TRIALS = 100_000
MAX_DRAWS = 100 * MAX_TRIALS  # a bound for spaces whose values, rounded to DIGITS, repeat
NO_DEFAULT: Any = object()
Values = dict[Path, Any]
"""The values of one trial, by the path of their space in the recipe."""

# Parts of a figure's name that tell its direction.
LOWER_IS_BETTER = ("loss", "nats", "bits_per_byte", "perplexity", "error", "kl", "wall_s", "bytes", "gap")
HIGHER_IS_BETTER = ("accuracy", "exact_match", "f1", "win_rate", "reward", "tokens_per_s", "documents_per_s",
                    "distinct")  # fmt: skip


class SweepOptions(Options):
    """Options of the recipe's `sweep:` section."""

    metric: str = Field(description="Figure of the last stage by which trials are ranked, such as "
                        "heldout/bits_per_byte")  # fmt: skip
    mode: Literal["min", "max"] | None = Field(
        None, description="Direction of the metric: min or max is best; default: derived from its name"
    )
    trials: int | None = Field(
        None, ge=1, le=MAX_TRIALS,
        description="Number of trials; default: every combination, where all spaces are lists or ranges",
    )  # fmt: skip
    parallel: int | None = Field(
        None, ge=1, description="Number of trials at once; default: as many as fit on the cluster"
    )
    until: str | None = Field(
        None, description="Last stage of a trial, its evaluation included; default: the last with a search space"
    )
    seed: int | None = Field(None, ge=0, lt=2**32, description="Seed of the drawn values; default: the recipe's seed")
    watch: str = Field("loss", description="Live figure of the last stage by which the worse trials are stopped early")
    watch_mode: Literal["min", "max"] | None = Field(
        None, description="Direction of `watch`: min or max is best; default: derived from its name"
    )
    grace: float = Field(
        0.2, gt=0, le=1,
        description="Fraction of its last stage that a trial completes before it can be stopped early; "
        "1: no trial is stopped",
    )  # fmt: skip

    @property
    def direction(self) -> Literal["min", "max"] | None:
        """Direction of the metric; None if neither `mode` nor its name tells."""
        return self.mode or direction_of(self.metric)

    @property
    def watch_direction(self) -> Literal["min", "max"] | None:
        """Direction of the live figure; None if neither `watch_mode` nor its name tells."""
        return self.watch_mode or direction_of(self.watch)

    @property
    def missing_mode(self) -> str | None:
        """The key that is required because a figure's name does not tell its direction, or None."""
        if self.direction is None:
            return "mode"
        return "watch_mode" if self.watch_direction is None else None


def direction_of(name: str) -> Literal["min", "max"] | None:
    """Whether the lowest (min) or highest (max) value of a figure is best, as far as its name tells."""
    lower = any(word in name for word in LOWER_IS_BETTER)
    higher = any(word in name for word in HIGHER_IS_BETTER)
    if lower == higher:
        return None
    return "min" if lower else "max"


@dataclass(frozen=True)
class Space:
    """The values that one key of the recipe may take."""

    path: Path
    kind: str  # one of KINDS
    bounds: tuple[Any, ...]  # choose: the choices; range: from, to, step; otherwise: from, to
    default: Any = NO_DEFAULT

    @property
    def name(self) -> str:
        """The key as --set has it: pretrain.learning_rate."""
        return dotted(self.path[1:] if self.path[0] == "stages" else self.path)

    @property
    def has_default(self) -> bool:
        return self.default is not NO_DEFAULT

    @property
    def points(self) -> tuple[Any, ...] | None:
        """All values of a discrete space, otherwise None."""
        if self.kind == "choose":
            return self.bounds
        if self.kind != "range":
            return None
        first, last, step = self.bounds
        values = (first + number * step for number in range(math.floor((last - first) / step + 1e-9) + 1))
        return tuple(value if isinstance(value, int) else float(f"{value:.12g}") for value in values)

    @property
    def is_wide(self) -> bool:
        """Whether its values are best plotted on a logarithmic scale."""
        if self.kind == "log_uniform":
            return True
        if self.kind != "choose" or not all(isinstance(value, int | float) for value in self.bounds):
            return False
        return min(self.bounds) > 0 and max(self.bounds) >= 20 * min(self.bounds)

    def at(self, fraction: float) -> Any:
        """The value at a fraction of the space, 0 ≤ fraction < 1."""
        points = self.points
        if points is not None:
            return points[int(fraction * len(points))]
        low, high = self.bounds
        if self.kind == "log_uniform":
            value = low * (high / low) ** fraction
        else:
            value = low + (high - low) * fraction
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)

    def __str__(self) -> str:
        """The space without its default: log_uniform [0.001, 0.1]."""
        return f"{self.kind} [{', '.join(str(value) for value in self.bounds)}]"


Error = Callable[[Path, str], UserError]
"""Builds the error for a path of the recipe: (path, problem)."""


def find_spaces(tree: Mapping[str, Any], error: Error) -> tuple[Space, ...]:
    """Every search space of a recipe's tree, in its order. Raises UserError for an invalid or misplaced one."""
    spaces: list[Space] = []
    for path, value in _mappings(tree, ()):
        kinds = [kind for kind in KINDS if kind in value]
        if kinds and _is_option(path):
            spaces.append(_parse(path, kinds, value, error))
        elif kinds and set(value) <= {*KINDS, "default"} and isinstance(value[kinds[0]], list):
            raise error(path, "a search space can only replace an option of a stage, or a key of base")
    return tuple(spaces)


def fill(tree: Mapping[str, Any], spaces: Sequence[Space], values: Values | None, error: Error) -> dict[str, Any]:
    """A recipe's tree with each space replaced by its value: a trial's, or the default where values is None.

    Raises UserError for a space without a default."""
    if values is None:
        for space in spaces:
            if not space.has_default:
                raise error(space.path, "a search space without a default; add `default: …`, or try its values with "
                                        "`rayse sweep`")  # fmt: skip
        values = {space.path: space.default for space in spaces}
    return _replace(tree, (), values)


def _replace(value: Any, path: Path, values: Values) -> Any:
    """A copy of a tree in which the nodes at these paths are replaced. path: that of `value`."""
    if path in values:
        return values[path]
    if isinstance(value, Mapping):
        return {key: _replace(inner, (*path, key), values) for key, inner in value.items()}
    return value


def _mappings(value: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every mapping inside a mapping, except those inside a search space."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield (*path, key), inner
            if not (_is_option((*path, key)) and any(kind in inner for kind in KINDS)):
                yield from _mappings(inner, (*path, key))


def _is_option(path: Path) -> bool:
    """Whether a path is that of an option of a stage: stages.NAME.KEY… or base.KEY…"""
    if path[:1] == ("stages",) and len(path) > 2:
        return path[2] not in ("stage", "from", "sources")
    return path[:1] == ("base",) and len(path) > 1


def _parse(path: Path, kinds: list[str], value: Mapping[str, Any], error: Error) -> Space:
    for key in value:
        if key not in (*KINDS, "default"):
            nearest = difflib.get_close_matches(key, ("default",), n=1, cutoff=0.5)
            hint = " Did you mean default?" if nearest else ""
            raise error((*path, key), f"unknown key of a search space.{hint} (Spaces: {SPELLINGS}, each with default)")
    if len(kinds) > 1:
        raise error((*path, kinds[1]), f"expected one space for one value, got {kinds[0]} and {kinds[1]}")
    kind = kinds[0]
    bounds = value[kind]
    problem = _choices_problem(bounds) if kind == "choose" else _bounds_problem(kind, bounds)
    if problem:
        raise error((*path, kind), f"expected {problem}; got {bounds!r}")
    return Space(path, kind, tuple(bounds), value.get("default", NO_DEFAULT))


def _choices_problem(choices: Any) -> str | None:
    """What was expected instead of these choices, or None if they are valid."""
    if not isinstance(choices, list) or not choices:
        return "a list of values, such as [1e-3, 3e-3]"
    has_duplicates = len({repr(choice) for choice in choices}) < len(choices)
    return "each value once" if has_duplicates else None


def _bounds_problem(kind: str, bounds: Any) -> str | None:
    """What was expected instead of these bounds, or None if they are valid."""
    names = ["from", "to", "step"] if kind == "range" else ["from", "to"]
    shape = f"{len(names)} numbers, [{', '.join(names)}]"
    if not isinstance(bounds, list) or len(bounds) != len(names):
        return shape
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in bounds):
        return shape
    if bounds[0] >= bounds[1]:
        return f"{shape}, the lower first"
    if kind == "log_uniform" and bounds[0] <= 0:
        return f"{shape} above 0, since other numbers have no logarithm"
    if kind == "range" and bounds[2] <= 0:
        return f"{shape}, the step above 0"
    if kind == "range" and (bounds[1] - bounds[0]) / bounds[2] > MAX_POINTS:
        return f"{shape} of at most {MAX_POINTS:,} values; use uniform"
    return None


# ---- trials ----------------------------------------------------------------------------------------------------------


def num_combinations(spaces: Sequence[Space]) -> int | None:
    """Number of combinations of values; None if a space is continuous."""
    count = 1
    for space in spaces:
        if space.points is None:
            return None
        count *= len(space.points)
    return count


def draw(spaces: Sequence[Space], num_trials: int, seed: int) -> list[Values]:
    """The values of the first `num_trials` trials, all different; fewer where there are fewer combinations.

    Points of a low-discrepancy sequence cover the spaces more evenly than random ones, whatever their number; the seed
    shifts it. Where all combinations can be listed, they are taken in an order that depends on the seed.
    """
    total = num_combinations(spaces)
    if total is not None and total <= MAX_POINTS:
        order = list(range(total))
        random.Random(seed).shuffle(order)
        return [_combination(spaces, number) for number in order[:num_trials]]
    num_distinct = num_trials if total is None else min(num_trials, total)
    distinct: dict[str, Values] = {}
    points = _quasirandom_points(len(spaces), seed)
    for point in itertools.islice(points, MAX_DRAWS):
        values = {space.path: space.at(fraction) for space, fraction in zip(spaces, point, strict=True)}
        distinct.setdefault(repr(values), values)
        if len(distinct) == num_distinct:
            break
    return list(distinct.values())


def _combination(spaces: Sequence[Space], number: int) -> Values:
    """The combination with this number, in the order in which the last space varies fastest."""
    values: Values = {}
    for space in reversed(spaces):
        points = space.points or ()
        number, remainder = divmod(number, len(points))
        values[space.path] = points[remainder]
    return {space.path: values[space.path] for space in spaces}


def _quasirandom_points(dimensions: int, seed: int) -> Iterator[list[float]]:
    """Points of the unit cube by the additive recurrence R_d (M. Roberts, "The unreasonable effectiveness of
    quasirandom sequences", 2018), starting at a random point. Endless."""
    root = 2.0
    for _ in range(64):  # the positive root of x^(d+1) = x + 1; for d = 1 it is the golden ratio
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = [root ** -(number + 1) % 1 for number in range(dimensions)]
    rng = random.Random(seed)
    point = [rng.random() for _ in range(dimensions)]
    while True:
        yield point
        point = [(position + step) % 1 for position, step in zip(point, steps, strict=True)]
