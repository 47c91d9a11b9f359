"""What is only missing because a node was lost is waited for; what never fitted is refused at once."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from cluster import nodes, resources
from cluster.errors import ClusterError
from cluster.nodes import Node
from cluster.resources import Resources

HEAD = Node("1", "head", "10.77.0.11", 2, 0, 8_000_000_000)
WORKER = Node("2", "worker", "10.77.0.12", 2, 0, 8_000_000_000)
AGAIN = Node("3", "worker", "10.77.0.12", 2, 0, 8_000_000_000)
ONE_A_NODE = Resources(workers=2, cpus_per_worker=2)


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    nodes.forget()
    monkeypatch.setattr(resources, "possible", list)
    ticks = itertools.count()  # a clock of its own, a second a look: no test depends on how fast it runs
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)), sleep=lambda seconds: None)
    monkeypatch.setattr(resources, "time", clock)
    return []


def cluster(monkeypatch: pytest.MonkeyPatch, *moments: list[Node]) -> None:
    """The nodes that answer, each time that is looked; the last stays."""
    coming = itertools.chain(moments, itertools.repeat(moments[-1]))

    def alive() -> list[Node]:
        found = next(coming)
        nodes._seen.update({node.address: node for node in found})
        return found

    monkeypatch.setattr(resources, "alive", alive)


def test_a_lost_node_is_waited_for_and_one_line_says_so(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    cluster(monkeypatch, [HEAD, WORKER], [HEAD], [HEAD], [HEAD], [HEAD, AGAIN])
    ONE_A_NODE.check("gang of two", wait_s=60, on_message=told.append)
    assert told == []  # all are there
    ONE_A_NODE.check("gang of two", wait_s=60, on_message=told.append)
    assert told == ["gang of two: waits up to 60 s for 1 node (worker: {2 CPU, 8.0 GB memory}) that was lost, "
                    "or others in its place"]  # fmt: skip


def test_another_node_in_its_place_will_do(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    other = Node("4", "other", "10.77.0.13", 4, 0, 8_000_000_000)
    cluster(monkeypatch, [HEAD, WORKER], [HEAD], [HEAD], [HEAD, other])
    ONE_A_NODE.check("gang of two")
    ONE_A_NODE.check("gang of two", wait_s=60, on_message=told.append)
    assert len(told) == 1


def test_one_that_never_comes_is_named_at_the_deadline(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    cluster(monkeypatch, [HEAD, WORKER], [HEAD])
    ONE_A_NODE.check("gang of two")
    with pytest.raises(ClusterError, match=r"1 node \(head.*room for 1, and lost 1 node \(worker: .*\)\. Ask for less"):
        ONE_A_NODE.check("gang of two", wait_s=5, on_message=told.append)
    assert len(told) == 1


def test_what_never_fitted_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    cluster(monkeypatch, [HEAD, WORKER], [HEAD])
    ONE_A_NODE.check("gang of two")
    with pytest.raises(ClusterError, match="asks for 3 x"):
        Resources(workers=3, cpus_per_worker=2).check("gang of three", wait_s=600, on_message=told.append)
    assert told == []
