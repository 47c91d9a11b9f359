"""cluster/gang.py: instances of a plain class in separate processes, called together."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterError, MemberLost
from cluster.gang import Gang, _late_ranks
from cluster.resources import Resources
from cluster.session import Session
from tests.cluster import members
from tests.runs import wait_until

NO_RESOURCES = Resources(cpus_per_worker=0)


@pytest.fixture(scope="module")
def pair(session: Session) -> Iterator[Gang]:
    """A gang of two that holds a logical CPU each."""
    with Gang(members.Member, 2, resources=Resources(threads=3), name="pair", env={"EXTRA": "yes"}, factor=10) as gang:
        yield gang


def test_each_member_knows_its_rank_before_its_module_is_imported(pair: Gang) -> None:
    first, second = pair.call("describe", deadline_s=60)
    assert (first["rank"], first["world"], second["rank"], second["world"]) == (0, 2, 1, 2)
    port = first["seen"].pop("MASTER_PORT")
    assert second["seen"].pop("MASTER_PORT") == port and int(port) > 1023
    assert first["seen"] == {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "3", "EXTRA": "yes"
    }  # fmt: skip
    assert (second["seen"]["RANK"], second["seen"]["LOCAL_RANK"]) == ("1", "1")
    assert len({first["pid"], second["pid"], os.getpid()}) == 3


def test_arguments_are_common_or_per_rank(pair: Gang) -> None:
    assert pair.call("times", 3, 1, deadline_s=60) == [31, 31]
    assert pair.call("times", 1, per_rank=[1, 2], deadline_s=60, minus=5) == [6, 16]
    with pytest.raises(ValueError, match="3 values for 2 members"):
        pair.call("times", per_rank=[1, 2, 3], deadline_s=60)


def test_calls_that_are_sent_at_once_run_in_order(pair: Gang, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    first, second = pair.send("wait_for", gate), pair.send("times", 3, 1)  # neither waits: the gate is shut
    with pytest.raises(ClusterError, match="did not reply to times within 1 s"):
        pair.collect(second, deadline_s=1)
    gate.touch()
    assert pair.collect(second, deadline_s=60) == [31, 31]
    assert pair.collect(first, deadline_s=60) == ["open", "open"]


def test_the_deadline_of_a_call_counts_from_the_last_sign_of_life(session: Session) -> None:
    with Gang(members.Member, 2, resources=NO_RESOURCES, name="slow") as gang:
        assert gang.call("work_slowly", (), 4.0, deadline_s=3) == [0, 1]
        late = r"gang slow: rank 1 on .* did not reply to work_slowly within 3 s, nor gave a sign of life"
        with pytest.raises(MemberLost, match=late):
            gang.call("work_slowly", (1,), 4.0, deadline_s=3)


def test_who_is_late() -> None:
    assert _late_ranks({0: 1.0, 1: 700.0}, 600.0) == [], "rank 1 may wait for rank 0"
    assert _late_ranks({0: 1.0, 1: float("inf")}, 600.0) == [1], "it does not even answer"
    assert _late_ranks({0: 600.0, 1: 700.0}, 600.0) == [0, 1]


def test_members_form_a_process_group(pair: Gang) -> None:
    assert pair.call("all_reduce", deadline_s=120) == [3.0, 3.0]


def test_an_exception_of_a_method_is_raised_as_it_was_and_the_gang_stays_usable(pair: Gang) -> None:
    with pytest.raises(members.Mistake, match=r"^rank 1 fails on request") as caught:
        pair.call("fail", 1, deadline_s=60)
    assert type(caught.value) is members.Mistake
    assert pair.call("fail", 7, deadline_s=60) == [0, 1]


def test_an_exception_that_cannot_be_pickled_is_named_in_a_runtime_error(pair: Gang) -> None:
    with pytest.raises(RuntimeError, match="Unpicklable: left") as caught:
        pair.call("fail_unpicklable", deadline_s=60)
    assert re.match(r".*raised by rank [01]", caught.value.__notes__[0])  # both fail, and either may be heard first
    assert pair.call("times", 3, 1, deadline_s=60) == [31, 31]


def test_a_missed_deadline_names_the_late_member(session: Session) -> None:
    with Gang("tests.cluster.members:Member", 2, resources=NO_RESOURCES, name="late") as gang:
        begin = time.monotonic()
        with pytest.raises(
            ClusterError, match=r"gang late: rank 1 on .* \(127\.0\.0\.1\) did not reply to sleep within 5 s"
        ):
            gang.call("sleep", per_rank=[0, 600], deadline_s=5)
        assert time.monotonic() - begin < 60


@pytest.mark.chaos
def test_a_dead_member_is_named_although_the_others_lost_a_connection(session: Session) -> None:
    with Gang(members.Member, 2, resources=NO_RESOURCES, name="lossy") as gang:
        first = gang.call("describe", deadline_s=60)[0]["pid"]
        with pytest.raises(ClusterError, match=r"gang lossy: rank 1 on .* died in all_reduce_but after .* s .*Logs: "):
            gang.call("all_reduce_but", 1, deadline_s=120)
    wait_until(lambda: ended(first), within_s=60)  # closed: the other member ends too
    with pytest.raises(ClusterError, match="gang lossy: closed, cannot describe"):
        gang.call("describe", deadline_s=1)


def ended(pid: int) -> bool:
    """Whether a process has ended, whether or not its parent has collected it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_an_exception_of_the_constructor_is_raised_as_it_was(pair: Gang) -> None:
    import ray

    wait_until(lambda: ray.available_resources().get("CPU") == 4 - pair.size)  # Ray learns of changes a moment later
    with pytest.raises(members.Mistake, match="factor: -1; expected 0 or more"):
        Gang(members.Member, 1, resources=Resources(), name="wrong", factor=-1)
    wait_until(lambda: ray.available_resources().get("CPU") == 4 - pair.size, within_s=60)  # all is freed again


def test_a_gang_that_never_fits_is_refused(session: Session) -> None:
    begin = time.monotonic()
    with pytest.raises(
        ClusterError, match=r"gang big: asks for 2 x \{3 CPU\}; the cluster has 1 node \(.*4 CPU.*room for 1"
    ):
        Gang(members.Member, 2, resources=Resources(cpus_per_worker=3), name="big")
    assert time.monotonic() - begin < 60  # a gang that may come to fit is waited for 900 s
