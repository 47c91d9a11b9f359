"""cluster/orphans.py: what a dead actor had reserved is freed while its job lives on; what others hold stays."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.orphans import free_orphans
from cluster.session import Session
from tests.runs import wait_until


class Creator:
    """Reserves a CPU and holds it."""

    def reserve(self) -> bool:
        self.group = placement_group([{"CPU": 1}])
        return self.group.wait(60)


def test_only_placement_groups_of_dead_actors_are_removed(session: Session) -> None:
    actor: Any = ray.remote(num_cpus=0)(Creator)
    dead, alive = actor.remote(), actor.remote()
    assert ray.get([dead.reserve.remote(), alive.reserve.remote()]) == [True, True]
    driver_group = placement_group([{"CPU": 1}])
    assert driver_group.wait(60)
    wait_until(lambda: free_cpus() == 1)  # of 4; Ray learns of changes a moment later
    assert free_orphans() == 0

    ray.kill(dead)
    assert free_orphans(wait_s=60) == 1
    wait_until(lambda: free_cpus() == 2)
    assert free_orphans() == 0
    remove_placement_group(driver_group)
    ray.kill(alive)
    assert free_orphans(wait_s=60) == 1


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)
