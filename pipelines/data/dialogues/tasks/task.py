"""What a built-in task is: arguments, and the examples generated from each of them, in English and Chinese alike.

    Task(name, arguments, examples) ──split──► training examples | held-out examples, no argument on both sides

A task is narrow if its examples have a checkable answer. A new task is one file and one line in TASKS (table.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

LANGUAGES = ("en", "zh")
MAX_HELD_OUT_FRACTION = 0.25  # of the examples of a task that has fewer than were requested

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """A prompt of a user and the reply to it."""

    prompt: str
    reply: str
    answer: str | None = None  # as in Conversation
    # Wrong answers of the same form and distribution as the correct one, so that only the prompt tells them apart.
    wrong: tuple[str, ...] = ()
    safety: str = ""  # as in Conversation


@dataclass(frozen=True)
class Task:
    """A kind of exchange.

    arguments(language, rng): what examples are generated from, in random order; values may repeat, and the iterator
    may be endless. examples(language, argument, rng): the examples of one argument, at least one."""

    name: str
    arguments: Callable[[str, Random], Iterator[Hashable]]
    examples: Callable[[str, Any, Random], list[Example]]


@dataclass(frozen=True)
class Split:
    """Examples of a task in one language."""

    train: list[Example]
    held_out: list[Example]


def split(task: Task, language: str, *, rows: int, held_out_rows: int, seed: int) -> Split:
    """Generates up to `rows` training and about `held_out_rows` held-out examples; each argument is on one side only.

    The same seed gives the same examples."""
    rng = Random(f"{seed}/{task.name}/{language}")
    by_argument: dict[Hashable, list[Example]] = {}
    num_examples = 0
    for argument in task.arguments(language, rng):
        if argument not in by_argument:
            by_argument[argument] = task.examples(language, argument, rng)
            num_examples += len(by_argument[argument])
        if num_examples >= rows + held_out_rows:
            break
    if num_examples < rows + held_out_rows:
        held_out_rows = min(held_out_rows, int(MAX_HELD_OUT_FRACTION * num_examples))
    held_out: list[Example] = []
    train: list[Example] = []
    for examples in by_argument.values():
        side = held_out if len(held_out) < held_out_rows else train
        side.extend(examples)
    return Split(train[:rows], held_out)


def shuffled(values: Sequence[T], rng: Random) -> Iterator[T]:
    """The values in random order: the arguments of a task that has a finite list of them."""
    yield from rng.sample(values, len(values))
