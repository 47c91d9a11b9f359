"""Search spaces: where a recipe writes a space instead of a value, and which values a sweep tries.

    pretrain: {learning_rate: {log_uniform: [1e-3, 1e-1], default: 0.02}}
              ──find──► Space ──draw(spaces, trials, seed)──► [{path: 0.0031}, {path: 0.047}, …]

A space stands in a stage's options (or in `base:`), beside the value it varies. `rayse run` takes its default. Trials
are a function of the seed and their number, so a sweep that is asked for more trials goes on with those it has.
"""

from __future__ import annotations

import difflib
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
DIGITS = 4  # of a number that is drawn: what a person would write down
MOST_POINTS = 10_000  # of one range
NO_DEFAULT: Any = object()
Values = dict[Path, Any]
"""What one trial puts in the place of each space, by the space's path in the recipe."""

LOWER = ("loss", "nats", "bits_per_byte", "perplexity", "error", "kl", "wall_s", "bytes", "gap")
HIGHER = ("accuracy", "exact_match", "f1", "win_rate", "reward", "tokens_per_s", "documents_per_s", "distinct")


class SweepOptions(Options):
    """The recipe's `sweep:` section."""

    metric: str = Field(description="figure of the last stage that decides, such as heldout/bits_per_byte")
    mode: Literal["min", "max"] | None = Field(None, description="whether less or more is better; default: by its name")
    trials: int | None = Field(
        None, ge=1, le=100_000, description="default: every combination, where all spaces are lists or ranges"
    )
    parallel: int | None = Field(None, ge=1, description="trials at once; default: as many as the cluster holds")
    until: str | None = Field(None, description="last stage of a trial; default: the last that has a search space")
    seed: int | None = Field(None, ge=0, lt=2**32, description="of the values that are tried; default: the recipe's")
    watch: str = Field("loss", description="live figure of that stage by which the worse trials are ended early")
    watch_mode: Literal["min", "max"] | None = Field(None, description="as mode, for watch")
    grace: float = Field(0.2, gt=0, le=1, description="share of its stage a trial may work before it can be ended; 1: "
                         "every trial works to the end")  # fmt: skip

    @property
    def direction(self) -> str | None:
        """min or max: which of the metric's figures is the best."""
        return self.mode or better(self.metric)

    @property
    def watch_direction(self) -> str | None:
        """min or max: which of the live figures is the best."""
        return self.watch_mode or better(self.watch)

    @property
    def undecided(self) -> str | None:
        """The key that must be given because a figure's name does not tell, or None."""
        if self.direction is None:
            return "mode"
        return "watch_mode" if self.watch_direction is None else None


def better(name: str) -> Literal["min", "max"] | None:
    """Whether less (min) or more (max) of a figure is better, where its name tells."""
    lower, higher = any(word in name for word in LOWER), any(word in name for word in HIGHER)
    if lower == higher:
        return None
    return "min" if lower else "max"


@dataclass(frozen=True)
class Space:
    """The values that one key of the recipe may take."""

    path: Path
    kind: str  # of KINDS
    bounds: tuple[Any, ...]  # the choices; from, to; or from, to, step
    default: Any = NO_DEFAULT

    @property
    def name(self) -> str:
        """As people write it: pretrain.learning_rate."""
        return dotted(self.path[1:] if self.path[0] == "stages" else self.path)

    @property
    def has_default(self) -> bool:
        return self.default is not NO_DEFAULT

    @property
    def points(self) -> tuple[Any, ...] | None:
        """Every value, where they can be counted."""
        if self.kind == "choose":
            return self.bounds
        if self.kind != "range":
            return None
        first, last, step = self.bounds
        values = (first + number * step for number in range(math.floor((last - first) / step + 1e-9) + 1))
        return tuple(value if isinstance(value, int) else float(f"{value:.12g}") for value in values)

    @property
    def is_wide(self) -> bool:
        """Whether its values are better shown on a logarithmic scale."""
        numbers = all(isinstance(value, int | float) for value in self.bounds)
        wide = numbers and min(self.bounds) > 0 and max(self.bounds) >= 20 * min(self.bounds)
        return self.kind == "log_uniform" or (self.kind == "choose" and wide)

    def at(self, share: float) -> Any:
        """The value at a share of the way through the space, 0 ≤ share < 1."""
        points = self.points
        if points is not None:
            return points[int(share * len(points))]
        low, high = self.bounds
        if self.kind == "log_uniform":
            value = low * (high / low) ** share
        else:
            value = low + (high - low) * share
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)

    def described(self) -> str:
        """As the recipe writes it: log_uniform [0.001, 0.1]."""
        return f"{self.kind} [{', '.join(str(value) for value in self.bounds)}]"


Error = Callable[[Path, str], UserError]
"""Makes the error of a place in a recipe: (path, problem)."""


def find(tree: Mapping[str, Any], error: Error) -> tuple[Space, ...]:
    """Every search space of a recipe's tree, in its order. Raises UserError for one that is wrong or misplaced."""
    found: list[Space] = []
    for path, value in _mappings(tree, ()):
        kinds = [kind for kind in KINDS if kind in value]
        if not kinds or not _is_option(path):
            if kinds and set(value) <= {*KINDS, "default"} and isinstance(value[kinds[0]], list):
                raise error(path, "a search space can only stand in the options of a stage, or under base")
            continue
        found.append(_read(path, kinds, value, error))
    return tuple(found)


