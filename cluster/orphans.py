"""Removes placement groups whose creator is dead: Ray itself removes them only when the whole job ends.

A placement group lives as long as the actor that created it *or* that actor's job. Where one job outlives many actors
that reserve resources (trials of a sweep, a controller of Ray Train that was killed), the next one would wait forever
for what they still hold.
"""

from __future__ import annotations

import time
from typing import Any


def free_orphans(*, wait_s: float = 0.0) -> int:
    """Removes this job's placement groups whose creators are dead, and no others. Returns their number.

    wait_s: how long to wait for a first one, if an actor has only just died.
    Does nothing behind ray://, where a client cannot see them: they go when the client's job ends."""
    import ray
    from ray.util.client import ray as client

    end = time.monotonic() + wait_s
    while ray.is_initialized() and not client.is_connected():
        num_freed = _free_once()
        if num_freed or time.monotonic() >= end:
            return num_freed
        time.sleep(0.1)
    return 0


def _free_once() -> int:
    import ray
    from ray import PlacementGroupID
    from ray._private.state import state
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    message: Any = gcs_pb2.__dict__["PlacementGroupTableData"]  # created at import: type checkers do not see it
    num_freed = 0
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        group = message.FromString(raw)
        of_this_job = group.creator_job_id.hex() == job
        by_actor = set(group.creator_actor_id) not in (set(), {255})  # all ones: created by the driver itself
        removed = group.state == message.REMOVED
        if of_this_job and by_actor and group.creator_actor_dead and not removed:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
            num_freed += 1
    return num_freed
