"""Gang: N copies of any plain class, each in a process of its own, called together.

    with Gang(Learner, 2, resources=Resources(workers=2), name="learners", path=model) as learners:
        figures = learners.call("update", per_rank=experience.split(2), deadline_s=600)

The class knows nothing of Ray: it is imported in its process after RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT and the thread variables are set, so it can use torch.distributed as under torchrun. All members are
reserved at once, in one placement group, and die with the driver.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster import nodes
from cluster.errors import ClusterError, MemberLost, travelling
from cluster.rendezvous import group_environment, lost_peer, reserve_port
from cluster.resources import Resources
from cluster.session import log_place, tell

START_S = 900.0  # an autoscaler needs minutes; what can never fit is refused before
GRACE_S = 5.0  # after a lost connection: how long to look for the member that died


@dataclass(frozen=True)
class Sent:
    """A message to every member: what was asked, when (seconds of a clock), and where the answers by rank will be."""

    method: str
    begin: float
    refs: list[Any]


@dataclass(frozen=True)
class _Place:
    """Where a member is."""

    node: str
    host: str
    address: str
    port: int
    gpus: tuple[str, ...]


class Gang:
    """N members with ranks 0 … N-1. Ray must have been started.

    cls: a class, or "package.module:Class", which the driver then need not import.
    num: how many; resources: what each takes (its `workers` is not read). env: more variables for the members.
    start_s: within which all must stand; a node that was lost before is waited for as long.
    kwargs go to the constructor, with `rank` and `world` if it has such parameters.
    Raises ClusterError when the cluster can never hold the gang, MemberLost when a member dies, and what the
    constructor raised.
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
        self._places: list[_Place] = []
        self._group: Any = None
        self._resources = Resources(
            num, resources.cpus_per_worker, resources.gpus_per_worker, resources.threads, resources.memory_bytes
        )
        self._resources.check(f"gang {name}", wait_s=start_s, say=tell)
        from ray import cloudpickle

        try:
            self._reserve(start_s)
            self._start(env or {})
            self._places = self._ask("place", [()] * num, deadline_s=start_s)
            environments = self._environments()
            which = (
                cls if isinstance(cls, str) else cloudpickle.dumps(cls)
            )  # bytes: imported there, after the variables
            self._ask("build", [(which, environments[rank], kwargs) for rank in range(num)], deadline_s=start_s)
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
        """Calls a method on all members at once and returns their values by rank: `send`, then `collect`."""
        return self.collect(self.send(method, *args, per_rank=per_rank, **kwargs), deadline_s=deadline_s)

    def send(self, method: str, *args: Any, per_rank: Sequence[Any] | None = None, **kwargs: Any) -> Sent:
        """Asks all members to call a method, and does not wait. Members do what they were sent in its order, so a
        second message sent at once begins where the first one ends, with no way there and back between the two.

        per_rank: one value for each member, passed before `args`."""
        if per_rank is not None and len(per_rank) != self.size:
            raise ValueError(f"gang {self.name}, {method}: {len(per_rank)} values for {self.size} members")
        own = [(value,) for value in per_rank] if per_rank is not None else [()] * self.size
        common = (args, kwargs)  # within each message: an object of its own in Ray's store takes 3 ms to write and read
        return self._send("call", [(method, part, common) for part in own], label=method)

    def close(self) -> None:
        """Ends the members and gives back what was reserved. May be called twice."""
        import ray
        from ray.util.placement_group import remove_placement_group

        members, self._members = self._members, []
        group, self._group = self._group, None
        if not ray.is_initialized():  # the session is over and took the members along
            return
        for member in members:
            ray.kill(member)
        if group is not None:
            remove_placement_group(group)

    # ---- starting -----------------------------------------------------------------------------------------------

    def _reserve(self, start_s: float) -> None:
        """One placement group for all; none when the members take nothing that Ray counts."""
        from ray.util.placement_group import placement_group

        if not self._resources.bundle:
            return
        self._group = placement_group(self._resources.bundles, strategy="PACK", name=self.name)
        if not self._group.wait(start_s):
            raise ClusterError(
                f"gang {self.name}: {self.size} x {self._resources.bundle} not free within {start_s:.0f} s; something "
                f"else holds the cluster's resources. End it, or ask for less in the recipe's cluster section"
            )

    def _start(self, env: dict[str, str]) -> None:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        loopback = [node.address for node in nodes.alive()] == ["127.0.0.1"]
        variables = {**self._resources.environment, **group_environment(loopback=loopback), **env}
        actor = ray.remote(Member)
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
        """torchrun's variables for each rank, now that it is known which node each is on."""
        found = []
        for rank, place in enumerate(self._places):
            mates = [other for other in range(self.size) if self._places[other].node == place.node]
            variables = {
                "MASTER_ADDR": self._places[0].address,
                "MASTER_PORT": str(self._places[0].port),
                "LOCAL_RANK": str(mates.index(rank)),
                "LOCAL_WORLD_SIZE": str(len(mates)),
            }
            gpus = [gpu for mate in mates for gpu in self._places[mate].gpus]
            if len(gpus) == len(set(gpus)) == len(mates):  # one whole GPU each: all visible, LOCAL_RANK is the index
                variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            found.append(variables)
        return found

    # ---- asking -------------------------------------------------------------------------------------------------

    def _ask(self, verb: str, arguments: list[tuple[Any, ...]], *, deadline_s: float) -> list[Any]:
        return self.collect(self._send(verb, arguments), deadline_s=deadline_s)

    def _send(self, verb: str, arguments: list[tuple[Any, ...]], *, label: str = "") -> Sent:
        if not self._members:
            raise ClusterError(f"gang {self.name}: closed, cannot {label or verb}; make a new one")
        begin = time.monotonic()
        refs = [getattr(member, verb).remote(*part) for member, part in zip(self._members, arguments, strict=True)]
        return Sent(label or verb, begin, refs)

    def collect(self, sent: Sent, *, deadline_s: float) -> list[Any]:
        """The answers to a message, by rank; deadline_s: from now.

        Raises MemberLost naming rank, node, method and seconds when a member is dead or has not answered by the
        deadline (close the gang then: it may still be at it); an exception of the method as it was raised, of the
        lowest rank if several failed."""
        import ray
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        values: dict[int, Any] = {}
        errors: dict[int, BaseException] = {}
        end = time.monotonic() + deadline_s
        while waiting := [rank for rank in range(self.size) if rank not in values and rank not in errors]:
            ready, _ = ray.wait([sent.refs[rank] for rank in waiting], timeout=max(0.0, end - time.monotonic()))
            if not ready:
                break
            rank = sent.refs.index(ready[0])
            try:
                values[rank] = ray.get(ready[0])
            except (RayActorError, ObjectLostError) as error:  # dead before it answered, or before all had arrived
                raise self._dead(rank, sent.method, time.monotonic() - sent.begin, error) from error
            except RayTaskError as error:
                errors[rank] = error.cause
                grace = GRACE_S if lost_peer(error.cause) else 0.0  # then somebody's death will be the news
                end = min(end, time.monotonic() + grace)
        if errors:
            raise _first(errors)
        if waiting:
            raise self._late(waiting, sent.method, deadline_s)
        return [values[rank] for rank in range(self.size)]

    def _dead(self, rank: int, method: str, seconds: float, error: BaseException) -> MemberLost:
        reason = " ".join(str(error).split())[:300]
        return MemberLost(
            f"gang {self.name}: rank {rank} on {self._where(rank)} died in {method} after {seconds:.1f} s ({reason}); "
            f"expected an answer. Logs: {log_place()}. Look there and for a lack of memory on that node, then run again"
        )

    def _late(self, ranks: list[int], method: str, deadline_s: float) -> MemberLost:
        who = ", ".join(f"rank {rank} on {self._where(rank)}" for rank in ranks)
        return MemberLost(
            f"gang {self.name}: {who} did not answer {method} within {deadline_s:g} s. Logs: {log_place()}. "
            f"Look there for what it is doing, then run again"
        )

    def _where(self, rank: int) -> str:
        if rank >= len(self._places):
            return "a node not known yet"
        return f"{self._places[rank].host} ({self._places[rank].address})"


