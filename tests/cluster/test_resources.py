"""cluster/resources.py: requests in Ray's terms, and whether the cluster can ever fulfil them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from cluster import nodes
from cluster.errors import ClusterError
from cluster.nodes import Node, NodeType
from cluster.resources import Resources, check_together, fit_together
from cluster.session import Session


def node(cpus: float, gpus: float = 0.0, memory_bytes: int = 64_000_000_000) -> Node:
    return Node("id", "host", "10.0.0.1", cpus, gpus, memory_bytes)


def test_a_bundle_holds_only_resources_that_ray_counts() -> None:
    assert Resources(workers=2, cpus_per_worker=1.5).bundles == [{"CPU": 1.5}, {"CPU": 1.5}]
    assert Resources(gpus_per_worker=1, memory_bytes=5).bundle == {"CPU": 1, "GPU": 1, "memory": 5}
    assert Resources(cpus_per_worker=0).bundle == {}
    assert Resources(threads=3).environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("resources", "present", "addable", "capacity"),
    [
        (Resources(cpus_per_worker=1), [node(4)], [], 4),
        (Resources(cpus_per_worker=3), [node(4), node(4)], [], 2),  # a worker does not span nodes
        (Resources(cpus_per_worker=0.1), [node(1)], [], 10),
        (Resources(gpus_per_worker=1), [node(4)], [], 0),
        (Resources(cpus_per_worker=4, gpus_per_worker=1), [node(16, gpus=2)], [], 2),
        (Resources(gpus_per_worker=1), [node(4)], [NodeType("gpu", {"CPU": 8, "GPU": 1}, 3)], 3),
        (Resources(memory_bytes=40_000_000_000), [node(8)], [], 1),
        (Resources(workers=5, cpus_per_worker=0), [node(1)], [], 5),
    ],
)
def test_capacity_counts_whole_workers(
    resources: Resources, present: list[Node], addable: list[NodeType], capacity: int
) -> None:
    assert resources.capacity(present, addable) == capacity


def brute_force(bundles: list[dict[str, float]], rooms: list[dict[str, float]]) -> bool:
    """Whether any of all ways to place the bundles has room for them."""
    for places in itertools.product(range(len(rooms)), repeat=len(bundles)):
        free = [dict(room) for room in rooms]
        for bundle, place in zip(bundles, places, strict=True):
            free[place] = {name: free[place].get(name, 0) - bundle.get(name, 0) for name in {*free[place], *bundle}}
        if all(amount >= 0 for room in free for amount in room.values()):
            return True
    return False


def test_bundles_of_several_sizes_fit_as_all_ways_to_place_them_say() -> None:
    choose, fits = random.Random(5), list[bool]()
    for _ in range(200):
        rooms = [{"CPU": float(choose.randint(1, 8)), "GPU": float(choose.randint(0, 2))} for _ in range(3)]
        bundles = [{"CPU": 1.0, "GPU": 1.0} if choose.random() < 0.3 else {"CPU": float(choose.randint(1, 5))}
                   for _ in range(5)]  # fmt: skip
        fits.append(fit_together(bundles, rooms))
        assert fits[-1] == brute_force(bundles, rooms), (bundles, rooms)
    assert 40 < sum(fits) < 160
    assert fit_together([{"CPU": 3.0}] * 40, [{"CPU": 4.0}] * 40), "alike rooms take no time"


def test_rooms_are_alike_where_what_nobody_asks_for_differs() -> None:
    rooms = [{"CPU": 4.0, "GPU": 0.0, "memory": 16e9 + number} for number in range(16)]
    assert not fit_together([*[{"CPU": 3.0}] * 16, {"CPU": 2.0}], rooms)
    assert fit_together([{"CPU": 3.0}] * 16, rooms)


def test_models_that_fit_alone_have_no_room_together(session: Session) -> None:
    cpus = int(sum(each.cpus for each in nodes.alive()))
    large, small = Resources(cpus_per_worker=cpus), Resources(cpus_per_worker=1)
    for each in (large, small):
        each.check("alone")
        check_together("alone", [each])
    with pytest.raises(ClusterError, match=r"serve a, b: together ask for 1 x .* no room for all of them at once"):
        check_together("serve a, b", [large, small])


def test_a_request_that_fits_is_accepted(session: Session) -> None:
    Resources(workers=4).check("four")


def test_gpus_that_are_given_back_a_moment_late_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    amounts = iter([{}, {"GPU": 1.5}, {"GPU": 2.0}, {"GPU": 4.0}])
    monkeypatch.setattr("ray.available_resources", lambda: next(amounts))
    assert nodes.free_gpus(2, wait_s=60) == 2
    assert nodes.free_gpus(8, wait_s=0) == 4, "as many as there are, after the wait"


def test_node_types_of_an_autoscaler_are_read_from_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert nodes.possible() == []
    (tmp_path / "ray_bootstrap_config.yaml").write_text(
        "head_node_type: head\nmax_workers: 5\navailable_node_types:\n"
        "  head: {resources: {CPU: 8}, node_config: {}}\n"
        "  gpu: {resources: {CPU: 8, GPU: 1}, max_workers: 2, node_config: {}}\n"
    )
    assert nodes.possible() == [NodeType("gpu", {"CPU": 8, "GPU": 1}, 2)]
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert nodes.possible() is None
