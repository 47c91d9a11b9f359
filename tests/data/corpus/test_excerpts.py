"""Excerpts of a corpus: exact samples of a small one; of a large one a few row groups, and nothing else is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.corpus import excerpts
from tests.data.corpus.test_corpora import DOCUMENTS, write


def whole(corpus: Path) -> excerpts.Excerpt:
    return excerpts.choose(corpus, "train", min_bytes=1, seed=7)


def test_a_missing_split_is_empty(tmp_path: Path) -> None:
    excerpt = excerpts.choose(tmp_path, "held_out", min_bytes=1, seed=7)
    assert (excerpt.split_bytes, list(excerpt.batches()), list(excerpt.sample({}, 7))) == ({}, [], [])


def test_sizes_are_bytes_of_utf_8(tmp_path: Path) -> None:
    excerpt = whole(write(tmp_path, "train", [150, 250]))
    expected = {language: sum(len(d[4].encode()) for d in DOCUMENTS if d[3] == language) for language in ("en", "zh")}
    assert excerpt.split_bytes == expected
    assert list(excerpt.split_bytes) == ["en", "zh"]
    assert dict(excerpt.split_rows) == {"en": 300, "zh": 100}


def test_a_sample_repeats_each_language_as_often_as_requested_in_order(tmp_path: Path) -> None:
    texts = list(whole(write(tmp_path, "train", [400])).sample({"en": 0.3, "zh": 2.5}, seed=7))
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
    one = list(whole(write(tmp_path / "one", "train", [400])).sample(repeats, seed=7))
    many = list(whole(write(tmp_path / "many", "train", [1, 99, 300])).sample(repeats, seed=7))
    other = list(whole(tmp_path / "one").sample(repeats, seed=8))
    assert one == many != other


def test_languages_without_repeats_are_not_sampled(tmp_path: Path) -> None:
    excerpt = whole(write(tmp_path, "train", [400]))
    assert {text[0] for text in excerpt.sample({"zh": 1}, seed=7)} == {"文"}


GROUP_ROWS, NUM_PARTS = 20, 60


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """60 files of 10 row groups; Chinese is in the last file alone: in one group of Chinese only and in a mixed one."""
    (tmp_path / "train").mkdir()
    for part in range(NUM_PARTS):
        rows = []
        for number in range(10 * GROUP_ROWS):
            group = number // GROUP_ROWS
            chinese = part == NUM_PARTS - 1 and (group == 8 or (group == 9 and number % 4 == 0))
            text = f"文{part}之{number}" * 20 if chinese else f"text {part} number {number} " * 10
            rows.append((f"s/{part}/{number}", "zh" if chinese else "en", text))
        table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(("id", "language", "text"))})
        pq.write_table(table, tmp_path / "train" / f"part-{part:05}.parquet", row_group_size=GROUP_ROWS)
    return tmp_path


def test_of_a_large_corpus_only_a_few_row_groups_of_each_language_are_read(large: Path) -> None:
    excerpt = excerpts.choose(large, "train", min_bytes=10_000, seed=7)
    chosen = {(group.part, group.number) for group in excerpt.groups}
    assert excerpts.MIN_GROUPS <= len(chosen) <= excerpts.MIN_GROUPS + 2 < NUM_PARTS
    assert {(large / "train" / f"part-{NUM_PARTS - 1:05}.parquet", group) for group in (8, 9)} <= chosen
    assert len({part for part, _ in chosen}) > 20
    assert dict(excerpt.split_rows) == {"en": 60 * 200 - 25, "zh": 25}
    repeats = {"en": 100 / excerpt.split_rows["en"], "zh": 1.0}
    texts = list(excerpt.sample(repeats, seed=7))
    assert sum(text.startswith("文") for text in texts) == 25
    assert sum(text.startswith("text") for text in texts) == pytest.approx(100, abs=30)
    damage_others(large, chosen)
    assert list(excerpts.choose(large, "train", min_bytes=10_000, seed=7).sample(repeats, seed=7)) == texts


def damage_others(corpus: Path, chosen: set[tuple[Path, int]]) -> None:
    """Overwrites the texts of all row groups that are not chosen, so that reading one fails."""
    for part in sorted((corpus / "train").iterdir()):
        metadata = pq.read_metadata(part)
        data = bytearray(part.read_bytes())
        for number in range(metadata.num_row_groups):
            column = metadata.row_group(number).column(2)
            assert column.path_in_schema == "text"
            if (part, number) not in chosen:
                start = column.dictionary_page_offset or column.data_page_offset
                data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        part.write_bytes(data)
    with pytest.raises(OSError):
        pq.read_table(corpus / "train" / "part-00000.parquet")


def test_sizes_of_a_large_corpus_are_estimated_from_the_excerpt(large: Path) -> None:
    sizes: dict[str, int] = {}
    for row in pq.read_table(large / "train").to_pylist():
        sizes[row["language"]] = sizes.get(row["language"], 0) + len(row["text"].encode())
    assert excerpts.choose(large, "train", min_bytes=1, seed=7).split_bytes == pytest.approx(sizes, rel=0.02)


def test_more_row_groups_are_chosen_where_so_much_text_is_needed(large: Path) -> None:
    few, many = (excerpts.choose(large, "train", min_bytes=size, seed=7) for size in (1, 1_000_000))
    assert len(few.groups) < len(many.groups) < 10 * NUM_PARTS
    assert sum(len(text) for batch in many.batches() for text in batch.column("text").to_pylist()) > 1_000_000
    assert {group[1:3] for group in few.groups} <= {group[1:3] for group in many.groups}


def test_the_seed_chooses_the_row_groups(large: Path) -> None:
    first, again, other = (excerpts.choose(large, "train", min_bytes=1, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first.groups != other.groups
