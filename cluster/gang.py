"""Gang: N instances of a plain class, each in a separate process, whose methods are called on all at once.

    with Gang(Learner, 2, resources=Resources(workers=2), name="learners", path=model) as learners:
        figures = learners.call("update", per_rank=experience.split(2), deadline_s=600)

The class needs no Ray: it is imported in its process after RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT and
the thread variables are set, so it can use torch.distributed as under torchrun. The resources of all members are
reserved at once, in one placement group. Members end with the driver.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from cluster.errors import ClusterError, MemberLost, picklable
from cluster.loading import loading
from cluster.rendezvous import group_environment, lost_peer, reserve_port
from cluster.resources import Resources
from cluster.session import log_location, notify

START_S = 900.0  # an autoscaler needs minutes; what can never fit is refused before
WATCH, WATCH_S = "watch", 10.0  # the thread that tells signs of life, and how long its answer may take
GRACE_S = 5.0  # after a lost connection: how long to wait for news of the member that died


@dataclass(frozen=True)
class PendingCall:
    """A call of a method on all members that has been sent: its name, start time and object references by rank."""

    method: str
    begin_s: float  # of time.monotonic()
    refs: list[Any]


@dataclass(frozen=True)
class _Location:
    """Where a member runs. port: reserved there; gpus: ids of the GPUs that Ray assigned to it; network: variables of
    group_environment."""

    node: str
    host: str
    address: str
    port: int
    gpus: tuple[str, ...]
    network: dict[str, str]


class Gang:
    """N members with ranks 0 … N-1. Ray must have been started.

    cls: a class, or "package.module:Class", which the driver then need not import.
    num: number of members; resources: of each member (`workers` is ignored). env: more variables for the members.
    start_s: deadline for the start of all members; a node that was lost before is waited for as long.
    kwargs go to the constructor, with `rank`, `world` and `beat` if it has such parameters. beat(): for the instance to
    call now and then in a long call; the call's deadline then counts from the last time.
    Raises ClusterError if the cluster can never hold the gang, MemberLost if a member dies, and any exception of the
    constructor.
    """

    def __init__(
        self,
        cls: type | str,
        num: int,
        *,
        resources: Resources,
        name: str,
        env: dict[str, str] | None = None,
        start_s: float = START_S,
        **kwargs: Any,
    ):
        self.name = name
        self.size = num
        self._members: list[Any] = []
        self._locations: list[_Location] = []
        self._group: Any = None
        self._resources = Resources(
            num, resources.cpus_per_worker, resources.gpus_per_worker, resources.threads, resources.memory_bytes
        )
        self._resources.check(f"gang {name}", wait_s=start_s, on_message=notify)
        from ray import cloudpickle

        try:
            self._reserve(start_s)
            self._start(env or {})
            self._locations = self._call_members("locate", [()] * num, deadline_s=start_s)
            environments = self._environments()
            # Pickled, because unpickling imports the class: that must come after the variables are set.
            spec = cls if isinstance(cls, str) else cloudpickle.dumps(cls)
            self._call_members("build", [(spec, environments[rank], kwargs) for rank in range(num)], deadline_s=start_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def call(
        self, method: str, *args: Any, per_rank: Sequence[Any] | None = None, deadline_s: float, **kwargs: Any
    ) -> list[Any]:
        """Calls a method on all members at once and returns the values by rank: `send`, then `collect`."""
        return self.collect(self.send(method, *args, per_rank=per_rank, **kwargs), deadline_s=deadline_s)

    def send(self, method: str, *args: Any, per_rank: Sequence[Any] | None = None, **kwargs: Any) -> PendingCall:
        """Starts a call of a method on all members without waiting for it. Members run calls in the order sent.

        A second call that is sent at once starts when the first one ends, without a round trip between them.
        per_rank: one value for each member, passed before `args`."""
        if per_rank is not None and len(per_rank) != self.size:
            raise ValueError(f"gang {self.name}, {method}: {len(per_rank)} values for {self.size} members")
        rank_args = [(value,) for value in per_rank] if per_rank is not None else [()] * self.size
        common = (args, kwargs)  # in each call: a separate object in Ray's store takes 3 ms to write and read
        return self._send("call", [(method, values, common) for values in rank_args], label=method)

    def close(self) -> None:
        """Ends the members and frees their resources. May be called twice."""
        import ray
        from ray.util.placement_group import remove_placement_group

        members, self._members = self._members, []
        group, self._group = self._group, None
        if not ray.is_initialized():  # the session has ended, and the members with it
            return
        for member in members:
            ray.kill(member)
        if group is not None:
            remove_placement_group(group)

    # ---- starting -----------------------------------------------------------------------------------------------

    def _reserve(self, start_s: float) -> None:
        """Reserves a placement group for all members; none if they take no resources that Ray counts."""
        from ray.util.placement_group import placement_group

        if not self._resources.bundle:
            return
        self._group = placement_group(self._resources.bundles, strategy="PACK", name=self.name)
        if not self._group.wait(start_s):
            raise ClusterError(
                f"gang {self.name}: {self.size} x {self._resources.bundle} not free within {start_s:.0f} s; other "
                f"work holds the cluster's resources. End it, or ask for less in the recipe's cluster section"
            )

    def _start(self, env: dict[str, str]) -> None:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        variables = {**self._resources.environment, **env}
        # A second thread tells signs of life while the first one works.
        actor: Any = cast(Any, ray.remote)(concurrency_groups={WATCH: 1})(Member)
        for rank in range(self.size):
            strategy = PlacementGroupSchedulingStrategy(self._group, rank) if self._group else "DEFAULT"
            options = actor.options(
                num_cpus=self._resources.cpus_per_worker,
                num_gpus=self._resources.gpus_per_worker,
                memory=self._resources.memory_bytes,
                scheduling_strategy=strategy,
                runtime_env={"env_vars": {**variables, "RANK": str(rank), "WORLD_SIZE": str(self.size)}},
                max_restarts=0,
            )
            self._members.append(options.remote())

    def _environments(self) -> list[dict[str, str]]:
        """torchrun's variables of each rank, once the locations of all members are known."""
        environments = []
        for rank, location in enumerate(self._locations):
            node_ranks = [other for other in range(self.size) if self._locations[other].node == location.node]
            variables = {
                **location.network,
                "MASTER_ADDR": self._locations[0].address,
                "MASTER_PORT": str(self._locations[0].port),
                "LOCAL_RANK": str(node_ranks.index(rank)),
                "LOCAL_WORLD_SIZE": str(len(node_ranks)),
            }
            gpus = [gpu for other in node_ranks for gpu in self._locations[other].gpus]
            if len(gpus) == len(set(gpus)) == len(node_ranks):  # a GPU each: all visible, LOCAL_RANK is the index
                variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            environments.append(variables)
        return environments

    # ---- calls --------------------------------------------------------------------------------------------------

    def _call_members(self, method: str, arguments: list[tuple[Any, ...]], *, deadline_s: float) -> list[Any]:
        """Calls a method of Member, with arguments by rank, and returns the values by rank."""
        return self.collect(self._send(method, arguments), deadline_s=deadline_s)

    def _send(self, method: str, arguments: list[tuple[Any, ...]], *, label: str = "") -> PendingCall:
        """Starts a call of a method of Member. label: its name in messages, by default the method's."""
        if not self._members:
            raise ClusterError(f"gang {self.name}: closed, cannot {label or method}; make a new one")
        begin_s = time.monotonic()
        refs = [getattr(member, method).remote(*args) for member, args in zip(self._members, arguments, strict=True)]
        return PendingCall(label or method, begin_s, refs)

    def collect(self, call: PendingCall, *, deadline_s: float) -> list[Any]:
        """Waits for a call and returns its values by rank.

        deadline_s: seconds from now, and from the last sign of life of any member that works, where their class gives
        such (`beat`).
        Raises MemberLost, naming rank, node, method and seconds, if a member has died or has not replied by the
        deadline (then close the gang: the member may still be running); an exception of the method as it was raised,
        that of the lowest rank of those that have failed by then."""
        import ray
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        values: dict[int, Any] = {}
        errors: dict[int, BaseException] = {}
        end = time.monotonic() + deadline_s
        while waiting := [rank for rank in range(self.size) if rank not in values and rank not in errors]:
            ready, _ = ray.wait([call.refs[rank] for rank in waiting], timeout=max(0.0, end - time.monotonic()))
            if not ready:
                if errors:
                    break
                silent_s = self._silent_s(waiting)
                if late := _late_ranks(silent_s, deadline_s):
                    waiting = late
                    break
                end = time.monotonic() + deadline_s - min(silent_s.values())
                continue
            rank = call.refs.index(ready[0])
            try:
                values[rank] = ray.get(ready[0])
            except (RayActorError, ObjectLostError) as error:  # it died before it replied, or before all had arrived
                raise self._died(rank, call.method, time.monotonic() - call.begin_s, error) from error
            except RayTaskError as error:
                errors[rank] = error.cause
                grace_s = GRACE_S if lost_peer(error.cause) else 0.0  # then the death of a member is the cause
                end = min(end, time.monotonic() + grace_s)
        if errors:
            raise _first(errors)
        if waiting:
            raise self._late(waiting, call.method, deadline_s)
        return [values[rank] for rank in range(self.size)]

    def _silent_s(self, ranks: list[int]) -> dict[int, float]:
        """Seconds since each member's last sign of life; infinity where it does not even say that."""
        import ray
        from ray.exceptions import RayError

        refs = {rank: self._members[rank].silent_s.options(concurrency_group=WATCH).remote() for rank in ranks}
        ray.wait(list(refs.values()), num_returns=len(refs), timeout=WATCH_S)
        silent_s: dict[int, float] = {}
        for rank, ref in refs.items():
            try:
                silent_s[rank] = ray.get(ref, timeout=0)
            except RayError:  # no answer in time, or dead
                silent_s[rank] = float("inf")
        return silent_s

    def _died(self, rank: int, method: str, seconds: float, error: BaseException) -> MemberLost:
        reason = " ".join(str(error).split())[:300]
        return MemberLost(
            f"gang {self.name}: rank {rank} on {self._where(rank)} died in {method} after {seconds:.1f} s ({reason}); "
            f"expected a reply. Logs: {log_location()}. Look there, and "
            f"for a lack of memory on that node; then run again"
        )

    def _late(self, ranks: list[int], method: str, deadline_s: float) -> MemberLost:
        who = ", ".join(f"rank {rank} on {self._where(rank)}" for rank in ranks)
        return MemberLost(
            f"gang {self.name}: {who} did not reply to {method} within {deadline_s:g} s, nor gave a sign of life. "
            f"Logs: {log_location()}. Look there for what it is doing, then run again"
        )

    def _where(self, rank: int) -> str:
        """The host and address of a member, for messages."""
        if rank >= len(self._locations):
            return "a node not known yet"
        return f"{self._locations[rank].host} ({self._locations[rank].address})"


