"""Gangs: plain classes in processes of their own, called together."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterError
from cluster.gang import Gang
from cluster.resources import Resources
from cluster.session import Session
from tests.cluster import members
from tests.cluster.conftest import wait_until

NOTHING = Resources(cpus_per_worker=0)


@pytest.fixture(scope="module")
def pair(session: Session):
    with Gang(members.Member, 2, resources=Resources(threads=3), name="pair", env={"EXTRA": "yes"}, factor=10) as gang:
        yield gang


def test_each_member_knows_its_rank_before_its_module_is_imported(pair: Gang):
    first, second = pair.call("facts", deadline_s=60)
    assert (first["rank"], first["world"], second["rank"], second["world"]) == (0, 2, 1, 2)
    port = first["seen"].pop("MASTER_PORT")
    assert second["seen"].pop("MASTER_PORT") == port and int(port) > 1023
    assert first["seen"] == {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "3", "EXTRA": "yes"
    }  # fmt: skip
    assert (second["seen"]["RANK"], second["seen"]["LOCAL_RANK"]) == ("1", "1")
    assert len({first["pid"], second["pid"], os.getpid()}) == 3


def test_arguments_are_shared_or_per_rank(pair: Gang):
    assert pair.call("times", 3, 1, deadline_s=60) == [31, 31]
    assert pair.call("times", 1, per_rank=[1, 2], deadline_s=60, minus=5) == [6, 16]
    with pytest.raises(ValueError, match="3 values for 2 members"):
        pair.call("times", per_rank=[1, 2, 3], deadline_s=60)


def test_what_is_sent_at_once_is_done_in_its_order(pair: Gang, tmp_path: Path):
    gate = tmp_path / "open"
    first, second = pair.send("wait_for", gate), pair.send("times", 3, 1)  # neither waits for a reply: the gate is shut
    with pytest.raises(ClusterError, match="did not reply to times within 1 s"):
        pair.collect(second, deadline_s=1)
    gate.touch()
    assert pair.collect(second, deadline_s=60) == [31, 31]
    assert pair.collect(first, deadline_s=60) == ["open", "open"]


def test_members_meet_in_a_process_group(pair: Gang):
    assert pair.call("all_reduce", deadline_s=120) == [3.0, 3.0]


def test_an_exception_of_a_method_comes_back_as_itself_and_the_gang_goes_on(pair: Gang):
    with pytest.raises(members.Mistake, match=r"^rank 1 was told to") as caught:
        pair.call("fail", 1, deadline_s=60)
    assert type(caught.value) is members.Mistake
    assert pair.call("fail", 7, deadline_s=60) == [0, 1]


def test_an_exception_that_does_not_travel_still_tells_what_it_was(pair: Gang):
    with pytest.raises(RuntimeError, match="Odd: left") as caught:
        pair.call("fail_oddly", deadline_s=60)
    assert "raised by rank 0" in caught.value.__notes__[0]
    assert pair.call("times", 3, 1, deadline_s=60) == [31, 31]


def test_a_deadline_names_who_is_late(session: Session):
    with Gang("tests.cluster.members:Member", 2, resources=NOTHING, name="late") as gang:
        begin = time.monotonic()
        with pytest.raises(
            ClusterError, match=r"gang late: rank 1 on .* \(127\.0\.0\.1\) did not reply to sleep within 5 s"
        ):
            gang.call("sleep", per_rank=[0, 600], deadline_s=5)
        assert time.monotonic() - begin < 60


@pytest.mark.chaos
def test_a_dead_member_is_named_though_the_others_only_lost_a_connection(session: Session):
    with Gang(members.Member, 2, resources=NOTHING, name="lossy") as gang:
        first = gang.call("facts", deadline_s=60)[0]["pid"]
        with pytest.raises(ClusterError, match=r"gang lossy: rank 1 on .* died in all_reduce_but after .* s .*Logs: "):
            gang.call("all_reduce_but", 1, deadline_s=120)
    wait_until(lambda: ended(first), within_s=60)  # closed: the other member ends too
    with pytest.raises(ClusterError, match="gang lossy: closed, cannot facts"):
        gang.call("facts", deadline_s=1)


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_an_exception_of_the_constructor_comes_back_as_itself(pair: Gang):
    import ray

    wait_until(lambda: ray.available_resources().get("CPU") == 4 - pair.size)  # Ray hears of changes a moment later
    with pytest.raises(members.Mistake, match="factor: -1; expected 0 or more"):
        Gang(members.Member, 1, resources=Resources(), name="wrong", factor=-1)
    wait_until(lambda: ray.available_resources().get("CPU") == 4 - pair.size, within_s=60)  # all is given back


def test_a_gang_that_never_fits_is_refused(session: Session):
    begin = time.monotonic()
    with pytest.raises(
        ClusterError, match=r"gang big: asks for 2 x \{3 CPU\}; the cluster has 1 node \(.*4 CPU.*room for 1"
    ):
        Gang(members.Member, 2, resources=Resources(cpus_per_worker=3), name="big")
    assert time.monotonic() - begin < 60  # a gang that may come to fit is waited for 900 s
