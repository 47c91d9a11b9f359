"""Detected formats of files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.sources import SOURCES
from pipelines.data.sources.amounts import amount
from pipelines.data.sources.folder_files import source_kind
from pipelines.data.sources.record_formats import columns_not_used, detect_format
from pipelines.data.sources.sniffing import SniffResult, kind_by_content, sniff
from pipelines.data.sources.source import Row
from pipelines.errors import UserError

FORMATS = {
    "text": ({"id": "1", "text": "hello there"}, "text", ("text",)),
    "longest column": ({"title": "short", "story": "a much longer text " * 9}, "text", ("story",)),
    "Alpaca": ({"instruction": "a", "input": "", "output": "b"}, "conversations", ("instruction", "input", "output")),
    "OpenAI": ({"messages": [{"role": "user", "content": "a"}]}, "conversations", ("messages",)),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "a"}]}, "conversations", ("conversations",)),
    "questions": ({"question": "a", "answer": "b"}, "conversations", ("question", "answer")),
    "prompts": ({"id": 1, "prompt": "a"}, "prompts", ("prompt",)),
    "pairs": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preferences", ("prompt", "chosen", "rejected")),
    "pairs with turns": (
        {"conversations": [{"from": "human", "value": "a"}], "chosen": {}, "rejected": {}},
        "preferences",
        ("conversations", "chosen", "rejected"),
    ),
    "Chinese columns": ({"标题": "短", "正文": "长一些的文字"}, "text", ("正文",)),
}
REAL = {
    "corpus_en.jsonl.gz": ("text", "en", "source"),
    "corpus_zh.jsonl.gz": ("text", "zh", "source"),
    "instruct_en.jsonl.gz": ("conversations", "en", None),
    "instruct_zh.jsonl.gz": ("conversations", "zh", None),
    "preference_hh_en.jsonl.gz": ("preferences", "en", None),
    "preference_dpo_en.jsonl.gz": ("preferences", "en", None),
    "preference_dpo_zh.jsonl.gz": ("preferences", "zh", None),
    "eval_gsm8k.jsonl.gz": ("conversations", "en", None),
    "eval_xstest.jsonl.gz": ("prompts", "en", None),
}


@pytest.mark.parametrize(("record", "rows", "columns"), FORMATS.values(), ids=FORMATS.keys())
def test_formats(record: dict, rows: str, columns: tuple[str, ...]) -> None:
    row_format = detect_format(record)
    assert row_format is not None
    assert (row_format.rows, row_format.columns) == (rows, columns)


def test_a_record_without_text_has_no_format() -> None:
    assert detect_format({"n": 1, "list": [1, 2]}) is None


def sniff_one(path: Path) -> SniffResult:
    (result,) = sniff(path)
    return result


def test_detected_options_make_a_source_that_reads_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"body": f"句子{n}。", "source": "ab"[n % 2]}) + "\n" for n in range(9))
    )
    pq.write_table(pa.table({"content": ["one text", "two texts"], "n": [1, 2]}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("story,n\nA long story it is,1\nAnd another one,2\n")
    (tmp_path / "d.txt").write_text("Some text.")
    for result, rows in zip(sniff(tmp_path), (1, 9, 2, 2), strict=True):
        source = SOURCES[result.kind].model_validate({**result.options, "path": str(result.path)})
        assert len([row for part in source.parts() for row in source.read(part)]) == rows
        assert result.problems == ()
        assert result.sample


def test_language_group_and_sample(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"第{n}句话。\n", "source": "ab"[n % 2]}) + "\n" for n in range(9)))
    result = sniff_one(file)
    assert result.language == "zh"
    assert result.options == {"kind": "jsonl", "text": "text", "language": "zh", "group": "source"}
    assert result.sample == ("第0句话。", "第1句话。", "第2句话。")
    file.write_text('{"text": "中文"}\n{"text": "English"}\n')
    assert sniff_one(file).language == "auto"


def test_a_sample_of_labelled_replies_has_the_bad_labels_too(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": label, "system": None} for label in (True, False, 0)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = [
        text.removeprefix("prompt: a | completion: b | label: ") for text in sniff_one(tmp_path / "a.jsonl").sample
    ]
    assert labels == ["True", "False", "0"]


@pytest.mark.parametrize("column", ["text", "prompt", "note"])
def test_turns_in_parquet_are_what_a_row_says_whatever_stands_beside_them(tmp_path: Path, column: str) -> None:
    turns = [[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": f"Because {n}."}] for n in range(3)]
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    pq.write_table(pa.table({column: ["rendered " * 9] * 3, "messages": pa.array(turns, kind)}), tmp_path / "a.parquet")
    result = sniff_one(tmp_path / "a.parquet")
    assert result.options == {"kind": "parquet", "rows": "conversations", "language": "en"}
    source = SOURCES["parquet"].model_validate({**result.options, "path": str(result.path)})
    records = [row.record for part in source.parts() for row in source.read(part) if isinstance(row, Row)]
    assert [record and record["messages"] for record in records] == turns
    assert columns_not_used(records[0] or {}, "conversations") == (column,)


def test_problems_name_bad_rows_and_rows_of_another_format(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\noops\n{"text": "two"}\n{"messages": [{"role": "user", "content": "three"}]}\n')
    problems = sniff_one(file).problems
    assert len(problems) == 2
    assert "a.jsonl:2: not JSON" in problems[0]
    assert "1 of 3 sampled rows have another format" in problems[1]
    file.write_text('{"n": 1}\n')
    assert sniff_one(file).row_format is None
    assert "no column with text" in sniff_one(file).problems[0]


def test_large_text_files_are_split_at_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("A paragraph of a book.\n\n" * 20_000)
    assert sniff_one(tmp_path / "book.txt").options["split"] == "blank_lines"
    for name in "abc":
        (tmp_path / f"{name}.md").write_text(f"Article {name}.")
    (tmp_path / "book.txt").unlink()
    assert sniff_one(tmp_path).options == {"kind": "text", "split": "file", "language": "en"}


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b'{"text": "one"}\n{"text": "two"}\n', {"kind": "jsonl", "text": "text"}),
        (b"title,text\na,some text\nb,more text\n", {"kind": "csv", "text": "text"}),
        (b"title\ttext\na\tsome text\nb\tmore text\n", {"kind": "csv", "text": "text"}),
        (b"title;text\na;some text, and so on\nb;more text\n", {"kind": "csv", "text": "text"}),
        (b"Dear diary,\ntoday I read, and wrote.\n", {"kind": "text", "split": "file"}),
        ("Dear diary,\ntoday I read.\n".encode("utf-16"), {"kind": "text", "split": "file"}),
        ('{"text": "one\u2028two\u2029\x85three"}\n{"text": "four"}\n'.encode(), {"kind": "jsonl", "text": "text"}),
        (b"title,text\ra,some text\rb,more text\r", {"kind": "csv", "text": "text"}),
        (b'[\n {"text": "one"},\n {"text": "two"}\n]\n', {"kind": "json", "text": "text"}),
    ],
)
def test_a_file_without_a_known_suffix_is_what_its_content_is(
    tmp_path: Path, content: bytes, options: dict[str, str]
) -> None:
    (tmp_path / "mine.dat").write_bytes(content)
    result = sniff_one(tmp_path / "mine.dat")
    assert result.options == options | {"language": "en"}
    source = SOURCES[result.kind].model_validate({**result.options, "path": str(result.path)})
    assert all(row.text for part in source.parts() for row in source.read(part) if isinstance(row, Row))


@pytest.mark.parametrize("content", [b"{\n  1: 2\n}\n", b"\x00\x01\x02", b"[[1, 2], [3, 4]]\n"])
def test_other_content_is_of_no_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.dat").write_bytes(content)
    assert kind_by_content(tmp_path / "mine.dat") is None


@pytest.mark.parametrize(
    "table",
    [
        {"text": {"0": "a row", "1": "another"}},  # pandas.DataFrame.to_json, by default
        {"text": {"0": "a row", "1": "another"}, "n": {"0": 1, "1": 2}},
        {"a1": {"text": "a row"}, "a2": {"text": "another"}},
        {"columns": ["text"], "index": [0, 1], "data": [["a row"], ["another"]]},
        {"text": ["a row", "another"]},
    ],
)
def test_a_table_in_one_json_object_is_no_row(tmp_path: Path, table: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(table, indent=1))
    result = sniff_one(tmp_path / "a.json")
    assert result.row_format is None
    assert "Expected an array of rows (pandas: to_json with orient='records')" in result.problems[0]


def test_chats_in_running_text_are_noted(tmp_path: Path) -> None:
    rows = ["<|im_start|>user\nHi<|im_end|>", "### Human: Hi### Assistant: Hello", "Hi, she said, and left."]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    assert "marks of a template (<|im_start|>) are read as running text" in sniff_one(tmp_path / "a.jsonl").problems[0]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows[1:]))
    assert sniff_one(tmp_path / "b.jsonl").problems == ()


def test_a_text_within_an_object_is_detected_and_a_name_beside_a_list_is_not(tmp_path: Path) -> None:
    record = {
        "id": "doc 1",
        "page": {"title": "Ferry", "body": "The ferry stops when the river is high."},
        "v": [0.5] * 99,
    }
    row_format = detect_format(record)
    assert row_format is not None
    assert row_format.columns == ("page.body",)
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    result = sniff_one(tmp_path / "a.jsonl")
    assert (result.options["text"], result.sample) == ("page.body", ("The ferry stops when the river is high.",))
    assert detect_format({"id": "doc 1", "paragraphs": ["A long paragraph of the text."]}) is None


def test_the_encoding_of_a_text_is_found(tmp_path: Path) -> None:
    text = "集市在桥的那一边，天亮以前就有人了。"
    (tmp_path / "a.txt").write_bytes(text.encode("gb18030"))
    result = sniff_one(tmp_path / "a.txt")
    assert (result.encoding, result.language, result.sample) == ("gb18030", "zh", (text,))


def test_errors_name_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.exe").write_bytes(b"MZ\0")
    (tmp_path / "empty.jsonl").touch()
    for path, words in (("a.exe", "kind"), ("empty.jsonl", "empty"), ("absent.csv", "no such file")):
        with pytest.raises(UserError, match=f"{path}.*{words}"):
            sniff(tmp_path / path)
    assert source_kind(Path("x.ndjson.gz")) == "jsonl"


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("prices.xlsx", b"PK\x03\x04", "a spreadsheet, which is not read: save each sheet as CSV"),
        ("letter.rtf", b"{\\rtf1 Dear all}", "save it as .docx"),
        ("steps.ipynb", b'{"cells": []}', "jupyter nbconvert --to markdown"),
        ("all.zip", b"PK\x03\x04", "unpack it and name the folder"),
        ("books.mobi", b"BOOK\0MOBI", "convert it to EPUB"),
        ("talk.MP3", b"ID3\x03\0", "write down what is said"),
        ("unknown.bin", b"\0\1\2", "expected .txt, .md, .rst, .jsonl"),
    ],
)
def test_what_is_not_read_is_named_with_a_remedy(tmp_path: Path, name: str, content: bytes, advice: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*{re.escape(advice)}"):
        sniff(tmp_path / name)


def test_lines_of_objects_with_commas_after_them(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"Some text, number {n}."}) + ",  \n" for n in range(20))
    for name in ("a.jsonl", "a.json", "b"):
        (tmp_path / name).write_text(lines)
        [result] = sniff(tmp_path / name)
        assert result.problems == ()
        source = SOURCES[result.kind].model_validate({**result.options, "path": str(result.path)})
        read = [row for part in source.parts() for row in source.read(part)]
        assert [row.text for row in read if isinstance(row, Row)] == [f"Some text, number {n}." for n in range(20)]
        assert len(read) == 20


OTHER_LANGUAGES = {
    "ja": [
        "朝の市場は港のすぐ隣にあって、魚を売る人の声が遠くまで聞こえる。",
        "祖母は毎朝そこで小さな魚を買って帰った。",
    ],
    "ko": [
        "작은 마을의 빵집 주인은 매일 새벽 네 시에 일어나 반죽을 시작한다.",
        "아이들은 학교에 가는 길에 따뜻한 빵을 사서 나누어 먹으며 걸어갔다.",
    ],
    "fr": ["Le phare de la pointe s'allumait à six heures, et le gardien ne quittait plus sa chaise jusqu'au matin."],
}


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_other_languages_are_neither_english_nor_chinese(tmp_path: Path, language: str) -> None:
    texts = OTHER_LANGUAGES[language] * 10
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert sniff_one(tmp_path / "a.jsonl").language == "auto"
    options = {"kind": "jsonl", "path": str(tmp_path / "a.jsonl"), "language": "auto"}
    estimate = amount(options)
    assert (estimate.rows, estimate.text_bytes) == (len(texts), {})


@pytest.mark.parametrize("name", REAL)
def test_real_files(data_dir: Path, name: str) -> None:
    result = sniff_one(data_dir / name)
    assert result.row_format is not None
    assert (result.row_format.rows, result.language, result.options.get("group")) == REAL[name]
    assert len(result.sample) == 3
    assert result.problems == ()
