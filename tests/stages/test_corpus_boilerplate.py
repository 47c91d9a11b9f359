"""Lines and paragraphs that many groups have are cut from a corpus: against a count of lines with dictionaries."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.session import Session
from pipelines.data.corpus import duplicates
from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Source
from pipelines.stage import Facts
from pipelines.stages.corpus import STAGE, blocks
from pipelines.stages.corpus.boilerplate import is_in_buckets
from tests.stages.corpus_work import RecordingProgress, digests, english, work, write

MAX_GROUPS = 3
FOOTER = "Copyright of the town library; all rights are reserved by its trustees."
CHINESE_FOOTER = "版权归本市图书馆所有，未经许可不得转载或复制。"
MENU = "Home\nAbout us\nOpening hours\nContact"
IN_FEW = "This notice stands on the pages of three branches and no others."
LIST = "- an entry that every list of every branch of the library begins with"
CODE = "result = compute(first_argument, second_argument) + offset[0]"


class Stopped(Exception):
    pass


class StoppingProgress(RecordingProgress):
    unit = ""

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        if unit == self.unit:
            raise Stopped


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """Eight files of three pages each; and a page of which nothing is left."""
    folder, rng = tmp_path_factory.mktemp("pages"), random.Random(5)
    for group in range(8):
        notice = f"{IN_FEW}\n" if group < MAX_GROUPS else ""
        pages = [f"{MENU}\n\n{english(rng)}\n{LIST}\n{notice}{CODE}\n\n{english(rng)}\n\n{FOOTER}\n{CHINESE_FOOTER}"
                 for _ in range(3)]  # fmt: skip
        write(
            folder / f"{group}.jsonl", [{"text": text} for text in [*pages, f"{FOOTER}\n{FOOTER}"][: 3 + (group == 5)]]
        )
    return {"pages": SOURCES["jsonl"].model_validate({"path": str(folder), "language": "en"})}


def texts_of(draft: Path) -> dict[str, str]:
    files = [*(draft / "out").rglob("part-*.parquet")]
    return {row["id"]: row["text"] for file in files for row in pq.read_table(file).to_pylist()}


def run(session: Session, draft: Path, source: dict[str, Source], tasks: int, **options: Any) -> Facts:
    filters: dict[str, Any] = {"filters": {"length": None, "repetition": None, "quality": None}, "held_out": 0}
    return STAGE.run(work(session, draft, source, tasks=tasks, **filters, **options))


def test_lines_of_many_groups_are_cut_with_any_number_of_tasks_and_after_stops(
    session: Session, source: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for draft in (whole, stopped):
        draft.mkdir()
    facts = run(session, whole, source, 1, max_line_groups=MAX_GROUPS)
    monkeypatch.setattr(blocks, "ROOT_BYTES", 4000)
    for unit in ("blocks searched for lines", "buckets of lines", "blocks cut"):
        progress = StoppingProgress()
        progress.unit = unit
        with pytest.raises(Stopped):
            run(session, stopped, source, 2, max_line_groups=MAX_GROUPS, progress=progress)
    assert run(session, stopped, source, 2, max_line_groups=MAX_GROUPS)["documents/kept"] == facts["documents/kept"]
    assert len(list((stopped / "lines").glob("*.repeated.arrow"))) > 1
    assert digests(stopped) == digests(whole)

    rows = [(part.group, row.text) for part in source["pages"].parts() for row in source["pages"].read(part)]  # type: ignore[union-attr]
    groups: dict[str, set[str]] = defaultdict(set)
    for group, text in rows:
        for line in text.split("\n"):
            groups[line].add(group)
    assert len(groups[FOOTER]) == 8 and len(groups[IN_FEW]) == MAX_GROUPS
    cut = {*MENU.split("\n"), FOOTER, CHINESE_FOOTER}
    assert {line for line, of in groups.items() if len(of) > MAX_GROUPS and line} == {*cut, LIST, CODE}
    expected = ["\n".join(line for line in text.split("\n") if line not in cut).strip() for _, text in rows]
    kept = texts_of(whole)
    assert sorted(kept.values()) == sorted(text for text in expected if text)
    assert facts["lines/dropped_boilerplate"] == 24 * len(cut)
    assert facts["documents/dropped_boilerplate"] == facts["rows/not_used_boilerplate"] == 1
    (rejected,) = pq.read_table(whole / "out" / "rejected.parquet").to_pylist()
    assert (rejected["reason"], rejected["row"], rejected["raw"]) == ("boilerplate", 4, f"{FOOTER}\n{FOOTER}")
    assert rejected["where"].endswith("5.jsonl")
    # What is left is hashed anew: for duplicates, and for held-out text.
    (block, *_) = sorted((whole / "cut").glob("*.parquet"))
    assert set(pq.read_table(block, columns=["text_bytes"]).column(0).to_pylist()) <= {
        len(t.encode()) for t in expected
    }


def test_each_hash_is_looked_up_in_its_bucket() -> None:
    rng = np.random.default_rng(3)
    everywhere = np.concatenate([rng.integers(0, 2**64, 500, np.uint64), np.array([0, 2**64 - 1], np.uint64)])
    repeated, hashes = np.sort(everywhere[::2]), rng.permutation(np.repeat(everywhere, 2))
    buckets = [repeated[duplicates.bucket_slice(repeated, number, 7)] for number in range(7)]
    assert is_in_buckets(hashes, buckets).tolist() == np.isin(hashes, repeated).tolist()
    assert not is_in_buckets(hashes, [buckets[0][:0], buckets[0]]).any()  # the lower seventh is not in the upper half


def test_without_the_option_nothing_is_counted_and_the_identity_is_the_same() -> None:
    identity = STAGE.options().identity()
    assert "max_line_groups" not in identity
    assert STAGE.options.model_validate({"max_line_groups": 3}).identity() == {**identity, "max_line_groups": 3}
