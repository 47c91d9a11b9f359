"""The amount of text in files: exact counts for little text, estimates within a few percent for much."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.sources import amounts
from pipelines.data.sources.amounts import amount, count_lines

TEXTS = [f"Row {i} of an English text." if i % 3 else f"第{i}行是中文，说的是别的事情。" for i in range(300)]
BYTES = {"en": sum(len(t.encode()) for i, t in enumerate(TEXTS) if i % 3),
         "zh": sum(len(t.encode()) for i, t in enumerate(TEXTS) if not i % 3)}  # fmt: skip


def write(folder: Path, kind: str) -> dict[str, Any]:
    """The texts as a file of this kind, and the options of its source."""
    lines = "".join(json.dumps({"text": text, "id": i}, ensure_ascii=False) + "\n" for i, text in enumerate(TEXTS))
    file = folder / ("x.txt" if kind == "text" else f"x.{kind}")
    if kind == "jsonl":
        file.write_text(lines, encoding="utf-8")
    elif kind == "jsonl.gz":
        file.write_bytes(gzip.compress(lines.encode()))
    elif kind == "parquet":
        pq.write_table(pa.table({"text": TEXTS}), file)
    elif kind == "csv":
        with file.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([["id", "text"], *enumerate(TEXTS)])
    else:
        file.write_text("\n\n".join(TEXTS), encoding="utf-8")
    options = {"kind": kind.removesuffix(".gz"), "path": str(file), "language": "auto"}
    return options | ({"split": "blank_lines"} if kind == "text" else {})


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "csv", "text"])
def test_little_text_is_counted_exactly(tmp_path: Path, kind: str) -> None:
    estimate = amount(write(tmp_path, kind))
    assert (estimate.rows, estimate.text_bytes, estimate.exact) == (300, BYTES, True)
    assert estimate.file_bytes == next(tmp_path.iterdir()).stat().st_size


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "csv", "text"])
@pytest.mark.parametrize("limit", ["MAX_READ_ROWS", "MAX_READ_BYTES"])
def test_much_text_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, limit: str) -> None:
    monkeypatch.setattr(amounts, limit, 100 if limit == "MAX_READ_ROWS" else 4000)
    estimate = amount(write(tmp_path, kind))
    assert estimate.rows == pytest.approx(300, rel=0.1)
    assert estimate.text_bytes == pytest.approx(BYTES, rel=0.1)
    assert not estimate.exact


def test_language_of_the_source_replaces_detection(tmp_path: Path) -> None:
    estimate = amount(write(tmp_path, "jsonl") | {"language": "zh"})
    assert estimate.text_bytes == {"zh": sum(BYTES.values())}


def test_rows_that_are_not_text_have_no_text_bytes(tmp_path: Path) -> None:
    estimate = amount(write(tmp_path, "jsonl") | {"rows": "conversations"})
    assert (estimate.rows, estimate.text_bytes) == (300, {})


def test_bad_rows_are_not_counted(tmp_path: Path) -> None:
    options = write(tmp_path, "jsonl")
    with open(options["path"], "a", encoding="utf-8") as file:
        file.write("not json\n" * 50)
    assert amount(options).rows == 300


@pytest.mark.parametrize(("text", "lines"), [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n\n", 2)])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_lines_are_counted_with_or_without_a_final_newline(tmp_path: Path, text: str, lines: int, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    assert count_lines(file) == lines


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_lines_of_a_large_file_are_extrapolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(amounts, "MAX_COUNTED_BYTES", 2 << 20)
    text = "".join(f"line {i} {i * 7919 % 10007}\n" for i in range(400_000)).encode()
    file = tmp_path / f"x{suffix}"
    file.write_bytes(gzip.compress(text, 1) if suffix.endswith("gz") else text)
    assert count_lines(file) == pytest.approx(400_000, rel=0.1)
    assert count_lines(file) != 400_000


def test_lines_of_damaged_gzip_are_counted_up_to_the_damage(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl.gz"
    file.write_bytes(gzip.compress(b"line\n" * 100_000)[:-20])
    assert 90_000 < count_lines(file) <= 100_000
