"""The list of checkpoints survives a kill in the middle of being written."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.checkpoints import COPY, LIST, copy_list, repair


def write_list(place: Path, *names: str) -> str:
    text = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": name, "metrics": {}} for name in names]})
    (place / LIST).write_text(text)
    return text


def folders(place: Path, *names: str) -> None:
    for name in names:
        (place / name).mkdir()
        (place / name / "rank-0").touch()


def test_what_no_list_names_is_swept(tmp_path: Path):
    folders(tmp_path, "checkpoint_1", "checkpoint_2", "checkpoint_3")
    text = write_list(tmp_path, "checkpoint_1", "checkpoint_2")
    repair(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint_?")) == ["checkpoint_1", "checkpoint_2"]
    assert (tmp_path / LIST).read_text() == text


def test_a_cut_list_gives_way_to_its_copy(tmp_path: Path):
    folders(tmp_path, "checkpoint_1", "checkpoint_2")
    text = write_list(tmp_path, "checkpoint_1")
    copy_list(tmp_path)
    (tmp_path / LIST).write_text(text[:20])
    repair(tmp_path)
    assert (tmp_path / LIST).read_text() == text == (tmp_path / COPY).read_text()
    assert [path.name for path in tmp_path.glob("checkpoint_?")] == ["checkpoint_1"]


def test_without_any_good_list_the_run_starts_anew(tmp_path: Path):
    folders(tmp_path, "checkpoint_1")
    write_list(tmp_path, "checkpoint_1", "checkpoint_gone")
    repair(tmp_path)
    assert list(tmp_path.iterdir()) == []
