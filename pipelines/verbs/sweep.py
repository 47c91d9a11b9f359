"""`rayse sweep`: tries the values of a recipe's search spaces, each in a run, and writes the recipe of the best.

    RecipeTemplate ──draw──► a recipe per trial ──plan──► shared steps, made once ──► trials (tune.py) ──► best.yaml

After a kill the same command resumes: finished trials are in the store, unfinished ones continue from their drafts, and
those stopped early stay stopped, by the record.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.resources import cores
from pipelines.errors import UserError
from pipelines.objects import is_url
from pipelines.recipe.reader import Recipe, RecipeTemplate
from pipelines.recipe.search_space import SweepOptions, draw, num_combinations
from pipelines.recipe.shipped import SHIPPED
from pipelines.run.plan import Step, descendants, plan, unread_sources
from pipelines.run.progress import RunLog
from pipelines.run.transfers import prepare
from pipelines.run.walk import Walk, explain
from pipelines.store.artifacts import Store, write_atomically
from pipelines.sweep.tracker import SweepTracker, format_values
from pipelines.sweep.trials import FINAL, SweepRecord, Trial, load, sweep_id, values_by_name
from pipelines.verbs.run import open_session

if TYPE_CHECKING:
    from cluster.session import Session

HEADER = "# The best of a sweep, written by `rayse sweep`"
MIN_CPUS = 4  # logical CPUs of a local Ray


@dataclass(frozen=True)
class Candidate:
    """A trial with its recipe and plan."""

    trial: Trial
    recipe: Recipe
    steps: list[Step]

    @property
    def made(self) -> bool:
        """Whether the store has the artifact of its last stage, and that of its evaluation."""
        stages = [step.name for step in self.steps if not step.evaluates]
        return all(step.artifact for step in self.steps if stages[-1] in (step.name, step.evaluates))


def sweep_recipe(
    template: RecipeTemplate, *, out: Path | None = None, address: str | None = None, quiet: bool = False
) -> tuple[SweepRecord, Path]:
    """`rayse sweep`: returns the record, and the file of the best trial's recipe: `out`, or best.yaml beside the
    recipe.

    Raises UserError for a recipe that cannot be swept, and if no trial finished."""
    if address is not None and address.startswith("ray://"):
        raise UserError(f"--address {address}: a sweep's driver must be on the cluster; give the head's host:6379")
    settings = _settings(template)
    best_file, store, until = _best_file(template.path, out), settings.store.create(), settings.until
    log = RunLog(quiet=quiet)
    lease = store.lease(settings.id, f"sweep {settings.id}")
    lease.acquire(wait=True, on_message=log.warn)
    with lease.kept():
        record, recipes = _open_record(template, settings)
        for sentence in unread_sources(recipes[0]):  # the sources are the same in all
            log.warn(sentence)
        session = open_session(store, address, log)
        try:
            prepare(recipes[0], store.digests, session, log, until)
        finally:
            session.stop()
        candidates = [
            Candidate(trial, recipe, plan(recipe, store, until=until, warn=log.warn))
            for trial, recipe in zip(record.trials, recipes, strict=True)
        ]
        _synchronise(record, candidates)
        tracker = SweepTracker(record, store, log)
        log.note(_summary(record))
        _run_all(template, settings.options, candidates, tracker, address)
        best = _best(record, store, candidates, log)
    write_atomically(best_file, _best_text(record, best, best_file))
    silent = RunLog(quiet=True)
    Walk(best.recipe, store, open_session(store, address, silent), silent).run(until=until)
    return record, best_file


@dataclass(frozen=True)
class Settings:
    """What a recipe determines of its sweep."""

    options: SweepOptions
    until: str  # last stage of the trials
    seed: int
    num_trials: int
    recipe: str  # name of the recipe
    store: Store
    id: str


def _settings(template: RecipeTemplate) -> Settings:
    """Raises UserError for a recipe that cannot be swept."""
    if not template.spaces:
        raise UserError(f"{template.path}: no search space; write one instead of a value, such as "
                        f"learning_rate: {{log_uniform: [1e-3, 1e-1], default: 0.02}}")  # fmt: skip
    recipe = template.fill(draw(template.spaces, 1, 0)[0])
    options = recipe.sweep
    if options is None:
        raise UserError(f"{template.path}: no section sweep; it needs at least the metric that ranks trials, such as "
                        f"sweep: {{metric: heldout/bits_per_byte, trials: 8}}")  # fmt: skip
    names = [entry.name for entry in recipe.entries]
    last = max(names.index(name) for name in _varied_entries(template))
    until = options.until or (names[last] if names[last] != "base" else names[-1])
    if names.index(until) < last:
        raise template.error(("sweep", "until"), f"{until} comes before {names[last]}, which has a search space")
    num_trials = options.trials or num_combinations(template.spaces)
    if num_trials is None:
        raise template.error(("sweep", "trials"), "missing: required where a search space is continuous")
    seed = recipe.seed if options.seed is None else options.seed
    id_ = sweep_id(recipe.name, template, options, until, seed)
    return Settings(options, until, seed, num_trials, recipe.name, Store(recipe.store), id_)


def _varied_entries(template: RecipeTemplate) -> set[str]:
    """Names of the entries that have a search space."""
    return {str(space.path[0] if space.path[0] == "base" else space.path[1]) for space in template.spaces}


def _open_record(template: RecipeTemplate, settings: Settings) -> tuple[SweepRecord, list[Recipe]]:
    """The stored or a new record with the requested number of trials, and the recipe of each trial.

    Finished trials beyond that number stay: the best may be among them."""
    options = settings.options
    record = load(settings.store, settings.id) or SweepRecord(
        id=settings.id,
        recipe=settings.recipe,
        metric=options.metric,
        mode=options.direction or "",
        watch=options.watch,
        watch_mode=options.watch_direction or "",
        until=settings.until,
        seed=settings.seed,
        spaces={space.name: str(space) for space in template.spaces},
        log_scales=[space.name for space in template.spaces if space.is_wide],
    )
    while len(record.trials) > settings.num_trials and record.trials[-1].outcome not in FINAL:
        record.trials.pop()
    drawn = draw(template.spaces, max(settings.num_trials, len(record.trials)), settings.seed)
    for number in range(len(record.trials) + 1, len(drawn) + 1):
        record.trials.append(Trial(number=number, values=values_by_name(drawn[number - 1], template.spaces)))
    record.outcome = "running"
    return record, [template.fill(values) for values in drawn]


def _synchronise(record: SweepRecord, candidates: Sequence[Candidate]) -> None:
    """Updates the outcome of each trial to the current content of the store."""
    for candidate in candidates:
        trial = candidate.trial
        fingerprint = next(s.fingerprint for s in candidate.steps if s.name == record.until)
        trial.evaluation = next((s.fingerprint for s in candidate.steps if s.evaluates == record.until), "")
        if trial.fingerprint != fingerprint:  # a new trial, or a source has changed
            trial.fingerprint = fingerprint
            trial.outcome, trial.curve, trial.wall_s = "waiting", [], 0.0
        if candidate.made:
            trial.outcome, trial.problem = "done", ""
        elif trial.outcome == "done" or trial.outcome not in FINAL:
            trial.outcome, trial.figure, trial.problem = "waiting", None, ""


def _summary(record: SweepRecord) -> str:
    spaces = ", ".join(f"{name} {space}" for name, space in record.spaces.items())
    lowest = "lowest" if record.mode == "min" else "highest"
    return (f"sweep {record.id}: {len(record.trials)} trials of {record.until}; {spaces}; the {lowest} "
            f"{record.metric} is the best")  # fmt: skip


# ---- running the trials ----------------------------------------------------------------------------------------------


def _run_all(
    template: RecipeTemplate,
    options: SweepOptions,
    candidates: Sequence[Candidate],
    tracker: SweepTracker,
    address: str | None,
) -> None:
    """Makes the artifacts that all trials share, then runs the trials that have not ended."""
    record, store, log = tracker.record, tracker.store, tracker.log
    for candidate in candidates:
        if candidate.made:
            tracker.read_figure(candidate.trial)
    tracker.check()
    waiting = [candidate for candidate in candidates if candidate.trial.outcome not in FINAL]
    if not waiting:
        return tracker.close("done")
    shared = _shared_fingerprints(candidates[0], template)
    cpus = max(_resources(candidate, shared)[0] for candidate in waiting)
    max_parallel = options.parallel or max(1, int(cores() // max(cpus, 1)))
    session = open_session(store, address, log, cpus=max(MIN_CPUS, cores(), int(max_parallel * cpus + 1)))
    outcome = "failed"
    try:
        if any(step.artifact is None for step in waiting[0].steps if step.fingerprint in shared):
            Walk(waiting[0].recipe, store, session, log).run(until=record.until, only=shared)
        session.start()
        gpus = sum(node.gpus for node in session.nodes())
        needs = [_resources(candidate, shared, gpus) for candidate in waiting]
        parallel = min(options.parallel or _capacity(session, needs), len(waiting))
        _run_trials(waiting, candidates, options, tracker, parallel)
        outcome = "done"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    except Exception as error:
        explained = explain(error, store)
        if explained is error:
            raise
        raise explained from error
    finally:
        session.stop()
        tracker.close(outcome)
    return tracker.check()


def _run_trials(
    waiting: Sequence[Candidate],
    candidates: Sequence[Candidate],
    options: SweepOptions,
    tracker: SweepTracker,
    parallel: int,
) -> None:
    """Runs the waiting trials, those with a draft first, and prunes by comparison with all candidates."""
    from pipelines.sweep.tune import Job, Pruning, run_trials

    record, store, log = tracker.record, tracker.store, tracker.log
    folder = record.folder(store)
    started_first = sorted(waiting, key=lambda candidate: (not candidate.trial.curve, candidate.trial.number))
    jobs = [Job(candidate.trial.number, candidate.recipe, record.until, store.location, folder, options.watch)
            for candidate in started_first]  # fmt: skip
    pruning = None
    if options.grace < 1 and not _is_comparable(candidates):
        log.note(f"trials have different tokenizers, so their {options.watch} cannot be compared: each runs to its end")
    elif options.grace < 1:
        past = [trial for trial in record.trials if trial.outcome in ("done", "pruned")]
        pruning = Pruning(record.watch_mode, options.grace, past)
    log.note(f"{len(jobs)} trials to run, {parallel} at once; their logs: {folder}")
    scratch = store.root / "cache" / f"tune-{record.id}"
    run_trials(jobs, parallel=parallel, pruning=pruning, events=tracker, scratch=scratch)


def _shared_fingerprints(candidate: Candidate, template: RecipeTemplate) -> set[str]:
    """Fingerprints of the steps that depend on no search space: the same in every trial."""
    varied = _varied_entries(template)
    roots = {step.fingerprint for step in candidate.steps if step.name in varied}
    return {step.fingerprint for step in candidate.steps} - descendants(candidate.steps, roots)


def _is_comparable(candidates: Sequence[Candidate]) -> bool:
    """Whether all trials have the same tokenizer: losses in nats per token do not compare across tokenizers."""
    tokenizers = {
        tuple(step.fingerprint for step in candidate.steps if step.entry.stage.makes == "tokenizer")
        for candidate in candidates
    }
    return len(tokenizers) == 1


def _resources(candidate: Candidate, shared: set[str], cluster_gpus: float = 0) -> tuple[float, float]:
    """CPUs and GPUs that a trial reserves at once: the maximum over its stages. cluster_gpus: of all nodes."""
    max_cpus, max_gpus = 1.0, 0.0
    for step in candidate.steps:
        if step.fingerprint in shared:
            continue
        options = step.entry.cluster
        workers = getattr(options, "workers", None) or 1
        cpus_per_worker = max(getattr(options, "cpus_per_worker", 1), getattr(options, "threads_per_worker", 1))
        max_cpus = max(max_cpus, workers * cpus_per_worker)
        gpus = getattr(options, "gpus_per_worker", getattr(options, "gpus", 0))
        max_gpus = max(max_gpus, workers * float(cluster_gpus >= workers if gpus == "auto" else gpus))
    return max_cpus, max_gpus


def _capacity(session: Session, needs: Sequence[tuple[float, float]]) -> int:
    """Number of trials that fit at once, at least 1. needs: CPUs and GPUs of each trial.

    The CPUs of a local Ray are only labels, so there the machine's cores count."""
    nodes = session.nodes()
    cpus = cores() if session.local else sum(node.cpus for node in nodes)
    gpus = sum(node.gpus for node in nodes)
    max_cpus, max_gpus = max(c for c, _ in needs), max(g for _, g in needs)
    fits = [cpus / max_cpus] if max_cpus else []
    fits += [gpus / max_gpus] if max_gpus else []
    return max(1, int(min(fits, default=1)))


