"""Reading a corpus as the corpus stage writes it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.corpus import corpora

DOCUMENTS = [(f"s:{i}", "s", f"group-{i % 5}", "zh" if i % 4 == 0 else "en", ("文" if i % 4 == 0 else "w") * (i + 1))
             for i in range(400)]  # fmt: skip
COLUMNS = ("id", "source", "group", "language", "text")


def write(folder: Path, split: str, sizes: list[int]) -> Path:
    """The documents as parts of these sizes."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    first = 0
    for number, size in enumerate(sizes):
        rows = DOCUMENTS[first : first + size]
        table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)})
        pq.write_table(table, folder / split / f"part-{number:05}.parquet", compression="zstd")
        first += size
    return folder


def test_parts_and_batches_come_in_order(tmp_path: Path) -> None:
    corpus = write(tmp_path, "train", [100] * 4)
    assert [p.name for p in corpora.parts(corpus, "train")] == [f"part-{n:05}.parquet" for n in range(4)]
    rows = [tuple(row.values()) for batch in corpora.batches(corpus, "train", COLUMNS) for row in batch.to_pylist()]
    assert rows == DOCUMENTS
    first = next(corpora.batches(corpus, "train"))
    assert first.schema.names == ["language", "text"]


def test_a_missing_split_is_empty(tmp_path: Path) -> None:
    assert corpora.parts(tmp_path, "held_out") == []
    assert list(corpora.batches(tmp_path, "held_out")) == []
    assert corpora.bytes_by_language(tmp_path, "held_out") == {}


def test_sizes_are_bytes_of_utf_8(tmp_path: Path) -> None:
    corpus = write(tmp_path, "train", [150, 250])
    expected = {language: sum(len(d[4].encode()) for d in DOCUMENTS if d[3] == language) for language in ("en", "zh")}
    assert corpora.bytes_by_language(corpus, "train") == expected
    assert list(corpora.bytes_by_language(corpus, "train")) == ["en", "zh"]


def test_a_sample_repeats_each_language_as_often_as_requested_in_order(tmp_path: Path) -> None:
    corpus = write(tmp_path, "train", [400])
    texts = list(corpora.sample(corpus, "train", {"en": 0.3, "zh": 2.5}, seed=7))
    order = [len(text) for text in texts]
    assert order == sorted(order)
    times = {text: texts.count(text) for text in set(texts)}
    chinese = [times[d[4]] for d in DOCUMENTS if d[3] == "zh"]
    assert set(chinese) == {2, 3}
    assert sum(chinese) / 100 == pytest.approx(2.5, abs=0.2)
    english = [times.get(d[4], 0) for d in DOCUMENTS if d[3] == "en"]
    assert set(english) == {0, 1}
    assert sum(english) / 300 == pytest.approx(0.3, abs=0.08)


def test_a_sample_depends_on_the_seed_but_not_on_the_parts(tmp_path: Path) -> None:
    repeats = {"en": 0.5, "zh": 0.5}
    one = list(corpora.sample(write(tmp_path / "one", "train", [400]), "train", repeats, seed=7))
    many = list(corpora.sample(write(tmp_path / "many", "train", [1, 99, 300]), "train", repeats, seed=7))
    other = list(corpora.sample(tmp_path / "one", "train", repeats, seed=8))
    assert one == many != other


def test_languages_without_repeats_are_not_sampled(tmp_path: Path) -> None:
    corpus = write(tmp_path, "train", [400])
    assert {text[0] for text in corpora.sample(corpus, "train", {"zh": 1}, seed=7)} == {"文"}
