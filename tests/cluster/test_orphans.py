"""What a dead actor had reserved is given back while its job lives on; what others hold stays."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.orphans import free_orphans


class Maker:
    """Reserves a CPU and holds it."""

    def reserve(self) -> bool:
        self.group = placement_group([{"CPU": 1}])
        return self.group.wait(60)


def test_only_what_dead_actors_reserved_is_given_back(session) -> None:
    actor: Any = ray.remote(num_cpus=0)(Maker)
    dead, alive = actor.remote(), actor.remote()
    assert ray.get([dead.reserve.remote(), alive.reserve.remote()]) == [True, True]
    own = placement_group([{"CPU": 1}])
    assert own.wait(60)
    assert free_orphans() == 0
    held = cpus_free()

    ray.kill(dead)
    assert free_orphans(wait_s=20) == 1
    wait_until_free(held + 1)
    assert free_orphans() == 0
    remove_placement_group(own)
    ray.kill(alive)
    assert free_orphans(wait_s=20) == 1


def cpus_free() -> float:
    return ray.available_resources().get("CPU", 0.0)


def wait_until_free(cpus: float) -> None:
    deadline = time.monotonic() + 20
    while cpus_free() != cpus:
        assert time.monotonic() < deadline, cpus_free()
        time.sleep(0.1)