# ---- the best trial --------------------------------------------------------------------------------------------------


def _best(record: SweepRecord, store: Store, candidates: Sequence[Candidate], log: RunLog) -> Candidate:
    """The best candidate. Raises UserError if no trial has a figure."""
    best = record.best
    if best is None:
        problems = [f"trial {t.number} ({format_values(t)}): {t.problem}" for t in record.trials if t.problem]
        reason = "; ".join(problems[:3]) or "all were stopped early"
        raise UserError(f"no trial of {record.id} finished; {reason}. Logs: {record.folder(store)}")
    log.note(f"best: trial {best.number} ({format_values(best)}), {record.metric} {best.figure:.6g}")
    return next(candidate for candidate in candidates if candidate.trial is best)


def _best_file(recipe: Path, out: Path | None) -> Path:
    """The file for the best recipe. Raises UserError rather than overwrite a file that no sweep has written."""
    file = out or (Path.cwd() if recipe.parent == SHIPPED else recipe.parent) / "best.yaml"
    if file.is_file() and not file.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        raise UserError(f"{file}: exists and was not written by a sweep; move it away, or name another with --out")
    if not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"{file}: cannot be written; name another file with --out")
    return file


def _best_text(record: SweepRecord, best: Candidate, file: Path) -> str:
    """The best trial's recipe as YAML; where its file is in another folder than the recipe, paths are absolute."""
    tree: dict[str, Any] = {key: value for key, value in best.recipe.tree.items() if key != "sweep"}
    folder = best.recipe.path.parent
    if file.absolute().parent != folder:
        sources: Mapping[str, Any] = tree.get("sources") or {}
        tree["sources"] = {
            name: _with_functions(_with_absolute(source, "path", folder), folder) for name, source in sources.items()
        }
        tree["stages"] = {name: _with_functions(stage or {}, folder) for name, stage in tree["stages"].items()}
        base = tree.get("base") or {}
        if base and (folder / str(base.get("model"))).exists():
            tree["base"] = _with_absolute(base, "model", folder)
        tree["cluster"] = {
            name: _with_absolute(_with_absolute(section or {}, "key_file", folder), "access_log", folder)
            for name, section in (tree.get("cluster") or {}).items()
        }
    figure = f"{record.metric} {best.trial.figure:.6g}"
    header = f"{HEADER} of {record.recipe}: trial {best.trial.number} of {len(record.trials)}, {figure}\n"
    return header + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _with_functions(section: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A copy of a source or a stage whose functions of the user, `path/to/file.py:name`, have absolute paths."""
    section = _with_absolute(section, "function", folder)
    if isinstance(filters := section.get("filters"), Mapping):
        section["filters"] = _with_absolute(filters, "custom", folder)
    return section


def _with_absolute(section: Mapping[str, Any], key: str, folder: Path) -> dict[str, Any]:
    """A copy of a section whose path or paths under `key` are made absolute. Relative ones are below `folder`."""
    value = section.get(key)
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list):
        return dict(section)
    absolute = [path if is_url(path) else str(folder / Path(path).expanduser()) for path in paths]
    return {**section, key: absolute[0] if isinstance(value, str) else absolute}
