"""Runs a plain function on many work items in tasks on all nodes. Stages share it.

    map_in_order       rows are read and cleaned: Ray Data, which yields the results in the items' order
    make_files         files become other files: plain tasks of Ray, which cost the driver less (docs/data.md)
    run_tasks          the same of anything, with a small result of each, whichever ends first
    with_first_rows    rows of ranges of files are counted, so that each has its number in the file

Results and errors are returned as values. An error raised in a task would arrive as another error, with a page of
trace and without the original one.
"""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import math
import os
import pickle
import platform
import traceback
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import ray
import ray.data

from cluster.errors import DiskFull
from cluster.nodes import possible
from cluster.resources import Resources, cores
from pipelines.blocks import AtomicFile, Block, note_of_compressed, pack, remove_unpublished, unpack
from pipelines.data.sources.source import Source
from pipelines.stage import Work
from pipelines.store.digests import FileDigests
from pipelines.store.files import read_json, write_json

Item = dict[str, Any]
Result = TypeVar("Result")
OUTCOMES = pa.schema([("result", pa.binary()), ("error", pa.binary())])
MAX_SUBMITTED = 1000  # tasks at a time where Ray decides how many run: more than any cluster's cores that we know of


def map_in_order(
    function: Callable[..., Result], items: Sequence[Item], *, tasks: int | None, cpus_per_task: float, **arguments: Any
) -> Iterator[Result]:
    """Yields function(item, **arguments) of each item, in the items' order, in as many parallel tasks as allowed.

    items: flat dictionaries of text, numbers, bytes and lists of them. tasks: maximum number of parallel tasks (None:
    as many as the CPUs allow). A task whose worker dies is run again elsewhere. Ray must be connected.
    Raises the first error of the function, with a note that names the node."""
    _limit_ray_data()
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
    unit: what the files are, for the progress. A task whose worker dies is run again elsewhere, thrice at most.
    Raises the first error of the function, with a note that names the node."""
    paths = [Path(item["path"]) for item in items]
    folders = {path.parent for path in paths}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unpublished(folder)
    missing = [item for item, path in zip(items, paths, strict=True) if not path.exists()]
    if not missing:
        return
    work.session.start()
    made = run_tasks(
        function, missing, tasks=num_parallel_tasks(work), cpus_per_task=work.cluster.cpus_per_task, arguments=arguments
    )
    done = len(items) - len(missing)
    try:
        for _ in made:
            done += 1
            work.progress.update(done, len(items), unit)
    except DiskFull as error:
        raise DiskFull(f"{error}. {still_missing(paths, done, len(items), unit)}") from error
    for folder in folders:  # what a worker that was lost had begun: a file in `out` would be one of the artifact
        remove_unpublished(folder)


def still_missing(files: Iterable[Path], done: int, total: int, unit: str) -> str:
    """What is still to be made where the disk is full, with its bytes by the mean of what there is, and what to do.

    files: of the items, of which `done` of `total` are complete; those that are not there count as empty."""
    made = sum(file.stat().st_size for file in files if file.exists())
    size = f", which take some {math.ceil(made / done * (total - done)):,} bytes more" if done else ""
    return (
        f"{total - done:,} of {total:,} {unit} are still to be made{size}: make room, then run the same command, which "
        "makes those alone"
    )


def run_tasks(
    function: Callable[..., Result],
    items: Sequence[Item],
    *,
    tasks: int | None,
    cpus_per_task: float,
    arguments: dict[str, Any],
    spread: bool = False,
) -> Iterator[Result]:
    """Runs function(item, **arguments) of each item in plain tasks; yields its result when one has ended, whichever.

    spread: over all nodes, one after the other, rather than filling one to its half first. What has not ended when the
    caller stops is cancelled. A task whose worker dies is run again elsewhere, thrice at most. Ray must be connected.
    Raises the first error of the function."""
    strategy = "SPREAD" if spread else "DEFAULT"
    task = ray.remote(num_cpus=cpus_per_task, scheduling_strategy=strategy)(_outcome)
    shared = ray.put((function, arguments))  # sent to each node once
    running: list[ray.ObjectRef] = []
    try:
        for number, item in enumerate(items):
            running.append(task.options(name=function.__name__).remote(item, shared))
            while len(running) == (tasks or MAX_SUBMITTED) or (number == len(items) - 1 and running):
                ended, running = ray.wait(running)
                result, error = ray.get(ended[0])
                if error is not None:
                    raise pickle.loads(error)
                yield result
    finally:
        for reference in running:
            ray.cancel(reference)


def num_parallel_tasks(work: Work) -> int | None:
    """Returns the recipe's `tasks`, or this machine's cores on a local Ray, which has more logical CPUs than cores.

    None leaves it to Ray."""
    if work.cluster.tasks or not work.session.local:
        return work.cluster.tasks
    return cores()


def note_compressed(work: Work, blocks: Sequence[Block]) -> None:
    """Notes a large compressed file among blocks to be read that one core reads alone, if there is one."""
    if not blocks:
        return
    tasks = num_parallel_tasks(work)
    if tasks is None:  # as many as fit on the cluster, whatever the driver's machine has
        of_task = Resources(cpus_per_worker=work.cluster.cpus_per_task)
        tasks = of_task.capacity(work.session.nodes(), possible() or [])
    if note := note_of_compressed(blocks, tasks):
        work.progress.note(note)


def _outcome(item: Item, shared: tuple[Callable[..., Any], dict[str, Any]]) -> tuple[Any, bytes | None]:
    """Runs the function on an item; returns (its result, its error)."""
    function, arguments = shared
    _leave_imports_to_stay()
    try:
        return function(item, **arguments), None
    except Exception as error:  # raised again by the driver
        return None, _pickled(error)


def _run_items(table: pa.Table, *, function: Callable[..., Any], arguments: dict[str, Any]) -> pa.Table:
    """Runs the function on each item of a block of work; returns a table of OUTCOMES."""
    outcomes = []
    _leave_imports_to_stay()
    for item in table.to_pylist():
        try:
            outcomes.append({"result": pickle.dumps(function(item, **arguments)), "error": None})
        except Exception as error:  # raised again by the driver
            outcomes.append({"result": None, "error": _pickled(error)})
    return pa.Table.from_pylist(outcomes, schema=OUTCOMES)


@functools.cache  # once in each worker: what a task leaves behind must be collected
def _leave_imports_to_stay() -> None:
    """Takes all that imports have made out of Python's garbage collection, which goes through it in vain again and
    again: 0.1 s each time."""
    gc.freeze()


def _pickled(error: Exception) -> bytes:
    note = f"in a task on {platform.node()}:\n{''.join(traceback.format_exception(error))}"
    try:
        error.add_note(note)
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # an error that cannot be pickled: send its text
        pickled = pickle.dumps(RuntimeError(note))
    return pickled


def _limit_ray_data() -> None:
    """Limits Ray Data's messages to its log file; errors are raised, so they need not be printed as well.

    Nor does it collect usage statistics: the actor that does takes 2 s of CPU to start. Nor does it read each second
    how much memory a task has: that goes through all mappings of the process, and nothing reads it."""
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.memory_usage_poll_interval_s = None
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if handler.get_name() == "console":
            handler.setLevel(logging.CRITICAL)


def with_first_rows(
    work: Work, blocks: Sequence[Block], missing: Sequence[Block], sources: Mapping[str, Source] | None = None
) -> list[Block]:
    """The missing blocks, with the number of the first row of each part: those of ranges of files are counted, in all
    blocks of the sources that need it, so that no block counts the rows before it again.

    The counts of a block are a file beside it, so a run that was killed counts what is not counted yet; those that
    follow from lines counted while files were hashed are none. sources: by name, where they are others than the
    stage's."""
    by_name = dict(work.sources if sources is None else sources)
    uncounted = {block.source for block in missing if any(part.first_row is None for part in block.parts)}
    counted = [block for block in blocks if block.source in uncounted]
    known = _known_counts(counted, by_name, FileDigests.of_cache(work.cache)) if work.cache else {}
    items = [
        {"path": str(_rows_file(block)), "source": block.source, "parts": block.packed}
        for block in counted
        if (block.source, block.first) not in known
    ]
    make_files(work, count_rows, items, unit="counts of blocks", sources=by_name)
    is_missing = {(block.source, block.first) for block in missing}
    numbered: dict[tuple[str, int], Block] = {}
    for name, of_source in itertools.groupby(counted, key=lambda block: block.source):
        blocks_of = list(of_source)
        parts = by_name[name].numbered(
            (part for block in blocks_of for part in block.parts),
            (count for block in blocks_of for count in known.get((name, block.first)) or read_json(_rows_file(block))),
        )
        for block in blocks_of:
            own = list(itertools.islice(parts, len(block.parts)))
            if (name, block.first) in is_missing:
                numbered[name, block.first] = replace(block, packed=pack(own))
    return [numbered.get((block.source, block.first), block) for block in missing]