def _late_ranks(silent_s: dict[int, float], deadline_s: float) -> list[int]:
    """The members that do not even answer; where all answer but none has given a sign of life, all that have not.

    One that is silent while another works may wait for it in a collective operation."""
    lost = [rank for rank, silent in silent_s.items() if silent == float("inf")]
    if lost or min(silent_s.values(), default=0.0) < deadline_s:
        return lost
    return list(silent_s)


def _first(errors: dict[int, BaseException]) -> BaseException:
    """The exception of the lowest rank, but one that only means that another member was lost comes last."""
    rank = min(errors, key=lambda rank: (lost_peer(errors[rank]), rank))
    errors[rank].add_note(f"raised by rank {rank}")
    return errors[rank]


class Member:
    """The Ray actor that holds one instance of the class."""

    def __init__(self) -> None:
        self._instance: Any = None
        self._reserved: Any = None
        self._sign_s = time.monotonic()  # time of the last sign of life

    def beat(self) -> None:
        """A sign of life: work goes on. For the instance, as often as it likes."""
        self._sign_s = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self._sign_s

    def locate(self) -> _Location:
        """Reserves a port and returns where this member runs."""
        import socket

        import ray

        context = ray.get_runtime_context()
        address = ray.util.get_node_ip_address()
        gpus = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", []))
        self._reserved = reserve_port(address)  # rank 0's becomes MASTER_PORT
        port = self._reserved.getsockname()[1]
        network = group_environment(address)
        return _Location(context.get_node_id(), socket.gethostname(), address, port, gpus, network)

    def build(self, spec: str | bytes, environment: dict[str, str], kwargs: dict[str, Any]) -> None:
        """Sets the variables, then imports the class and makes the instance. spec: module:Class, or a pickled class."""
        self.beat()
        os.environ.update(environment)
        with loading():
            if isinstance(spec, bytes):
                cls = pickle.loads(spec)
            else:
                module, _, name = spec.partition(":")
                cls = getattr(importlib.import_module(module), name)
            group = {"rank": int(os.environ["RANK"]), "world": int(os.environ["WORLD_SIZE"]), "beat": self.beat}
            parameters = inspect.signature(cls).parameters
            self._instance = cls(**{key: value for key, value in group.items() if key in parameters}, **kwargs)

    def call(self, method: str, rank_args: tuple[Any, ...], common: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        """Calls a method of the instance. common: the positional and keyword arguments of all ranks."""
        args, kwargs = common
        self.beat()
        try:
            return getattr(self._instance, method)(*rank_args, *args, **kwargs)
        except Exception as error:
            portable = picklable(error)
            if portable is error:
                raise
            raise portable from None
