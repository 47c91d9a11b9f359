"""cluster/checkpoints.py: the list of checkpoints survives a kill while it is written."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.checkpoints import COPY, LIST, copy_list, newest, repair


def write_list(folder: Path, *names: str) -> str:
    text = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": name, "metrics": {}} for name in names]})
    (folder / LIST).write_text(text)
    return text


def folders(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir()
        (folder / name / "rank-0").touch()


def test_checkpoints_that_are_not_listed_are_deleted(tmp_path: Path) -> None:
    folders(tmp_path, "checkpoint_1", "checkpoint_2", "checkpoint_3")
    text = write_list(tmp_path, "checkpoint_1", "checkpoint_2")
    repair(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint_?")) == ["checkpoint_1", "checkpoint_2"]
    assert (tmp_path / LIST).read_text() == text


def test_a_truncated_list_is_replaced_by_its_copy(tmp_path: Path) -> None:
    folders(tmp_path, "checkpoint_1", "checkpoint_2")
    text = write_list(tmp_path, "checkpoint_1")
    copy_list(tmp_path)
    (tmp_path / LIST).write_text(text[:20])
    repair(tmp_path)
    assert (tmp_path / LIST).read_text() == text == (tmp_path / COPY).read_text()
    assert [path.name for path in tmp_path.glob("checkpoint_?")] == ["checkpoint_1"]


def test_without_a_valid_list_the_run_starts_from_the_beginning(tmp_path: Path) -> None:
    folders(tmp_path, "checkpoint_1")
    write_list(tmp_path, "checkpoint_1", "checkpoint_gone")
    repair(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_newest_checkpoint_is_one_that_is_listed(tmp_path: Path) -> None:
    """A folder that a killed worker was writing into is none, nor is Ray's list itself."""
    assert newest(tmp_path) == ""
    folders(tmp_path, "checkpoint_1", "checkpoint_2", "checkpoint_3")
    text = write_list(tmp_path, "checkpoint_1", "checkpoint_2")
    assert newest(tmp_path) == "checkpoint_2"
    copy_list(tmp_path)
    (tmp_path / LIST).write_text(text[:20])
    assert newest(tmp_path) == "checkpoint_2"
