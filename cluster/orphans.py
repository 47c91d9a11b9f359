"""What a dead actor had reserved: Ray gives it back only when the whole job ends, so we do.

A placement group lives as long as the actor that made it *or* that actor's job. Where one job outlives many actors
that reserve something (trials of a sweep, a controller of Ray Train that was killed), what they leave would keep the
next one waiting for ever.
"""

from __future__ import annotations

import time
from typing import Any


def free_orphans(*, wait_s: float = 0.0) -> int:
    """Gives back the placement groups of this job whose makers are dead, and nobody else's. Returns how many.

    wait_s: how long to look for a first one, where an actor has only just died.
    Behind ray:// there is nothing to see, and nothing to do: that job ends with its client."""
    import ray
    from ray.util.client import ray as client

    end = time.monotonic() + wait_s
    while ray.is_initialized() and not client.is_connected():
        found = _free()
        if found or time.monotonic() >= end:
            return found
        time.sleep(0.1)
    return 0


def _free() -> int:
    import ray
    from ray import PlacementGroupID
    from ray._private.state import state
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    kind: Any = gcs_pb2.__dict__["PlacementGroupTableData"]  # made at import: type checkers do not see it
    found = 0
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        group = kind.FromString(raw)
        ours = group.creator_job_id.hex() == job
        by_actor = set(group.creator_actor_id) not in (set(), {255})  # all ones: made by the driver itself
        removed = group.state == kind.REMOVED
        if ours and by_actor and group.creator_actor_dead and not removed:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
            found += 1
    return found
