"""Which engine a task calls: one that no other batch holds, and after its death the one that it held."""

from __future__ import annotations

import pytest
import ray

from cluster.errors import ClusterError
from cluster.gang import Gang
from cluster.resources import Resources
from cluster.session import Session
from pipelines.writers.leases import Engines, Leases
from tests.cluster import members

NOTHING = Resources(cpus_per_worker=0)


def test_a_batch_gets_an_engine_that_is_free() -> None:
    leases = Leases(3)
    assert [leases.take(batch) for batch in (0, 1, 5)] == [0, 1, 2]
    assert leases.take(6) is None
    leases.give_back(1)
    assert leases.take(6) == 1, "the only one, though its own by its number is another"
    for batch in (0, 5, 6):
        leases.give_back(batch)
    assert [leases.take(batch) for batch in (4, 7)] == [1, 2]


def test_a_task_in_place_of_one_that_died_gets_its_engine() -> None:
    """No number is given out twice, nor lost, whatever died."""
    leases = Leases(2)
    assert (leases.take(0), leases.take(2)) == (0, 1)
    assert leases.take(2) == 1, "the task of batch 2 died, and runs again"
    assert leases.take(1) is None
    leases.give_back(2)
    assert (leases.take(1), leases.take(3)) == (1, None)


def test_tasks_hold_engines_and_a_lost_record_of_them_is_a_cluster_error(session: Session) -> None:
    session.start()
    gangs = [Gang(members.Member, 1, resources=NOTHING, name=name, factor=1) for name in ("a", "b")]
    try:
        with Engines.open(gangs[:1]) as one, one.one(7) as only:
            assert one.leases is None and only.name == "a"
        with Engines.open(gangs) as engines:
            with engines.one(0) as first, engines.one(2) as second:
                assert (first.name, second.name) == ("a", "b")
            with engines.one(1) as second:
                assert second.name == "b"
            assert engines.leases is not None
            ray.kill(engines.leases._members[0])
            with (
                pytest.raises(ClusterError, match=r"gang leases of engines: rank 0 on .* died in (take|give_back)"),
                engines.one(0),
            ):
                pass
    finally:
        for gang in gangs:
            gang.close()