def _first(errors: dict[int, BaseException]) -> BaseException:
    """The lowest rank's exception, but one that only says that another was lost comes last."""
    rank = min(errors, key=lambda rank: (lost_peer(errors[rank]), rank))
    errors[rank].add_note(f"raised by rank {rank}")
    return errors[rank]


class Member:
    """The process around one copy of the class."""

    def __init__(self) -> None:
        self._copy: Any = None
        self._reserved: Any = None

    def place(self) -> _Place:
        import socket

        import ray

        context = ray.get_runtime_context()
        address = ray.util.get_node_ip_address()
        gpus = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", []))
        self._reserved = reserve_port(address)  # rank 0's becomes MASTER_PORT
        port = self._reserved.getsockname()[1]
        return _Place(context.get_node_id(), socket.gethostname(), address, port, gpus)

    def build(self, which: str | bytes, environment: dict[str, str], kwargs: dict[str, Any]) -> None:
        """Sets the variables, then imports the class and makes its one copy here."""
        os.environ.update(environment)
        if isinstance(which, bytes):
            cls = pickle.loads(which)
        else:
            module, _, name = which.partition(":")
            cls = getattr(importlib.import_module(module), name)
        facts = {"rank": int(os.environ["RANK"]), "world": int(os.environ["WORLD_SIZE"])}
        known = inspect.signature(cls).parameters
        self._copy = cls(**{key: value for key, value in facts.items() if key in known}, **kwargs)

    def call(self, method: str, own: tuple[Any, ...], common: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        args, kwargs = common
        try:
            return getattr(self._copy, method)(*own, *args, **kwargs)
        except Exception as error:
            if (plain := travelling(error)) is error:
                raise
            raise plain from None
