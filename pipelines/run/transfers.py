"""What tasks on all nodes bring where a run joins a cluster: the driver gets names and digests.

    objects of sources ──► copies in the cache

On one machine the process does it itself, where it is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.objects import Objects

if TYPE_CHECKING:  # tasks import this file
    from cluster.session import Session
    from pipelines.data.sources.object_files import Version
    from pipelines.data.sources.source import Source
    from pipelines.recipe.reader import Recipe
    from pipelines.run.progress import RunLog

TASKS = 4  # at once, for each node
TASK_BYTES = 64 << 20  # of small files in one task at most: a kill costs as many
FILE_BYTES = 64 << 10  # as many take as long as a request does
ROUNDS = 4  # of tasks at least, so that no node waits for another's large ones

Result = TypeVar("Result")
Item = TypeVar("Item")


def prepare(recipe: Recipe, session: Session, log: RunLog, until: str | None = None) -> None:
    """Brings the objects that the sources of all stages up to `until` name, as far as they are not there yet.

    Raises UserError for a source that names nothing, and what `Objects.download` raises: ClusterError for an object
    that changes meanwhile. What is complete is kept, and the next run does the rest."""
    if session.local:
        return
    last = recipe.entry(until) if until else recipe.entries[-1]
    entries = recipe.entries[: recipe.entries.index(last) + 1]
    named = (source for entry in entries for source in (*entry.sources.values(), *entry.references.values()))
    sources = list({id(source): source for source in named}.values())  # several stages may read one
    try:
        bring_objects(sources, session, log)
    finally:
        log.end()


def bring_objects(sources: Iterable[Source], session: Session, log: RunLog) -> None:
    """Brings the objects that sources name and that are not in the cache."""
    missing = {version.file: version for source in sources for version in source.missing_objects()}
    if not missing:
        return
    session.start()
    size, done = sum(version.entry.bytes for version in missing.values()), 0
    log.begin("objects", f"{len(missing):,} of the sources, {size / 1e6:,.0f} MB, brought by the nodes")
    for bucket, versions in itertools.groupby(missing.values(), key=lambda version: version.bucket):
        sizes = [(version, version.entry.bytes) for version in versions]
        for fetched in _in_tasks(fetch, sizes, session, bucket=bucket):
            for version, partial, digest in fetched:
                version.keep(partial, digest)
            done += len(fetched)
            log.update(done, len(missing), "objects")


def fetch(item: Mapping[str, list[Version]], *, bucket: str) -> list[tuple[Version, Path, str]]:
    """Brings some objects, in a task. Returns (the copy, the file that becomes it, its digest) of each."""
    objects, fetched = Objects(bucket), list[Any]()
    try:
        for version in item["values"]:
            fetched.append((version, *version.fetch(objects)))
    except BaseException:
        for _, partial, _ in fetched:
            partial.unlink(missing_ok=True)
        raise
    return fetched


def _in_tasks(
    function: Callable[..., Result],
    sizes: Sequence[tuple[Item, int]],
    session: Session,
    **arguments: Any,
) -> Iterator[Result]:
    """Runs function({"values": some of them}, **arguments) in tasks over all nodes; yields the results as they come.

    sizes: pairs of a value and its bytes."""
    from pipelines.blocks import deal
    from pipelines.parallel import run_tasks

    tasks = TASKS * len(session.nodes())
    costs = [(item, max(size, FILE_BYTES)) for item, size in sizes]
    full = min(TASK_BYTES, sum(cost for _, cost in costs) / (tasks * ROUNDS))
    items = [{"values": some} for some in deal(costs, full)]
    return run_tasks(function, items, tasks=tasks, cpus_per_task=1, arguments=arguments, spread=True)