def filled(tree: Mapping[str, Any], spaces: Sequence[Space], values: Values | None, error: Error) -> dict[str, Any]:
    """A recipe's tree with a value in the place of each space: a trial's, or the default where values is None.

    Raises UserError for a space without a default."""
    chosen = dict(values or {})
    for space in spaces if values is None else ():
        if not space.has_default:
            raise error(space.path, "a search space without a default; add `default: …`, or try its values with "
                                    "`rayse sweep`")  # fmt: skip
        chosen[space.path] = space.default
    return _replaced(tree, (), chosen)


def _replaced(value: Any, path: Path, chosen: Values) -> Any:
    if path in chosen:
        return chosen[path]
    if isinstance(value, Mapping):
        return {key: _replaced(inner, (*path, key), chosen) for key, inner in value.items()}
    return value


def _mappings(value: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every mapping inside a mapping, those inside a search space excepted."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield (*path, key), inner
            if not (_is_option((*path, key)) and any(kind in inner for kind in KINDS)):
                yield from _mappings(inner, (*path, key))


def _is_option(path: Path) -> bool:
    """Whether a place is an option of a stage: stages.NAME.KEY… or base.KEY…"""
    if path[:1] == ("stages",) and len(path) > 2:
        return path[2:3] not in (("stage",), ("from",), ("sources",))
    return path[:1] == ("base",) and len(path) > 1


def _read(path: Path, kinds: list[str], value: Mapping[str, Any], error: Error) -> Space:
    for key in value:
        if key not in (*KINDS, "default"):
            nearest = difflib.get_close_matches(key, ("default",), n=1, cutoff=0.5)
            hint = " Did you mean default?" if nearest else ""
            raise error((*path, key), f"unknown key of a search space.{hint} (Spaces: {SPELLINGS}, each with default)")
    if len(kinds) > 1:
        raise error((*path, kinds[1]), f"one space for one value; found {kinds[0]} and {kinds[1]}")
    kind = kinds[0]
    bounds = value[kind]
    problem = _choices_problem(bounds) if kind == "choose" else _bounds_problem(kind, bounds)
    if problem:
        raise error((*path, kind), f"expected {problem}; found {bounds!r}")
    return Space(path, kind, tuple(bounds), value.get("default", NO_DEFAULT))


def _choices_problem(choices: Any) -> str | None:
    if not isinstance(choices, list) or not choices:
        return "a list of values, such as [1e-3, 3e-3]"
    seen = [repr(choice) for choice in choices]
    return "each value once" if len(set(seen)) < len(seen) else None


def _bounds_problem(kind: str, bounds: Any) -> str | None:
    names = ["from", "to", "step"] if kind == "range" else ["from", "to"]
    shape = f"{len(names)} numbers, [{', '.join(names)}]"
    if not isinstance(bounds, list) or len(bounds) != len(names):
        return shape
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in bounds):
        return shape
    if bounds[0] >= bounds[1]:
        return f"{shape}, the lower first"
    if kind == "log_uniform" and bounds[0] <= 0:
        return f"{shape} above 0: there is no logarithm of others"
    if kind == "range" and bounds[2] <= 0:
        return f"{shape}, the step above 0"
    if kind == "range" and (bounds[1] - bounds[0]) / bounds[2] > MOST_POINTS:
        return f"{shape} of at most {MOST_POINTS:,} values; use uniform"
    return None


# ---- trials ----------------------------------------------------------------------------------------------------------


def num_combinations(spaces: Sequence[Space]) -> int | None:
    """How many combinations of values there are, where they can be counted."""
    sizes = [None if space.points is None else len(space.points) for space in spaces]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def draw(spaces: Sequence[Space], trials: int, seed: int) -> list[Values]:
    """The values of the first trials, no two alike; fewer where there are fewer combinations.

    Points of a low-discrepancy sequence cover the spaces more evenly than random ones, whatever their number; the seed
    shifts it. Where all combinations can be listed they are taken in an order that the seed decides.
    """
    total = num_combinations(spaces)
    if total is not None and total <= MOST_POINTS:
        order = list(range(total))
        random.Random(seed).shuffle(order)
        return [_combination(spaces, number) for number in order[:trials]]
    found: list[Values] = []
    seen: set[str] = set()
    for shares in _sequence(len(spaces), seed):
        values = {space.path: space.at(share) for space, share in zip(spaces, shares, strict=True)}
        if (key := repr(values)) not in seen:
            seen.add(key)
            found.append(values)
        if len(found) == min(trials, total or trials):
            break
    return found


def _combination(spaces: Sequence[Space], number: int) -> Values:
    """The combination of this number, the last space turning fastest."""
    values: Values = {}
    for space in reversed(spaces):
        points = space.points or ()
        number, rest = divmod(number, len(points))
        values[space.path] = points[rest]
    return {space.path: values[space.path] for space in spaces}


def _sequence(dimensions: int, seed: int) -> Iterator[list[float]]:
    """Points of the unit cube by the additive recurrence R_d (M. Roberts, "The unreasonable effectiveness of
    quasirandom sequences", 2018), begun at a random point."""
    root = 2.0
    for _ in range(64):  # the positive root of x^(d+1) = x + 1, of which golden ratio is the first
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = [root ** -(number + 1) % 1 for number in range(dimensions)]
    chance = random.Random(seed)
    place = [chance.random() for _ in range(dimensions)]
    for _ in range(100 * 100_000):
        yield place
        place = [(share + step) % 1 for share, step in zip(place, steps, strict=True)]
