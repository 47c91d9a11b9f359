"""What an embedded task is: arguments, and the exchanges that each of them makes, in English and Chinese alike.

    Task(name, arguments, tell) ──split──► training examples | held-out examples, no argument on both sides

A task is narrow where its examples carry an answer that can be checked. A new one is one file and one line in TASKS.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

LANGUAGES = ("en", "zh")
MOST_HELD_OUT = 0.25  # of a list of examples too short for all that is asked of it: most are for training


@dataclass(frozen=True)
class Example:
    """What a user says and what is replied."""

    prompt: str
    reply: str
    answer: str | None = None  # what a right reply says, where that can be checked
    wrong: tuple[
        str, ...
    ] = ()  # wrong answers, of the same shape and drawn alike: only the prompt tells which is right
    safety: str = ""  # as of a Conversation


@dataclass(frozen=True)
class Task:
    """A kind of exchange.

    arguments(language, rng): what the examples are made of, in random order, each value once or more; it may go on for
    ever. tell(language, argument, rng): the examples of one argument, at least one."""

    name: str
    arguments: Callable[[str, Random], Iterator[Hashable]]
    tell: Callable[[str, Any, Random], list[Example]]


@dataclass(frozen=True)
class Split:
    """Examples of a task in one language."""

    train: list[Example]
    held_out: list[Example]


def split(task: Task, language: str, *, rows: int, held_out_rows: int, seed: int) -> Split:
    """So many examples of each kind, or as many as the arguments give; every argument is on one side alone.

    The same seed gives the same examples."""
    rng = Random(f"{seed}/{task.name}/{language}")
    told: dict[Hashable, list[Example]] = {}
    number = 0
    for argument in task.arguments(language, rng):
        if argument not in told:
            told[argument] = task.tell(language, argument, rng)
            number += len(told[argument])
        if number >= rows + held_out_rows:
            break
    wanted = held_out_rows if number >= rows + held_out_rows else min(held_out_rows, int(MOST_HELD_OUT * number))
    held_out: list[Example] = []
    train: list[Example] = []
    for examples in told.values():
        (held_out if len(held_out) < wanted else train).extend(examples)
    return Split(train[:rows], held_out)


def shuffled(values: list[Any], rng: Random) -> Iterator[Any]:
    """The values in random order: the arguments of a task that has a list of them."""
    yield from rng.sample(values, len(values))
