"""The stage's one door to Ray Data: a plain function over many small descriptions of work, in order, on all nodes.

Results and errors travel as values. An error raised inside Ray Data would come back as a page of its own, without the
one that caused it.
"""

from __future__ import annotations

import logging
import pickle
import platform
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import pyarrow as pa
import ray.data

Item = dict[str, Any]
Result = TypeVar("Result")
OUTCOMES = pa.schema([("result", pa.binary()), ("error", pa.binary())])


def in_order(
    function: Callable[..., Result], items: Sequence[Item], *, tasks: int | None, cpus_per_task: float, **arguments: Any
) -> Iterator[Result]:
    """function(item, **arguments) of each item, in the items' order, as many at once as `tasks` and the CPUs allow.

    items: flat dictionaries of text, numbers, bytes and lists of them. A task whose worker dies is run again elsewhere.
    Raises what the function raises first, with a note of where. Ray must be connected."""
    _be_quiet()
    data = ray.data.from_items(list(items), override_num_blocks=len(items))
    data.context.execution_options.preserve_order = True
    outcomes = data.map_batches(
        cast(Any, _outcomes),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=cpus_per_task,
        concurrency=tasks and min(tasks, len(items)),
        fn_kwargs={"function": function, "arguments": arguments},
    )
    for batch in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for outcome in cast(pa.Table, batch).to_pylist():
            if outcome["error"] is not None:
                raise pickle.loads(outcome["error"])
            yield pickle.loads(outcome["result"])


def _outcomes(table: pa.Table, *, function: Callable[..., Any], arguments: dict[str, Any]) -> pa.Table:
    found = []
    for item in table.to_pylist():
        try:
            found.append({"result": pickle.dumps(function(item, **arguments)), "error": None})
        except Exception as error:  # raised again by the driver
            found.append({"result": None, "error": _packed(error)})
    return pa.Table.from_pylist(found, schema=OUTCOMES)


def _packed(error: Exception) -> bytes:
    told = f"in a task on {platform.node()}:\n{''.join(traceback.format_exception(error))}"
    try:
        error.add_note(told)
        packed = pickle.dumps(error)
        pickle.loads(packed)
    except Exception:  # it cannot travel: its words can
        packed = pickle.dumps(RuntimeError(told))
    return packed


def _be_quiet() -> None:
    """Ray Data tells its story to its log file alone; what fails is raised, so it need not be printed as well."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if handler.get_name() == "console":
            handler.setLevel(logging.CRITICAL)
