"""`rayse plan`: what a run would make, and what it would cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cluster.loading import loading
from pipelines.console import console, print_json, table
from pipelines.errors import UserError
from pipelines.planning.engines import ENGINE_KINDS, estimate_engine
from pipelines.planning.machines import GIB, Machines, parse, this_machine
from pipelines.planning.training import KINDS, Estimate, NotPlanned, estimate
from pipelines.recipe.reader import Recipe
from pipelines.run.plan import Step, plan, unread_sources
from pipelines.run.progress import RunLog
from pipelines.stage import Options
from pipelines.store.artifacts import Store


def show_plan(recipe: Recipe, *, until: str | None, nodes: str | None, as_json: bool) -> None:
    """`rayse plan`: prints fingerprint, state and cost of every step, as a table or as JSON.

    nodes: that the costs are for; None: this machine. Raises UserError, after printing, where a stage cannot fit."""
    given = parse(nodes) if nodes else None
    warn = RunLog().warn
    for sentence in unread_sources(recipe):
        warn(sentence)
    steps = plan(recipe, Store(recipe.store), until=until, warn=warn)
    costs: dict[str, Estimate | str] = dict.fromkeys((step.name for step in steps), "its base is not known")
    unknown_base = None
    try:
        with loading():
            costs = costs_of(recipe, steps, given, warn)
    except UserError as error:  # fingerprints and states do not depend on it
        unknown_base = error
    estimates = {name: cost for name, cost in costs.items() if isinstance(cost, Estimate)}
    if as_json:
        facts = {name: _facts(cost) for name, cost in costs.items()}
        print_json({step.name: _state(step) | facts[step.name] for step in steps})
    else:
        _print(steps, estimates)
    if unknown_base is not None:
        raise unknown_base
    misfits = [f"{name}: {e.why}" for name, e in estimates.items() if not e.fits]
    if misfits:
        raise UserError("this plan does not fit: " + "; ".join(misfits))


def costs_of(
    recipe: Recipe, steps: list[Step], nodes: Machines | None, warn: Callable[[str], object]
) -> dict[str, Estimate | str]:
    """By step: what each one of a planned kind would cost, or why there is no estimate of it. nodes: default this
    machine, and then only what is to be made.

    warn: called for a step whose model cannot be estimated, or that would leave out rows. Raises UserError where a base
    is not known."""
    costs: dict[str, Estimate | str] = {step.name: _without_estimate(step) for step in steps}
    to_plan = [step for step in steps if nodes or not step.artifact]
    planned = [step for step in to_plan if step.entry.stage.kind in (*KINDS, *ENGINE_KINDS)]
    if not planned:
        return costs
    here = nodes or this_machine()
    for step in planned:
        machines = _machines_of(step, here, at_hand=nodes is None)
        try:
            if step.entry.stage.kind in KINDS:
                costs[step.name] = cost = estimate(recipe, step.entry, machines)
                if cost.note:
                    warn(cost.note)
            else:
                model = step.evaluates or step.entry.inputs["model"]
                costs[step.name] = estimate_engine(recipe, step.entry, model, machines)
        except NotPlanned as reason:
            costs[step.name] = str(reason)
            warn(f"{step.name}: no estimate: {reason}")
    return costs


def _without_estimate(step: Step) -> str:
    """Why a step has none."""
    if step.artifact:
        return "it is made already"
    if max_requests(step.entry.options) is not None:
        return "it takes as long as its requests are answered in; requests/max is their number at most"
    other = {"base": "it copies or downloads files", "serve": "it takes as long as the server's start and replies do"}
    return other.get(step.entry.stage.kind, "it takes as long as its rows do, which are read only when it runs")


def _facts(cost: Estimate | str) -> dict[str, Any]:
    """As `rayse plan --json` prints it."""
    return {"why": f"no estimate: {cost}"} if isinstance(cost, str) else cost.facts()


def _machines_of(step: Step, machines: Machines, *, at_hand: bool) -> Machines:
    """The machines, or this machine's cores where the step would run on CPUs although there are GPUs."""
    gpus = getattr(step.entry.cluster, "gpus_per_worker", getattr(step.entry.cluster, "gpus", 0))
    falls_back = at_hand and gpus == "auto" and getattr(step.entry.cluster, "workers", 1) > machines.count
    return this_machine(on_gpu=False) if machines.on_gpu and (gpus == 0 or falls_back) else machines


def _state(step: Step) -> dict[str, Any]:
    return {
        "fingerprint": step.fingerprint,
        "state": "made" if step.artifact else "to make",
        "made_by_other_code": step.made_by_other_code,
        "inputs": dict(step.parents),
        "runs_on": runs_on(step.entry.cluster),
        **({} if (limit := max_requests(step.entry.options)) is None else {"requests/max": limit}),
    }


def _print(steps: list[Step], estimates: Mapping[str, Estimate]) -> None:
    rows = table("stage", "fingerprint", "state", "runs on", "parameters", "disk", "time")
    for step in steps:
        state = _state(step)["state"] + (", by other code" if step.made_by_other_code else "")
        cost = estimates.get(step.name)
        columns = (_where(step), "", "", "") if cost is None else _columns(cost)
        rows.add_row(step.name, step.fingerprint[:8], state, *columns)
    console().print(rows)


def _where(step: Step) -> str:
    """What a step without an estimate runs on; for one that sends requests, how many and to whom."""
    options, where = step.entry.options, runs_on(step.entry.cluster)
    limit = max_requests(options)
    if limit is None:
        return where
    endpoints = [getattr(options, name, None) for name in ("endpoint", "judge")]
    names = dict.fromkeys(endpoint.name for endpoint in endpoints if endpoint is not None)
    return f"at most {limit:,} requests to {', '.join(names) or 'the model before, on ' + where}"


def max_requests(options: Options) -> int | None:
    """The number of requests to a model that a stage sends at most; None for a stage that sends none."""
    return getattr(options, "max_requests", None)


def _columns(cost: Estimate) -> tuple[str, str, str, str]:
    trained = "" if cost.trained in (None, cost.parameters) else f", {_short(cost.trained)} trained"
    where = f"{cost.where}, {cost.rank_bytes / GIB:.1f} GiB each" + ("" if cost.fits else ": NO FIT")
    disk = f"{cost.disk_bytes / GIB:.1f} GiB" if cost.disk_bytes else ""
    return where, _short(cost.parameters) + trained, disk, duration(cost.time_s)


def _short(number: float) -> str:
    """8.0B, 134.5M, 2,048."""
    for factor, unit in ((1e9, "B"), (1e6, "M")):
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    return f"{number:,}"


def duration(seconds: float | None) -> str:
    """2.5 h, 12 min, 40 s; unknown."""
    if seconds is None:
        return "unknown"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def runs_on(cluster: Options) -> str:
    """What a stage with these cluster options runs on, such as `2 workers, on GPUs if there are 2`."""
    workers = getattr(cluster, "workers", None)
    gpus = getattr(cluster, "gpus_per_worker", getattr(cluster, "gpus", 0))
    who = "" if workers is None else f"{workers} worker{'s' if workers > 1 else ''}, "
    if gpus == "auto":
        return who + (f"on GPUs if there are {workers}" if workers else "a GPU if there is one")
    return who + (f"{gpus:g} GPU{'' if gpus == 1 else 's'}{' each' if workers else ''}" if gpus else "CPU")
