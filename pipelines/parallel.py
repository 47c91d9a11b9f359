"""Maps a plain function over many small work items with Ray Data, in order, on all nodes. Stages share it.

Results and errors are returned as values. An error raised inside Ray Data would arrive as another error, with a page of
trace and without the original one.
"""

from __future__ import annotations

import logging
import pickle
import platform
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import ray.data

from cluster.resources import cores
from pipelines.blocks import remove_unpublished
from pipelines.stage import Work

Item = dict[str, Any]
Result = TypeVar("Result")
OUTCOMES = pa.schema([("result", pa.binary()), ("error", pa.binary())])


def map_in_order(
    function: Callable[..., Result], items: Sequence[Item], *, tasks: int | None, cpus_per_task: float, **arguments: Any
) -> Iterator[Result]:
    """Yields function(item, **arguments) of each item, in the items' order, in as many parallel tasks as allowed.

    items: flat dictionaries of text, numbers, bytes and lists of them. tasks: maximum number of parallel tasks (None:
    as many as the CPUs allow). A task whose worker dies is run again elsewhere. Ray must be connected.
    Raises the first error of the function, with a note that names the node."""
    _silence_ray_data()
    data = ray.data.from_items(list(items), override_num_blocks=len(items))
    data.context.execution_options.preserve_order = True
    outcomes = data.map_batches(
        cast(Any, _run_items),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=cpus_per_task,
        concurrency=None if tasks is None else min(tasks, len(items)),
        fn_kwargs={"function": function, "arguments": arguments},
    )
    for batch in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for outcome in cast(pa.Table, batch).to_pylist():
            if outcome["error"] is not None:
                raise pickle.loads(outcome["error"])
            yield pickle.loads(outcome["result"])


def make_files(
    work: Work, function: Callable[..., object], items: Sequence[Item], *, unit: str, **arguments: Any
) -> None:
    """Runs function(item, **arguments) in tasks for each item whose file, item["path"], is not there yet.

    The function writes the file last, and in one rename: a run that was killed goes on with the files that are missing.
    unit: what the files are, for the progress. Raises the first error of the function."""
    paths = [Path(item["path"]) for item in items]
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unpublished(folder)
    missing = [item for item, path in zip(items, paths, strict=True) if not path.exists()]
    if not missing:
        return
    work.session.start()
    made = map_in_order(
        function, missing, tasks=num_parallel_tasks(work), cpus_per_task=work.cluster.cpus_per_task, **arguments
    )
    for done, _ in enumerate(made, start=len(items) - len(missing) + 1):
        work.progress.update(done, len(items), unit)


def num_parallel_tasks(work: Work) -> int | None:
    """Returns the recipe's `tasks`, or this machine's cores on a local Ray, which has more logical CPUs than cores.

    None leaves it to Ray."""
    if work.cluster.tasks or not work.session.local:
        return work.cluster.tasks
    return cores()


def _run_items(table: pa.Table, *, function: Callable[..., Any], arguments: dict[str, Any]) -> pa.Table:
    """Runs the function on each item of a block of work; returns a table of OUTCOMES."""
    outcomes = []
    for item in table.to_pylist():
        try:
            outcomes.append({"result": pickle.dumps(function(item, **arguments)), "error": None})
        except Exception as error:  # raised again by the driver
            outcomes.append({"result": None, "error": _pickled(error)})
    return pa.Table.from_pylist(outcomes, schema=OUTCOMES)


def _pickled(error: Exception) -> bytes:
    note = f"in a task on {platform.node()}:\n{''.join(traceback.format_exception(error))}"
    try:
        error.add_note(note)
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # an error that cannot be pickled: send its text
        pickled = pickle.dumps(RuntimeError(note))
    return pickled


def _silence_ray_data() -> None:
    """Limits Ray Data's messages to its log file; errors are raised, so they need not be printed as well."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if handler.get_name() == "console":
            handler.setLevel(logging.CRITICAL)
