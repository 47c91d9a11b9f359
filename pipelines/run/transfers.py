"""What tasks on all nodes bring, hash and upload where a run joins a cluster: the driver gets names and digests.

    objects of sources ──► copies in the cache      files of sources and artifacts ──► their digests
    files of artifacts and drafts ──► objects of the store

On one machine the process does all of it itself, where it is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.errors import ClusterError
from pipelines.objects import Objects
from pipelines.store.digests import FileDigests, Hashed, hashed_in_state
from pipelines.store.remote import Put, upload

if TYPE_CHECKING:  # tasks import this file
    from cluster.session import Session
    from pipelines.data.sources.object_files import Version
    from pipelines.data.sources.source import Source
    from pipelines.recipe.reader import Recipe
    from pipelines.run.progress import RunLog

TASKS = 4  # at once for each node, taken together: Ray chooses the nodes
TASK_BYTES = 64 << 20  # of small files in one task at most: a kill costs as many
SMALL_BYTES = 16 << 20  # of files to be put that are not worth tasks
FILE_BYTES = 64 << 10  # what a smaller file counts as: to open it, or to ask for it, takes as long
ROUNDS = 4  # of tasks at least, so that no node waits for another's large ones
MIN_BYTES = 1 << 30  # of files that are worth tasks, and a start of Ray: the driver hashes as much in a second or two
LOOKED_UP = 50_000  # files at once, of which those with an unknown digest are gathered

Result = TypeVar("Result")
Item = TypeVar("Item")


def prepare(recipe: Recipe, digests: FileDigests, session: Session, log: RunLog, until: str | None = None) -> None:
    """Brings and hashes what the sources of all stages up to `until` name, as far as it is not done yet.

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
        files = (
            (file, source.has_lines(file))
            for source in sources
            for file in source.each_file()
            if source.digest_of(file) is None
        )
        hash_files(files, digests, session, log)
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
            with _deleted_on_error(fetched):
                for version, partial, digest in fetched:
                    version.keep(partial, digest)
            done += len(fetched)
            log.update(done, len(missing), "objects")


def fetch(item: Mapping[str, list[Version]], *, bucket: str) -> list[tuple[Version, Path, str]]:
    """Brings some objects, in a task. Returns (the copy, the file that becomes it, its digest) of each."""
    objects, fetched = Objects(bucket), list[Any]()
    with _deleted_on_error(fetched):
        for version in item["values"]:
            fetched.append((version, *version.fetch(objects)))
    return fetched


@contextmanager
def _deleted_on_error(fetched: Sequence[tuple[Version, Path, str]]) -> Iterator[None]:
    """Deletes the files of `fetch` that are not kept yet if an error is raised."""
    try:
        yield
    except BaseException:
        for _, partial, _ in fetched:
            partial.unlink(missing_ok=True)
        raise


def hash_files(files: Iterable[tuple[Path, bool]], digests: FileDigests, session: Session, log: RunLog) -> None:
    """Adds the digests of files to those that the store knows, where it would take the driver long.

    files: each, and whether its lines are counted, too, as `FileDigests.of_all` does.
    A file that a node lacks, has in another state or cannot read is skipped; so are all that are left when Ray fails.
    `FileDigests` reads them where their digests are needed."""
    done = 0
    for sizes in _worth_tasks(files, digests):
        session.start()
        from ray.exceptions import RayError

        total = done + len(sizes)
        try:
            for hashed in _in_tasks(hash_some, sizes, session):
                digests.add(each for each in hashed if each is not None)
                done += len(hashed)
                log.update(done, total, "files hashed")
        except RayError as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            log.note(f"a task that hashes files was lost ({text}); this process hashes them where they are needed")
            return


def _worth_tasks(
    files: Iterable[tuple[Path, bool]], digests: FileDigests
) -> Iterator[list[tuple[tuple[str, bytes, bool], int]]]:
    """Yields what `hash_some` takes of the files whose digests are unknown, with their sizes: some at a time, MIN_BYTES
    or more and at last the rest; nothing if all of them are less."""
    left, sizes, is_worth = iter(files), list[tuple[tuple[str, bytes, bool], int]](), False
    while some := list(itertools.islice(left, LOOKED_UP)):
        counted = {str(path) for path, has_lines in some if has_lines}
        unknown = digests.unknown(path for path, _ in some)
        sizes += [((path, state, path in counted), size) for path, state, size in unknown]
        if sum(_cost(size) for _, size in sizes) >= MIN_BYTES:
            yield sizes
            sizes, is_worth = [], True
    if sizes and is_worth:
        yield sizes


def hash_some(item: Mapping[str, list[tuple[str, bytes, bool]]]) -> list[Hashed | None]:
    """Hashes some files, in a task, and counts the lines of those that are marked; None for one in another state
    here."""
    return [hashed_in_state(path, state, has_lines) for path, state, has_lines in item["values"]]


def putting(session: Session) -> Put:
    """What puts files in tasks on all nodes, unless they are small, or on one machine."""

    def put(objects: Objects, files: Mapping[Path, str]) -> dict[Path, str]:
        sizes = [((file, key), file.stat().st_size) for file, key in files.items()]
        if session.local or not session.started or sum(size for _, size in sizes) < SMALL_BYTES:
            return upload(objects, files)
        with lost_tasks_explained():  # they wait for no CPU: a stage may have all of them while its draft is copied
            done = _in_tasks(put_some, sizes, session, cpus=0, url=objects.url)
            return {file: digest for some in done for file, digest in some.items()}

    return put


def put_some(item: Mapping[str, list[tuple[Path, str]]], *, url: str) -> dict[Path, str]:
    """Puts some files as objects below a URL, in a task. Returns their digests."""
    return upload(Objects(url), dict(item["values"]))


@contextmanager
def lost_tasks_explained() -> Iterator[None]:
    """Raises a ClusterError for an error of Ray's own: who copies drafts reports it and goes on."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise ClusterError(
            f"a task that puts files was lost ({type(error).__name__}: {str(error).strip()[:200]}); expected it to run "
            f"to the end. Run the same command: what is complete is kept"
        ) from error


def _in_tasks(
    function: Callable[..., Result],
    sizes: Sequence[tuple[Item, int]],
    session: Session,
    *,
    cpus: int = 1,
    **arguments: Any,
) -> Iterator[Result]:
    """Runs function({"values": some of them}, **arguments) in tasks over all nodes; yields the results as they come.

    sizes: pairs of a value and its bytes; cpus: logical ones of a task."""
    from pipelines.parallel import run_tasks

    tasks = TASKS * len(session.nodes())
    items = [{"values": some} for some in _dealt(sizes, tasks)]
    return run_tasks(function, items, tasks=tasks, cpus_per_task=cpus, arguments=arguments, spread=True)


def _dealt(sizes: Sequence[tuple[Item, int]], tasks: int) -> list[list[Item]]:
    """Deals values to tasks: first each large one to a task of its own, then the small ones, many to a task.

    sizes: pairs of a value and its bytes; tasks: that run at a time."""
    from pipelines.blocks import deal

    costs = [(item, _cost(size)) for item, size in sizes]
    full = min(TASK_BYTES, sum(cost for _, cost in costs) / (tasks * ROUNDS))
    large = [[item] for item, cost in costs if cost >= full]
    return large + deal([(item, cost) for item, cost in costs if cost < full], full)


def _cost(size: int) -> int:
    """What a file counts as beside others: its bytes, but for a small one."""
    return max(size, FILE_BYTES)
