"""The stage's one door to Ray Data: a plain function over many small descriptions of work, in order, on all nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
import ray.data

Row = dict[str, Any]


def in_order(
    function: Callable[..., Row], items: Sequence[Row], *, tasks: int | None, cpus_per_task: float, **arguments: Any
) -> Iterator[Row]:
    """function(item, **arguments) of each item, in the items' order, as many at once as `tasks` and the CPUs allow.

    items and results: flat dictionaries of text, numbers, bytes and lists of them. A task whose worker dies is run
    again elsewhere. Ray must be connected."""
    _be_quiet()
    data = ray.data.from_items(list(items), override_num_blocks=len(items))
    data.context.execution_options.preserve_order = True
    results = data.map_batches(
        cast(Any, _each),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=cpus_per_task,
        concurrency=tasks and min(tasks, len(items)),
        fn_kwargs={"function": function, "arguments": arguments},
    )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from cast(pa.Table, batch).to_pylist()


def _each(table: pa.Table, *, function: Callable[..., Row], arguments: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([function(item, **arguments) for item in table.to_pylist()])


def _be_quiet() -> None:
    """Ray Data tells its story to its log file alone; what fails is raised, so it need not be printed as well."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if handler.get_name() == "console":
            handler.setLevel(logging.CRITICAL)
