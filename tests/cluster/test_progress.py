"""cluster/progress.py: the file of metrics is appended to, followed, and truncated when a run resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import progress
from cluster.progress import Figures, Tail, append, cut, read_progress
from tests.runs import wait_until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / progress.FILE


def steps(file: Path) -> list[int]:
    return [line["step"] for line in read_progress(file.parent.parent, "run")]


def test_complete_lines_are_read_and_an_incomplete_one_is_not(file: Path) -> None:
    assert steps(file) == []
    append(file, 1, {"loss": 2.5})
    append(file, 2, {"loss": 1.5})
    with file.open("ab") as handle:
        handle.write(b'{"step": 3, "lo')  # the writer was killed here
    assert read_progress(file.parent.parent, "run") == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}]


def test_cut_deletes_later_steps_and_an_incomplete_line(file: Path) -> None:
    for step in range(1, 7):
        append(file, step, {})
    with file.open("ab") as handle:
        handle.write(b'{"step": 7')
    cut(file, 4)
    append(file, 5, {})
    assert steps(file) == [1, 2, 3, 4, 5]
    cut(file, -1)
    assert file.read_bytes() == b""


def test_tail_passes_on_new_lines_once_and_follows_a_cut(file: Path) -> None:
    append(file, 1, {})  # of an earlier run: not passed on
    received: list[int] = []
    with Tail(file, lambda figures: received.append(figures["step"]), every_s=0.01) as tail:
        append(file, 2, {})
        append(file, 3, {})
        wait_until(lambda: received == [2, 3])
        cut(file, 2)
        wait_until(lambda: tail._position == file.stat().st_size)  # it has noticed that the file is shorter
        append(file, 3, {})
        append(file, 4, {})
    assert received == [2, 3, 3, 4]


def test_an_exception_of_the_callback_is_raised_on_leaving(file: Path) -> None:
    def fail(figures: Figures) -> None:
        raise KeyError("no such figure")

    with pytest.raises(KeyError, match="no such figure"), Tail(file, fail, every_s=0.01):
        append(file, 1, {})
