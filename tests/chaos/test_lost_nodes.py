"""Resources that are missing because a node was lost are waited for; a request that never fitted is refused at once."""

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
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects messages to the user. The autoscaler adds no nodes, and a clock advances by a second at each look."""
    nodes.forget()
    monkeypatch.setattr(resources, "possible", list)
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)), sleep=lambda seconds: None)
    monkeypatch.setattr(resources, "time", clock)
    return []


def set_alive(monkeypatch: pytest.MonkeyPatch, *states: list[Node]) -> None:
    """Sets the nodes that are alive at each look; the last state stays."""
    upcoming = itertools.chain(states, itertools.repeat(states[-1]))

    def alive() -> list[Node]:
        present = next(upcoming)
        nodes._seen.update({node.address: node for node in present})
        return present

    monkeypatch.setattr(resources, "alive", alive)


def test_a_lost_node_is_waited_for_with_one_message(monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> None:
    set_alive(monkeypatch, [HEAD, WORKER], [HEAD], [HEAD], [HEAD], [HEAD, AGAIN])
    ONE_A_NODE.check("gang of two", wait_s=60, on_message=messages.append)
    assert messages == []  # all are there
    ONE_A_NODE.check("gang of two", wait_s=60, on_message=messages.append)
    assert messages == ["gang of two: waits up to 60 s for 1 node (worker: {2 CPU, 8.0 GB memory}) that was lost, "
                    "or others in its place"]  # fmt: skip


def test_a_replacement_ends_the_wait(monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> None:
    other = Node("4", "other", "10.77.0.13", 4, 0, 8_000_000_000)
    set_alive(monkeypatch, [HEAD, WORKER], [HEAD], [HEAD], [HEAD, other])
    ONE_A_NODE.check("gang of two")
    ONE_A_NODE.check("gang of two", wait_s=60, on_message=messages.append)
    assert len(messages) == 1


def test_a_node_that_stays_lost_is_named_at_the_deadline(monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> None:
    set_alive(monkeypatch, [HEAD, WORKER], [HEAD])
    ONE_A_NODE.check("gang of two")
    with pytest.raises(ClusterError, match=r"1 node \(head.*room for 1, and lost 1 node \(worker: .*\)\. Ask for less"):
        ONE_A_NODE.check("gang of two", wait_s=5, on_message=messages.append)
    assert len(messages) == 1


def test_a_request_that_never_fitted_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> None:
    set_alive(monkeypatch, [HEAD, WORKER], [HEAD])
    ONE_A_NODE.check("gang of two")
    with pytest.raises(ClusterError, match="asks for 3 x"):
        Resources(workers=3, cpus_per_worker=2).check("gang of three", wait_s=600, on_message=messages.append)
    assert messages == []
