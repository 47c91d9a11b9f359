"""The file of figures: appended to, followed, and shortened when a run goes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import progress
from cluster.progress import Tail, append, cut, read_progress
from tests.cluster.conftest import wait_until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / progress.FILE


def steps(file: Path) -> list[int]:
    return [line["step"] for line in read_progress(file.parent.parent, "run")]


def test_what_was_appended_is_read_and_a_half_line_is_not(file: Path):
    assert steps(file) == []
    append(file, 1, {"loss": 2.5})
    append(file, 2, {"loss": 1.5})
    with file.open("ab") as handle:
        handle.write(b'{"step": 3, "lo')  # the writer was killed here
    assert read_progress(file.parent.parent, "run") == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}]


def test_going_back_drops_what_came_after_and_any_half_line(file: Path):
    for step in range(1, 7):
        append(file, step, {})
    with file.open("ab") as handle:
        handle.write(b'{"step": 7')
    cut(file, 4)
    append(file, 5, {})
    assert steps(file) == [1, 2, 3, 4, 5]
    cut(file, -1)
    assert file.read_bytes() == b""


def test_a_follower_shows_new_lines_once_and_follows_a_step_back(file: Path):
    append(file, 1, {})  # of an earlier run: not shown
    shown: list[int] = []
    with Tail(file, lambda figures: shown.append(figures["step"]), every_s=0.01) as tail:
        append(file, 2, {})
        append(file, 3, {})
        wait_until(lambda: shown == [2, 3])
        cut(file, 2)
        wait_until(lambda: tail._position == file.stat().st_size)  # it has seen that the file is shorter
        append(file, 3, {})
        append(file, 4, {})
    assert shown == [2, 3, 3, 4]


def test_an_exception_of_the_viewer_is_raised_where_it_can_be_seen(file: Path):
    def show(figures: dict) -> None:
        raise KeyError("no such figure")

    with pytest.raises(KeyError, match="no such figure"), Tail(file, show, every_s=0.01):
        append(file, 1, {})
