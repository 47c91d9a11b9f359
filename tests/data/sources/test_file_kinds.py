"""Files of records are read as what they are: JSON of any layout, compression, Parquet, data sets."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.sources import json_documents
from pipelines.data.sources.dataset import data_sets, splits
from pipelines.data.sources.source import Row
from pipelines.errors import UserError
from tests.data.sources.reading import bad, make_source, rows, texts

ROWS = [{"text": "one", "n": 1}, {"text": "二", "n": None}, {"text": 'a "quoted" {brace}', "n": [1, {"x": 2}]}]

# ---- JSON documents --------------------------------------------------------------------------------------------------

LAYOUTS: list[Callable[[list[dict[str, Any]]], str]] = [
    json.dumps,
    lambda records: json.dumps(records, indent=2, ensure_ascii=False),
    lambda records: "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n",
    lambda records: json.dumps({"data": records}),
    lambda records: json.dumps({"version": "1", "data": records, "total": 3}, indent=1),
    lambda records: "\n".join(map(json.dumps, records)),
    lambda records: "\n".join(json.dumps(record, indent=2) for record in records),
]


@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
@pytest.mark.parametrize("chunk_bytes", [7, 1 << 20])
def test_json_of_any_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: int, chunk_bytes: int) -> None:
    (tmp_path / "a.json").write_text(LAYOUTS[layout](ROWS), encoding="utf-8")
    source = make_source(tmp_path, "json", "a.json", rows="conversations")
    expected = [Row(row=number, record=record) for number, record in enumerate(ROWS, 1)]
    if chunk_bytes < 100 and layout in (3, 4):
        return  # what wraps the rows has to be in the first chunk
    parts = source.parts()
    monkeypatch.setattr(json_documents, "CHUNK_BYTES", chunk_bytes if layout < 5 else 1 << 20)
    assert [row for part in parts for row in source.read(part)] == expected


def test_a_json_array_may_be_named_as_json_lines(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps(ROWS, indent=2))
        assert texts(make_source(tmp_path, "jsonl", name)) == [row["text"] for row in ROWS]


def test_a_broken_object_of_an_array_is_one_bad_row(tmp_path: Path) -> None:
    good = [{"text": f"row {number}", "meta": {"text": "inner"}} for number in range(5)]
    lines = [json.dumps(record) for record in good]
    lines[2] = '{"text": "row 2" "meta": {"text": "inner"}}'
    for separator in (",\n", ","):
        (tmp_path / "a.json").write_text(f"[{separator.join(lines)}]")
        source = make_source(tmp_path, "json", "a.json")
        assert texts(source) == ["row 0", "row 1", "row 3", "row 4"]
        assert [row for row, _ in bad(source)] == [3]
        assert "not JSON" in bad(source)[0][1]


BROKEN_FIRST = [
    ('{"text": "it"s broken"}', {}),
    ('{"text": "it"s broken", "meta": {"by": "x"}}', {"meta": {"by": "x"}}),
    ('{"turns": [{"role": "user"}, {"role": "user"}], "text": "it"s broken"}', {"turns": [{"role": "user"}]}),
    ("{text: 'unquoted'}", {}),
]


@pytest.mark.parametrize(("broken", "columns"), BROKEN_FIRST)
@pytest.mark.parametrize("layout", ["[{}]", '{{"data": [{}]}}'])
def test_a_broken_first_object_of_an_array_is_one_bad_row(
    tmp_path: Path, broken: str, columns: dict[str, Any], layout: str
) -> None:
    lines = [broken, *(json.dumps(columns | {"text": f"row {number}"}) for number in range(1000))]
    (tmp_path / "a.json").write_text(layout.format(", ".join(lines)))
    source = make_source(tmp_path, "json", "a.json")
    assert texts(source) == [f"row {number}" for number in range(1000)]
    assert [row for row, _ in bad(source)] == [1]


def test_missing_commas_between_objects_of_an_array_lose_none(tmp_path: Path) -> None:
    names = [f"row {number}" for number in range(1001)]
    (tmp_path / "a.json").write_text("[" + "\n".join(json.dumps({"text": name}) for name in names) + "]")
    source = make_source(tmp_path, "json", "a.json")
    assert texts(source) == names
    assert bad(source) == []


@pytest.mark.parametrize("keep", [0.5, 0.7, 0.95])
def test_of_a_json_array_that_is_cut_the_rows_before_the_cut_are_read(tmp_path: Path, keep: float) -> None:
    text = json.dumps([{"text": f"row {number}"} for number in range(100)])
    (tmp_path / "a.json").write_text(text[: int(keep * len(text))])
    source = make_source(tmp_path, "json", "a.json")
    assert len(texts(source)) == pytest.approx(100 * keep, abs=2)
    assert [problem.split(" (")[0] for _, problem in bad(source)] == ["not JSON"]


def test_what_an_array_holds_besides_objects_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "one"}, "two", 3, {"text": "\\ud83d"}, {"text": "five"}]')
    source = make_source(tmp_path, "json", "a.json")
    assert texts(source) == ["one", "five"]
    problems = [(2, "the array holds text"), (3, "the array holds a number"), (4, "column 'text' holds half of a")]
    assert [
        (row, problem[: len(words)]) for (row, problem), (_, words) in zip(bad(source), problems, strict=True)
    ] == problems


def test_columns_within_columns_are_named_with_dots(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"meta": {"text": "in", "lang": "zh"}}\n{"meta.text": "flat", "meta": {"lang": "en"}}\n{"meta": 1}\n'
    )
    source = make_source(tmp_path, "jsonl", "a.jsonl", text="meta.text", language_column="meta.lang")
    assert [(row.text, row.language) for row in rows(source) if isinstance(row, Row)] == [("in", "zh"), ("flat", "en")]
    assert bad(source) == [(3, "no column 'meta.text'; expected it in every row (columns here: meta)")]


# ---- compression -----------------------------------------------------------------------------------------------------


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESS = {".gz": gzip.compress, ".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_of_several_members_read_like_plain_ones(tmp_path: Path, suffix: str) -> None:
    halves = [b"\xef\xbb\xbftext,n\n" + b"a row,1\n" * 1000, b"the last,2\n"]
    (tmp_path / f"a.csv{suffix}").write_bytes(b"".join(map(COMPRESS[suffix], halves)))
    assert texts(make_source(tmp_path, "csv", ".")) == ["a row"] * 1000 + ["the last"]


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", ["jsonl", "text", "csv"])
def test_of_damaged_compression_the_rows_before_the_damage_are_read(tmp_path: Path, suffix: str, kind: str) -> None:
    numbers = [f"row {number} {random.Random(number).randbytes(300).hex()}" for number in range(3000)]
    line = {"jsonl": '{{"text": "{}"}}\n', "text": "{}\n", "csv": "{},1\n"}[kind]
    data = ("text,n\n" if kind == "csv" else "") + "".join(map(line.format, numbers))
    compressed = COMPRESS[suffix](data.encode())
    (tmp_path / f"a.{kind}{suffix}").write_bytes(compressed[: len(compressed) * 4 // 5])
    source = make_source(tmp_path, kind, f"a.{kind}{suffix}", **({"split": "lines"} if kind == "text" else {}))
    read = texts(source)
    assert read == numbers[: len(read)]
    assert len(read) > 1000
    [(row, problem)] = bad(source)
    assert row >= len(read)
    assert "damaged or not" in problem


def test_members_after_padding_are_read_and_damaged_ones_are_named(tmp_path: Path) -> None:
    first, second = b'{"text": "a"}\n', b'{"text": "b"}\n'
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(first) + bytes(8) + lzma.compress(second))
    assert texts(make_source(tmp_path, "jsonl", "a.jsonl.xz")) == ["a", "b"]
    for suffix, compress in COMPRESS.items():
        (tmp_path / f"b.jsonl{suffix}").write_bytes(compress(first) + b"????" + compress(second))
        source = make_source(tmp_path, "jsonl", f"b.jsonl{suffix}")
        assert texts(source) == ["a"]
        assert "what follows line 1 is lost" in bad(source)[0][1]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_documents_before_damage_that_are_whole_are_read(tmp_path: Path, suffix: str) -> None:
    compressed = COMPRESS[suffix](b"a\n\nb\n\nc\n")
    (tmp_path / f"a.txt{suffix}").write_bytes(compressed + b"no member")
    for split, whole in (("lines", ["a", "b", "c"]), ("blank_lines", ["a", "b"])):
        source = make_source(tmp_path, "text", f"a.txt{suffix}", split=split)
        assert texts(source) == whole
        assert len(bad(source)) == 1


def test_a_file_that_is_not_compressed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text('{"text": "x"}\n')
    assert "damaged or not gzip" in bad(make_source(tmp_path, "jsonl", "a.jsonl.gz"))[0][1]


def test_a_key_with_two_values_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "text": "c"}\n{"text": "b", "text": "b"}\n')
    (tmp_path / "a.json").write_text('[{"text": "b"}, {"text": "a", "text": "c"}]')
    for name in ("a.jsonl", "a.json"):
        source = make_source(tmp_path, name.partition(".")[2], name)
        assert texts(source) == ["b"]
        assert bad(source)[0][1].startswith("the key 'text' has two values in one object; expected each key once")
    first = '{"prompt": "a", "reply": {"content": "x", "content": "y"}}'
    second, third = (
        '{"prompt": "b", "reply": "c", "id": 1, "id": 2, "n": {"x": 1, "x": 2}}',
        '{"prompt": "b", "reply": "c", "system": "a", "system": ""}',
    )
    (tmp_path / "c.jsonl").write_text("\n".join([first, second, third, ""]))
    (tmp_path / "c.json").write_text(f"[{first}, {second}, {third}]")
    for name in ("c.jsonl", "c.json"):
        source = make_source(tmp_path, name.partition(".")[2], name, rows="conversations")
        read = [row.record for row in rows(source) if isinstance(row, Row)]
        assert read == [{"prompt": "b", "reply": "c", "id": 2, "n": {"x": 2}}]  # of what nothing reads the last is kept
        problems = [problem for _, problem in bad(source)]
        assert [problem.partition(" has two values")[0] for problem in problems] == [
            "the key 'content'",
            "the key 'system'",
        ]
        grouped = make_source(tmp_path, name.partition(".")[2], name, rows="conversations", group="id")
        assert len(bad(grouped)) == 3


def test_of_text_only_the_keys_that_are_read_may_not_have_two_values(tmp_path: Path) -> None:
    lines = ['{"text": "a", "headers": {"x": 1, "x": 2}}', '{"m": {"正文": "b", "\\u6b63\\u6587": "c"}}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.json").write_text(f"[{','.join(lines)}]")
    for name in ("a.jsonl", "a.json"):
        assert texts(make_source(tmp_path, name.partition(".")[2], name)) == ["a"]
        problems = bad(make_source(tmp_path, name.partition(".")[2], name, text="m.正文"))
        assert problems[1][1].startswith("the key '正文' has two values")


@pytest.mark.parametrize("indent", [None, 1])
def test_instances_of_an_instruction_are_no_rows(tmp_path: Path, indent: int | None) -> None:
    record = {"instruction": "Add", "instances": [{"input": "1, 2", "output": "3"}]}
    (tmp_path / "a.json").write_text(json.dumps(record, indent=indent))
    (tmp_path / "b.json").write_text(json.dumps({"version": 1, "instances": [record]}, indent=indent))
    source = make_source(tmp_path, "json", ["a.json", "b.json"], rows="conversations")
    assert rows(source) == [Row(row=1, record=record)] * 2


INSTANCES = [{"input": "1, 2", "output": "3"}, {"input": "", "output": "4"}]
INSTRUCTED = [
    {"instances": INSTANCES, "instruction": "Add"},
    {"Instances": INSTANCES, "id": "a", "Instruction": "Add"},
    {"notes": "n" * (2 << 20), "prompt": "Add", "instances": INSTANCES},
    {"instances": [*INSTANCES, {"input": "n" * (2 << 20), "output": "5"}], "instruction": "Add"},
    {"examples": [{"text": "a"}], "instances": INSTANCES, "instruction": "Add"},
]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("record", INSTRUCTED, ids=range(len(INSTRUCTED)))
def test_an_instruction_with_its_instances_is_a_row(
    tmp_path: Path, record: dict[str, object], number: int, indent: int | None
) -> None:
    (tmp_path / "a.json").write_text("\n".join([json.dumps(record, indent=indent)] * number))
    (tmp_path / "b.json").write_text(json.dumps([record] * number, indent=indent))
    source = make_source(tmp_path, "json", ["a.json", "b.json"], rows="conversations")
    assert [row.record for row in rows(source) if isinstance(row, Row)] == [record] * (2 * number)
    assert bad(source) == []


WRAPPERS = [
    ({"instruction": "Answer.", "instances": [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]}, 2),
    ({"instruction": "Answer.", "instances": 2, "data": [{"question": "a", "answer": "b"}]}, 1),
    ({"instruction": "Answer.", "instances": [], "data": [{"question": "a", "answer": "b"}] * 3}, 3),
    ({"instances": [{"input": "a", "output": "b"}], "version": "instances of an instruction"}, 1),
    ({"instruction": "Answer.", "instances": [{"question": "a" * (1 << 20), "answer": "b"}] * 3}, 3),
]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(("document", "number"), WRAPPERS, ids=range(len(WRAPPERS)))
def test_an_instruction_beside_rows_describes_their_file(
    tmp_path: Path, document: dict[str, object], number: int, indent: int | None
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document, indent=indent))
    source = make_source(tmp_path, "json", "a.json", rows="conversations")
    assert len(rows(source)) == number
    assert bad(source) == []


def test_instances_too_large_for_a_row_are_not_taken_for_rows(tmp_path: Path) -> None:
    text = "n" * 1000
    record = {"instruction": "Add", "instances": [{"input": text, "output": text}] * 2000}
    wrapper = {"instruction": "Answer.", "instances": [{"question": text, "answer": text}] * 2000}
    (tmp_path / "a.json").write_text(json.dumps(record, indent=1))
    (tmp_path / "b.json").write_text(json.dumps(wrapper, indent=1))
    source = make_source(tmp_path, "json", "a.json", rows="conversations", max_row_bytes=1 << 20)
    assert [(row, "more than 1,048,576 characters" in problem) for row, problem in bad(source)] == [(1, True)]
    assert len(rows(make_source(tmp_path, "json", "b.json", rows="conversations", max_row_bytes=1 << 20))) == 2000


def test_lists_of_objects_beside_the_rows_of_a_document_are_named(tmp_path: Path) -> None:
    document = {"licenses": [], "train": [{"text": "a"}], "more": [{"text": "b"}, {"text": "c"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    source = make_source(tmp_path, "json", "a.json")
    assert texts(source) == ["a"]
    assert [problem.split(":")[0] for _, problem in bad(source)] == ["the list 'more' of 2 objects is not read"]


# ---- Parquet and data sets -------------------------------------------------------------------------------------------


TEXT_ARRAYS = {
    "binary": pa.array([b"one", "二".encode()]),
    "large binary": pa.array([b"one", "二".encode()], pa.large_binary()),
    "dictionary": pa.array([b"one", "二".encode()]).dictionary_encode(),
    "text": pa.array(["one", "二"]),
    "large text": pa.array(["one", "二"], pa.large_string()),
}


@pytest.mark.parametrize("kind", TEXT_ARRAYS)
def test_text_of_any_type_is_text(tmp_path: Path, kind: str) -> None:
    pq.write_table(pa.table({"text": TEXT_ARRAYS[kind]}), tmp_path / "a.parquet")
    assert texts(make_source(tmp_path, "parquet", "a.parquet")) == ["one", "二"]


def test_bytes_that_are_not_utf8_are_bad_rows_and_no_others(tmp_path: Path) -> None:
    data = pa.array([b"one", "二".encode("gbk"), b"three"])
    pq.write_table(pa.table({"text": data}), tmp_path / "bytes.parquet")
    text = pa.StringArray.from_buffers(3, data.buffers()[1], data.buffers()[2])  # claims to be UTF-8
    pq.write_table(pa.table({"text": text}), tmp_path / "text.parquet")
    for name in ("bytes.parquet", "text.parquet"):
        source = make_source(tmp_path, "parquet", name)
        assert texts(source) == ["one", "three"]
        assert [(row, "not UTF-8" in problem) for row, problem in bad(source)] == [(2, True)]


def test_columns_of_records_keep_bytes_that_are_no_text(tmp_path: Path) -> None:
    record = {"prompt": b"draw", "image": {"bytes": b"\x89PNG", "path": None}}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    [row] = rows(make_source(tmp_path, "parquet", "a.parquet", rows="conversations"))
    assert isinstance(row, Row)
    assert row.record == record | {"prompt": "draw"}


def test_nested_columns_of_parquet(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"meta": {"text": "in", "by": {"name": "x"}}, "n": 1}, {"meta": None, "n": 2}])
    pq.write_table(table, tmp_path / "a.parquet")
    source = make_source(tmp_path, "parquet", "a.parquet", text="meta.text")
    assert texts(source) == ["in"]
    assert [row for row, _ in bad(source)] == [2]
    with pytest.raises(UserError, match=r"no column 'meta\.body'.*meta\.by\.name"):
        make_source(tmp_path, "parquet", "a.parquet", text="meta.body").parts()


def write_arrow(file: Path, *values: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": list(values)})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def test_a_saved_data_set_is_read_by_split(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_arrow(folder / "train/data-00000-of-00002.arrow", "a", "b")
    write_arrow(folder / "train/data-00001-of-00002.arrow", "c")
    write_arrow(folder / "train/cache-0123456789abcdef.arrow", "stale")
    write_arrow(folder / "test/data-00000-of-00001.arrow", "d")
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert data_sets(folder) == data_sets(tmp_path) == [folder]
    assert list(splits(folder)) == ["test", "train"]
    assert texts(make_source(tmp_path, "dataset", "set", split="train")) == ["a", "b", "c"]
    assert texts(make_source(tmp_path, "dataset", "set")) == ["d", "a", "b", "c"]
    files = make_source(tmp_path, "dataset", "set", split="train").files()
    assert texts(make_source(tmp_path, "dataset", list(map(str, files)), split="train")) == ["a", "b", "c"]
    with pytest.raises(UserError, match="no split 'dev'; its splits: test, train"):
        make_source(tmp_path, "dataset", "set", split="dev").files()


def test_a_data_set_of_the_hub_is_read_by_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001-0a1b"):
        pq.write_table(pa.table({"text": [name]}), tmp_path / f"data/{name}.parquet")
    assert data_sets(tmp_path) == [tmp_path]
    read = texts(make_source(tmp_path, "dataset", ".", split="train"))
    assert read == ["train-00000-of-00002", "train-00001-of-00002"]


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    assert data_sets(tmp_path) == []
    with pytest.raises(UserError, match=r"no \.arrow or \.parquet file"):
        make_source(tmp_path, "dataset", ".").files()
    (tmp_path / "a.arrow").write_text("nonsense")
    with pytest.raises(UserError, match=r"a\.arrow: not an Arrow file"):
        make_source(tmp_path, "dataset", ".").parts()