def _rows_file(block: Block) -> Path:
    return block.file.with_suffix(".rows.json")


def _known_counts(
    blocks: Sequence[Block], sources: Mapping[str, Source], digests: FileDigests
) -> dict[tuple[str, int], Sequence[int]]:
    """The counts of blocks of which all files had their lines counted while they were hashed, by (source, first)."""
    lines: dict[str, list[int] | None] = {}  # of the files of the latest block
    counts: dict[tuple[str, int], Sequence[int]] = {}
    for block in blocks:
        source, parts = sources[block.source], block.parts
        files = {part.args["file"] for part in parts if "start" in part.args}
        if _rows_file(block).exists() or not all(source.has_lines(Path(file)) for file in files):
            continue
        lines = {file: lines[file] if file in lines else digests.lines_before(Path(file)) for file in files}
        if None not in lines.values():
            of_parts = (source.count_rows(part, lines.get(part.args.get("file", "")) or ()) for part in parts)
            counts[block.source, block.first] = array("q", of_parts)
    return counts


def count_rows(item: Item, *, sources: Mapping[str, Source]) -> None:
    """Writes what a source says of the rows of a block's parts, so that others can be numbered on, in a task."""
    source = sources[item["source"]]
    with AtomicFile(Path(item["path"])) as file:
        write_json(file.temporary, [source.count_rows(part) for part in unpack(item["parts"])])
        file.publish()
