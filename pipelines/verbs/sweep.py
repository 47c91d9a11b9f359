"""`rayse sweep`: tries the values of a recipe's search spaces, each as a run of its own, and keeps the best.

    Written ──draw──► a recipe per trial ──plan──► what all share, made once ──► trials (sweep.py) ──► best.yaml

Killed and started again, the same command goes on: what is made is found, what was begun goes on from its draft, what
was ended early stays ended (the record knows it).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import cluster
import pipelines
from cluster.resources import cores
from pipelines.errors import UserError
from pipelines.recipe.reader import SHIPPED, Recipe, Written
from pipelines.recipe.search_space import SweepOptions, draw, num_combinations
from pipelines.run.plan import Step, descendants, plan
from pipelines.run.progress import Story
from pipelines.run.walk import Walk, explain
from pipelines.store.artifacts import Store, write_atomically
from pipelines.store.lease import Lease
from pipelines.sweep.progress import Follower, shown_values
from pipelines.sweep.trials import FINAL, SweepRecord, Trial, identity, load, named

HEADER = "# The best of a sweep, written by `rayse sweep`"


@dataclass(frozen=True)
class Candidate:
    """A trial with what it would run."""

    trial: Trial
    recipe: Recipe
    steps: list[Step]

    @property
    def made(self) -> bool:
        """Whether its last stage, and its evaluation, are in the store."""
        return all(step.artifact for step in self.steps if step.entry.name == self.last or step.evaluates == self.last)

    @property
    def last(self) -> str:
        return next(step.name for step in reversed(self.steps) if not step.evaluates)


def sweep_recipe(
    written: Written, *, out: Path | None = None, address: str | None = None, quiet: bool = False
) -> tuple[SweepRecord, Path]:
    """`rayse sweep`: returns the record and the best trial's recipe, which is written beside the recipe or to `out`.

    Raises UserError for a recipe that cannot be swept, and where no trial came to its end."""
    if address is not None and address.startswith("ray://"):
        raise UserError(f"--address {address}: a sweep's driver must be on the cluster; give the head's host:6379")
    asked = _asked(written)
    best_file, store, until = _place(written.path, out), asked.store.create(), asked.until
    story = Story(quiet=quiet)
    lease = Lease(store.root / "sweeps" / asked.id / "lease.json")
    lease.acquire(wait=True, log=lambda text: story.warn(text.replace("draft", "sweep", 1)))
    with lease.kept():
        record, recipes = _prepared(written, asked)
        candidates = [
            Candidate(trial, recipe, plan(recipe, store, until=until, warn=story.warn))
            for trial, recipe in zip(record.trials, recipes, strict=True)
        ]
        _settle(record, candidates)
        follower = Follower(record, store, story)
        story.note(_headline(record))
        _work(written, asked.options, candidates, follower, address)
        best = _finish(record, store, candidates, story)
    write_atomically(best_file, _best_text(record, best, best_file))
    Walk(best.recipe, store, _session(store, address, Story(quiet=True)), Story(quiet=True)).run(until=until)
    return record, best_file


@dataclass(frozen=True)
class Asked:
    """What a recipe asks of its sweep."""

    options: SweepOptions
    until: str  # the trials' last stage
    seed: int
    trials: int
    recipe: str  # its name
    store: Store
    id: str


def _asked(written: Written) -> Asked:
    """Raises UserError for a recipe that cannot be swept."""
    if not written.spaces:
        raise UserError(f"{written.path}: no search space; write one in the place of a value, such as "
                        f"learning_rate: {{log_uniform: [1e-3, 1e-1], default: 0.02}}")  # fmt: skip
    recipe = written.recipe(draw(written.spaces, 1, 0)[0])
    options = recipe.sweep
    if options is None:
        raise UserError(f"{written.path}: no section sweep; say at least what decides, such as "
                        f"sweep: {{metric: heldout/bits_per_byte, trials: 8}}")  # fmt: skip
    names = [entry.name for entry in recipe.entries]
    last = max(names.index(name) for name in _varied(written))
    until = options.until or (names[last] if names[last] != "base" else names[-1])
    if names.index(until) < last:
        problem = f"{until} comes before {names[last]}, which has a search space"
        raise written.reader.error(("sweep", "until"), problem)
    trials = options.trials or num_combinations(written.spaces)
    if trials is None:
        raise written.reader.error(("sweep", "trials"), "missing: a space that is no list has no end; say how many")
    seed = recipe.seed if options.seed is None else options.seed
    id_ = identity(recipe.name, written, options, until, seed)
    return Asked(options, until, seed, trials, recipe.name, Store(recipe.store), id_)


def _varied(written: Written) -> set[str]:
    """Names of the entries that have a search space."""
    return {str(space.path[0] if space.path[0] == "base" else space.path[1]) for space in written.spaces}


def _prepared(written: Written, asked: Asked) -> tuple[SweepRecord, list[Recipe]]:
    """The record, the one there is if there is one, with as many trials as are asked for; and the recipe of each.

    Trials beyond them that have ended stay: the best may be among them."""
    options = asked.options
    record = load(asked.store, asked.id) or SweepRecord(
        id=asked.id,
        recipe=asked.recipe,
        metric=options.metric,
        mode=options.direction or "",
        watch=options.watch,
        watch_mode=options.watch_direction or "",
        until=asked.until,
        seed=asked.seed,
        spaces={space.name: space.described() for space in written.spaces},
        log_scales=[space.name for space in written.spaces if space.is_wide],
    )
    while len(record.trials) > asked.trials and record.trials[-1].outcome not in FINAL:
        record.trials.pop()
    values = draw(written.spaces, max(asked.trials, len(record.trials)), asked.seed)
    for number in range(len(record.trials) + 1, len(values) + 1):
        record.trials.append(Trial(number=number, values=named(values[number - 1], written.spaces)))
    record.outcome = "running"
    return record, [written.recipe(own) for own in values]


def _settle(record: SweepRecord, candidates: Sequence[Candidate]) -> None:
    """What the record says of each trial, corrected by what the store holds now."""
    for candidate in candidates:
        trial = candidate.trial
        fingerprint = next(s.fingerprint for s in candidate.steps if s.name == record.until)
        trial.evaluation = next((s.fingerprint for s in candidate.steps if s.evaluates == record.until), "")
        if trial.fingerprint != fingerprint:  # new, or a source was changed
            trial.outcome, trial.curve, trial.wall_s, trial.fingerprint = "waiting", [], 0.0, fingerprint
        if candidate.made:
            trial.outcome, trial.problem = "done", ""
        elif trial.outcome == "done" or trial.outcome not in FINAL:
            trial.outcome, trial.figure, trial.problem = "waiting", None, ""


def _headline(record: SweepRecord) -> str:
    spaces = ", ".join(f"{name} {space}" for name, space in record.spaces.items())
    lowest = "lowest" if record.mode == "min" else "highest"
    return (f"sweep {record.id}: {len(record.trials)} trials of {record.until}; {spaces}; the {lowest} "
            f"{record.metric} is the best")  # fmt: skip


# ---- working ---------------------------------------------------------------------------------------------------------


def _work(
    written: Written, options: SweepOptions, candidates: Sequence[Candidate], follower: Follower, address: str | None
) -> None:
    """Makes what all trials share, then works on those that have not ended."""
    record, store, story = follower.record, follower.store, follower.story
    for candidate in candidates:
        if candidate.made:
            follower.judge(candidate.trial)
    follower.check()
    waiting = [candidate for candidate in candidates if candidate.trial.outcome not in FINAL]
    if not waiting:
        return follower.close("done")
    shared = _shared(candidates[0], written)
    needed = [_needs(candidate, shared) for candidate in waiting]
    cpus = max(cpus for cpus, _ in needed)
    wanted = options.parallel or max(1, int(cores() // max(cpus, 1)))
    session = _session(store, address, story, cpus=max(4, cores(), int(wanted * cpus + 1)))
    outcome = "failed"
    try:
        if any(step.artifact is None for step in waiting[0].steps if step.fingerprint in shared):
            Walk(waiting[0].recipe, store, session, story).run(until=record.until, only=shared)
        session.start()
        parallel = min(options.parallel or _room(session, needed), len(waiting))
        _run_trials(waiting, candidates, options, follower, parallel)
        outcome = "done"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    except Exception as error:
        known = explain(error, store)
        if known is error:
            raise
        raise known from error
    finally:
        session.stop()
        follower.close(outcome)
    return follower.check()


def _run_trials(
    waiting: Sequence[Candidate],
    candidates: Sequence[Candidate],
    options: SweepOptions,
    follower: Follower,
    parallel: int,
) -> None:
    from pipelines.sweep.tune import Job, Pruning, run_trials

    record, store = follower.record, follower.store
    begun = sorted(waiting, key=lambda candidate: (not candidate.trial.curve, candidate.trial.number))
    jobs = [Job(own.trial.number, own.recipe, record.until, store.root, record.folder(store), options.watch)
            for own in begun]  # fmt: skip
    pruning = None
    if options.grace < 1 and not _comparable(candidates):
        follower.story.note(f"trials have tokenizers of their own, so their {options.watch} cannot be compared: each "
                            f"works to its end")  # fmt: skip
    elif options.grace < 1:
        past = [trial for trial in record.trials if trial.outcome in ("done", "pruned")]
        pruning = Pruning(record.watch_mode, options.grace, past)
    follower.story.note(f"{len(jobs)} trials to work on, {parallel} at once; their stories: {record.folder(store)}")
    scratch = store.root / "cache" / f"tune-{record.id}"
    run_trials(jobs, parallel=parallel, pruning=pruning, watcher=follower, scratch=scratch)


def _session(store: Store, address: str | None, story: Story, cpus: int | None = None) -> Any:
    from cluster.session import Session

    packages = [Path(package.__file__ or "").parent for package in (cluster, pipelines)]
    logs = store.root / "cache" / "logs"
    return Session(address, cpus=cpus, logs=logs, packages=packages, shared=store.root, on_message=story.note)


def _shared(candidate: Candidate, written: Written) -> set[str]:
    """Fingerprints of the steps that stand on no search space: the same in every trial."""
    varied = _varied(written)
    roots = {s.fingerprint for s in candidate.steps if not s.evaluates and s.entry.name in varied}
    return {step.fingerprint for step in candidate.steps} - descendants(candidate.steps, roots)


def _comparable(candidates: Sequence[Candidate]) -> bool:
    """Whether all trials speak in the same tokens: a loss in nats a token means nothing across tokenizers."""
    found = {tuple(s.fingerprint for s in own.steps if s.entry.stage.makes == "tokenizer") for own in candidates}
    return len(found) == 1


def _needs(candidate: Candidate, shared: set[str]) -> tuple[float, float]:
    """CPUs and GPUs that a trial takes at once: those of its hungriest stage."""
    cpus, gpus = [1.0], [0.0]
    for own in (step.entry.cluster for step in candidate.steps if step.fingerprint not in shared):
        workers = getattr(own, "workers", None) or 1
        cpus.append(workers * max(getattr(own, "cpus_per_worker", 1), getattr(own, "threads_per_worker", 1)))
        gpus.append(max(workers * getattr(own, "gpus_per_worker", 0), getattr(own, "gpus", 0)))
    return max(cpus), max(gpus)


def _room(session: Any, needed: Sequence[tuple[float, float]]) -> int:
    """How many trials fit at once. A local Ray's CPUs are labels, so there the machine's cores count."""
    nodes = session.nodes()
    cpus = cores() if session.local else sum(node.cpus for node in nodes)
    gpus = sum(node.gpus for node in nodes)
    most_cpus, most_gpus = max(c for c, _ in needed), max(g for _, g in needed)
    rooms = [cpus / most_cpus] if most_cpus else []
    rooms += [gpus / most_gpus] if most_gpus else []
    return max(1, int(min(rooms, default=1)))


# ---- the end ---------------------------------------------------------------------------------------------------------


def _finish(record: SweepRecord, store: Store, candidates: Sequence[Candidate], story: Story) -> Candidate:
    """The best candidate. Raises UserError where no trial has a figure."""
    best = record.best
    if best is None:
        problems = [f"trial {t.number} ({shown_values(t)}): {t.problem}" for t in record.trials if t.problem]
        said = "; ".join(problems[:3]) or "all were ended early"
        raise UserError(f"no trial of {record.id} came to its end; {said}. Stories: {record.folder(store)}")
    story.note(f"best: trial {best.number} ({shown_values(best)}), {record.metric} {best.figure:.6g}")
    return next(candidate for candidate in candidates if candidate.trial is best)


def _place(recipe: Path, out: Path | None) -> Path:
    """Where the best recipe goes. Raises UserError rather than overwrite what is not ours."""
    file = out or (Path.cwd() if recipe.parent == SHIPPED else recipe.parent) / "best.yaml"
    if file.is_file() and not file.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        raise UserError(f"{file}: exists and was not written by a sweep; move it away, or name another with --out")
    if not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"{file}: cannot be written; name another file with --out")
    return file


def _best_text(record: SweepRecord, best: Candidate, file: Path) -> str:
    """The best trial's recipe as a file that stands alone: its paths are right where it is written."""
    tree: dict[str, Any] = {key: value for key, value in best.recipe.tree.items() if key != "sweep"}
    folder = best.recipe.path.parent
    if file.absolute().parent != folder:
        sources: Mapping[str, Any] = tree.get("sources") or {}
        tree["sources"] = {name: _moved(source, "path", folder) for name, source in sources.items()}
        beside = folder / str((tree.get("base") or {}).get("model"))
        tree |= {"base": _moved(tree["base"], "model", folder)} if beside.is_dir() else {}
    figure = f"{record.metric} {best.trial.figure:.6g}"
    head = f"{HEADER} of {record.recipe}: trial {best.trial.number} of {len(record.trials)}, {figure}\n"
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _moved(section: Mapping[str, Any], key: str, folder: Path) -> dict[str, Any]:
    """A section whose relative paths under `key` are made absolute."""
    value = section.get(key)
    if isinstance(value, str):
        return {**section, key: str(folder / value)}
    return {**section, key: [str(folder / one) for one in value]} if isinstance(value, list) else dict(section)
