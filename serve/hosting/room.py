"""Whether there are GPUs, or room on the cluster, for what a server starts, and for another version beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from cluster.errors import ClusterError
from cluster.resources import Resources, check_together
from pipelines.errors import UserError
from serve.hosting.deployment import CLUSTER_THREADS, ONLY_DEPLOYMENT, deployment_name, engines, hosted
from serve.hosting.ending import END_S
from serve.settings import Settings


class Waiting:
    """Settings that have not been tried yet, as they may wait for GPUs."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._until_s: float | None = None

    def must_wait(self, served: Settings, log: Callable[[str], object]) -> bool:
        """Whether it waits on for GPUs that will be free; says so once, to `log`."""
        draining = _draining_gpus(served, self.settings)
        if not draining:
            return False
        if self._until_s is None:
            drain_s = served.limits.longest_drain_s
            self._until_s = time.monotonic() + drain_s + END_S
            log(f"another version waits for {draining} GPUs until the requests of an earlier one have ended, at "
                f"most {drain_s:g} s")  # fmt: skip
        return time.monotonic() < self._until_s


def check_spare(settings: Settings, following: Settings) -> None:
    """Raises UserError where this machine has no GPUs, or the cluster no room, for other versions beside those that are
    served."""
    if settings.address is not None:
        served = engines(settings)
        others = [engine for name, engine in engines(following).items() if engine != served.get(name)]
        try:
            _check_demands("serve another version beside", [*served.values(), *others])
        except ClusterError as error:
            raise UserError(str(error)) from None
        return
    needed, spare = _needed_gpus(settings, following), _spare_gpus()
    if needed > spare:
        raise UserError(f"another version needs {needed} GPUs beside those in use, and {spare} are free; expected a "
                        f"restart of the server instead")  # fmt: skip


def _draining_gpus(settings: Settings, following: Settings) -> int:
    """How many GPUs other versions lack that will be free once earlier ones, which are no longer served, have ended
    their requests; 0 where they lack none, or more than that. On a cluster Ray itself waits for them."""
    import ray

    needed = _needed_gpus(settings, following)
    if not needed or settings.address is not None:
        return 0
    spare, present = _spare_gpus(), int(ray.cluster_resources().get("GPU", 0))
    if spare >= needed:
        return 0
    draining = present - spare - _held_gpus(settings)
    return needed - spare if needed <= spare + draining else 0


def _held_gpus(settings: Settings) -> int:
    """GPUs of the replicas of what is served, as Ray Serve counts them: there are more of them where load added some,
    and none of those that end their last requests."""
    import ray.serve

    application = ray.serve.status().applications.get(settings.app)
    deployments = application.deployments if application else {}
    only = deployment_name(settings) if len(settings.models) == 1 else None
    held = 0
    for name, engine in engines(settings).items():
        deployment = deployments.get(ONLY_DEPLOYMENT if name == only else name)
        states = deployment.replica_states if deployment else {}
        held += engine.gpus * sum(number for state, number in states.items() if state != "STOPPING")
    return held


def _needed_gpus(settings: Settings, following: Settings) -> int:
    """GPUs of the versions that are to take over, beside those of what is served."""
    served = engines(settings)
    return _num_gpus(engine for name, engine in engines(following).items() if engine != served.get(name))


def _num_gpus(engines: Iterable[Settings]) -> int:
    return sum(engine.gpus * max(1, engine.replicas.min) for engine in engines)


def _spare_gpus() -> int:
    import ray

    return int(ray.available_resources().get("GPU", 0))


def _check_demands(purpose: str, engines: Iterable[Settings]) -> None:
    """Raises ClusterError where the cluster has, and can add, too little for these engines."""
    demanded = demands(engines)
    for names, resources in demanded:
        resources.check(f"{purpose} {names}")
    if len(demanded) > 1:  # each size may fit alone
        check_together(f"{purpose} {', '.join(names for names, _ in demanded)}", [each for _, each in demanded])


def demands(engines: Iterable[Settings]) -> list[tuple[str, Resources]]:
    """What the engines of a server on a cluster reserve, with their names; alike ones as a sum: each of two that fit
    alone may have no room beside the other."""
    alike: dict[tuple[int, int], list[Settings]] = {}
    for engine in engines:
        each = (1, 1) if engine.gpus else (engine.threads or CLUSTER_THREADS, 0)
        alike.setdefault(each, []).append(engine)
    return [
        (", ".join(dict.fromkeys(engine.name for engine in group)),
         Resources(sum(max(1, engine.gpus) * max(1, engine.replicas.min) for engine in group), *each))
        for each, group in alike.items()
    ]  # fmt: skip


def check_gpus(settings: Settings) -> None:
    """Raises UserError where the machine has too few GPUs, ClusterError where the cluster has and can add none: Ray
    would wait for them for ever."""
    import ray

    if settings.address is not None:
        _check_demands("serve", hosted(settings))
        return
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    needed = _num_gpus(hosted(settings))
    if needed > num_gpus:
        guard = " with the guard model" if settings.guard_model else ""
        replicas = "" if needed == settings.gpus else f" for each replica, {needed} in all{guard}"
        raise UserError(
            f"gpus: {settings.gpus}{replicas}, but Ray sees {num_gpus} on this machine; expected at most {num_gpus} "
            f"(0 serves on the CPU)"
        )
