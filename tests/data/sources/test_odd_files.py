"""Files as people have them: tables named as text, splits in one document, turns by themselves, files of Arrow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.dialogues.conversation_records import ParsedConversation, parse_conversation
from pipelines.data.dialogues.preference_records import ParsedPreferences, parse_preferences
from pipelines.data.sources.record_formats import columns_not_used
from pipelines.data.sources.sniffing import SniffResult, sniff
from pipelines.data.sources.source import BadRow, Row
from pipelines.errors import UserError
from tests.data.sources.reading import bad, make_source, rows, texts

TURNS = [{"role": "user", "content": "Where is the weir?"}, {"role": "assistant", "content": "Below the mill."}]
EXCHANGES = [{"question": f"Where is weir {n}?", "answer": "Below the mill."} for n in range(3)]


def sniff_one(path: Path) -> SniffResult:
    (result,) = sniff(path)
    return result


def records(result: SniffResult) -> list[Any]:
    options = {name: value for name, value in result.options.items() if name != "kind"}
    source = make_source(result.path.parent, result.kind, str(result.path), **options)
    return [row.record for row in rows(source) if isinstance(row, Row)]


# ---- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("question\tanswer\r\nWhere is weir 0?\tBelow the mill.\r\n".encode("utf-16"), "csv"),
        (b"text\tpage\nThe weir is below the mill.\t3\n", "csv"),
        ((json.dumps(EXCHANGES[0]) + "\n").encode(), "jsonl"),
        (json.dumps(EXCHANGES).encode("utf-8-sig"), "json"),
    ],
    ids=["excel", "tabs", "lines", "array"],
)
def test_rows_in_a_file_named_as_text_are_rows(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert sniff_one(tmp_path / "a.txt").kind == kind
    (tmp_path / "b.txt").write_text("The weir is below the mill.\n")
    (tmp_path / "c.txt").write_text("The mill is above the weir.\n")
    documents, read = sniff(tmp_path)
    assert [path.name for path in documents.paths] == ["b.txt", "c.txt"] and documents.kind == "text"
    assert (read.path.name, read.kind) == ("a.txt", kind)


@pytest.mark.parametrize(
    "content",
    [
        "Ann\tWhere is the weir?\nBob\tBelow the mill.\n",
        "question\tanswer\n\nAn essay on both.\n",
        '{"level": "info", "note": "started"}\n',
        "[1] A footnote.\n",
        "answer\tanswer\tquestion\na\tb\tc\n",
    ],
    ids=["script", "prose", "log", "footnote", "doubled"],
)
def test_other_text_stays_text(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    assert sniff_one(tmp_path / "a.txt").kind == "text"


# ---- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("names", [("train", "test"), ("validation", "train"), ("Dev", "data")])
def test_a_split_beside_the_rows_of_a_document_is_counted_and_no_bad_row(
    tmp_path: Path, names: tuple[str, str], indent: int | None
) -> None:
    document = {name: EXCHANGES if name in ("train", "data") else EXCHANGES[:2] for name in names}
    (tmp_path / "a.json").write_text(json.dumps(document, indent=indent))
    read = rows(make_source(tmp_path, "json", "a.json", rows="conversations"))
    assert [row.record for row in read if isinstance(row, Row)] == EXCHANGES
    held_out = [row for row in read if isinstance(row, BadRow)]
    assert [row.reason for row in held_out] == ["split", "split"]
    assert "a split which is not for training" in held_out[0].problem
    assert sniff_one(tmp_path / "a.json").problems == ()


@pytest.mark.parametrize("is_broken", [False, True])
def test_no_row_of_a_split_that_is_larger_than_a_row_may_be_is_read_for_training(
    tmp_path: Path, is_broken: bool
) -> None:
    held_out = [{"question": f"Held out {n}?", "answer": "z" * 1000} for n in range(2000)]
    text = json.dumps({"train": EXCHANGES, "test": held_out, "licence": "x"})
    (tmp_path / "a.json").write_text(text.replace('"Held out 9?"', "9 9") if is_broken else text)
    source = make_source(tmp_path, "json", "a.json", rows="conversations", max_row_bytes=10_000)
    read = rows(source)
    assert [row.record for row in read if isinstance(row, Row)] == EXCHANGES
    reasons = Counter(row.reason for row in read if isinstance(row, BadRow))
    assert reasons == ({"split": 1999, "": 1} if is_broken else {"split": 2000})


@pytest.mark.parametrize("number", [1, 2, 3], ids=["train", "test", "data"])
def test_a_broken_last_row_of_a_list_does_not_make_the_next_list_one_of_its_kind(tmp_path: Path, number: int) -> None:
    names = {1: "train", 2: "test", 3: "data"}
    document = {name: [{"question": f"{place} {n}?", "answer": "a"} for n in "ab"] for place, name in names.items()}
    text = json.dumps(document, indent=1)
    (tmp_path / "a.json").write_text(text.replace(f'{number} b?"', f"{number} b?"))
    read = rows(make_source(tmp_path, "json", "a.json", rows="conversations"))
    said = [row.record["question"] for row in read if isinstance(row, Row) and row.record is not None]
    assert said == [text for text in ("1 a?", "1 b?", "3 a?", "3 b?") if text != f"{number} b?"]
    reasons = Counter(row.reason for row in read if isinstance(row, BadRow))
    assert reasons == {"": 1, "split": 1 if number == 2 else 2}


def row_list(kind: str) -> str:
    return ", ".join(json.dumps({"text": f"{kind} {number}"}) for number in range(3))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("document", "found"),
    [
        ('{"test": [oops %s],\n"train": [%s]}', "Expecting value after 10 characters"),
        ('{"version": 1, "test": [, %s],\n"train": [%s]}', "Expecting value after 24 characters"),
        ('{"test" [%s],\n"train": [%s]}', "Expecting ':' delimiter after 8 characters"),
        ('{"version": v1\n, "test": [\n%s],\n"train": [%s]}', "Expecting value after 12 characters"),
        ('{"test": [%s, "train": [%s]}', "Expecting ',' delimiter after 89 characters"),
    ],
    ids=["junk", "comma", "colon", "before", "unclosed"],
)
def test_nothing_is_read_of_a_document_that_is_broken_before_its_rows_and_has_some_that_are_held_out(
    tmp_path: Path, document: str, found: str, name: str
) -> None:
    (tmp_path / name).write_text(document % (row_list("held out"), row_list("read")))
    for row in rows(make_source(tmp_path, name.rsplit(".", maxsplit=1)[-1], name)):
        assert isinstance(row, BadRow) and row.row <= 2
    if name == "a.json" or "[\n" in document:
        [row] = rows(make_source(tmp_path, "json", name))
        assert isinstance(row, BadRow)
        assert row.problem.startswith(f"not JSON ({found}), with a list 'test', which is not for training")
        assert row.problem.endswith('Repair it; expected {"train": [rows], "test": [rows]}')


def test_a_list_that_is_held_out_is_told_in_whatever_place_reading_goes_on(tmp_path: Path) -> None:
    many = ", ".join(json.dumps({"text": f"{number} {'x' * 1000}"}) for number in range(1500))  # more than is looked at
    (tmp_path / "a.json").write_text(
        f'{{"train" [{many}], "test": [{row_list("held out")}], "data": [{row_list("last")}]}}'
    )
    read = rows(make_source(tmp_path, "json", "a.json"))
    assert sum("held out" in row.text for row in read if isinstance(row, Row)) == 0
    assert len([row for row in read if isinstance(row, Row)]) == 1503
    assert Counter(row.reason for row in read if isinstance(row, BadRow))["split"] == 3


@pytest.mark.parametrize("hole", ["null, ", '1, "x", '])
def test_a_list_that_is_held_out_may_begin_with_something_else(tmp_path: Path, hole: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"test": [{hole}{row_list("held out")}], "train": [null, {row_list("read")}]}}')
    read = rows(make_source(tmp_path, "json", "a.json"))
    assert [row.text for row in read if isinstance(row, Row)] == ["read 0", "read 1", "read 2"]
    num_held_out = 3 + hole.count(",")
    assert Counter(row.reason for row in read if isinstance(row, BadRow)) == {"split": num_held_out, "": 1}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("document", "lists"),
    [
        ({"test": {"rows": EXCHANGES}, "train": {"rows": EXCHANGES}}, "test.rows, train.rows"),
        ({"dataset": {"train": EXCHANGES, "test": EXCHANGES[:1]}}, "dataset.train, dataset.test"),
    ],
)
def test_lists_within_another_object_are_named(
    tmp_path: Path, document: dict[str, Any], lists: str, indent: int | None
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document, indent=indent))
    [row] = rows(make_source(tmp_path, "json", "a.json", rows="conversations"))
    assert isinstance(row, BadRow)
    assert row.problem.startswith(f"the lists of objects {lists} stand within another object")
    (tmp_path / "b.json").write_text(json.dumps({"text": "One row.", "order": {"items": [{"n": 1}]}}, indent=indent))
    assert [row.text for row in rows(make_source(tmp_path, "json", "b.json")) if isinstance(row, Row)] == ["One row."]
    (tmp_path / "c.json").write_text(json.dumps({"text": "a", "test": {"cases": [{"n": 1}]}}, indent=1) * 2)
    assert texts(make_source(tmp_path, "json", "c.json")) == ["a", "a"]


def test_what_stands_beside_the_rows_of_a_document_is_named(tmp_path: Path) -> None:
    document = {"version": "1.0", "license": "", "system": "Be kind.", "data": EXCHANGES, "year": 2020}
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert sniff_one(tmp_path / "a.json").problems == ("a.json: beside the rows, and not read: version, system, year",)
    (tmp_path / "b.json").write_text(json.dumps(EXCHANGES))
    assert sniff_one(tmp_path / "b.json").problems == ()


def test_a_list_of_turns_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(TURNS)}\n{json.dumps(TURNS)},\n" + '["a", "b"]\n')
    (tmp_path / "b.json").write_text(json.dumps([TURNS, TURNS], indent=1))
    for name, num_bad in (("a.jsonl", 1), ("b.json", 0)):
        result = sniff_one(tmp_path / name)
        assert result.options["rows"] == "conversations" and len(result.problems) == num_bad
        assert records(result) == [{"messages": TURNS}] * 2


def test_objects_over_several_lines_each_are_read_whatever_the_suffix_is(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text("\n".join(json.dumps(row, indent=2) for row in EXCHANGES))
        assert records(sniff_one(tmp_path / name)) == EXCHANGES


def test_the_only_line_of_a_file_is_a_list_of_turns_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(TURNS) + "\n")
    assert records(sniff_one(tmp_path / "a.jsonl")) == [{"messages": TURNS}]


def test_lines_after_one_that_is_cut_after_its_brace_are_read_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{\n{"text": "One."}\nbroken\n{"text": "Two.", "page": 2}\n')
    source = make_source(tmp_path, "jsonl", "a.jsonl")
    assert texts(source) == ["One.", "Two."] and [row for row, _ in bad(source)] == [1, 3]


def test_rows_that_are_single_turns_are_noted(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(TURNS))
    assert "a.json: each row is one turn of a conversation" in sniff_one(tmp_path / "a.json").problems[0]


# ---- Arrow and Parquet -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.arrow", "a.feather"])
@pytest.mark.parametrize("writer", [pa.ipc.new_stream, pa.ipc.new_file], ids=["stream", "file"])
def test_a_single_arrow_file_is_read(tmp_path: Path, name: str, writer: Any) -> None:
    table = pa.Table.from_pylist([{"messages": TURNS}] * 3)
    with writer(str(tmp_path / name), table.schema) as sink:
        sink.write_table(table, max_chunksize=2)
    result = sniff_one(tmp_path / name)
    assert result.options == {"kind": "dataset", "rows": "conversations", "language": "en"}
    assert records(result) == [{"messages": TURNS}] * 3
    assert [each.path.name for each in sniff(tmp_path)] == [name]


def test_columns_of_every_arrow_type_for_text_are_read(tmp_path: Path) -> None:
    large = pa.list_(pa.struct([("role", pa.dictionary(pa.int8(), pa.string())), ("content", pa.large_string())]))
    maps = pa.list_(pa.map_(pa.string(), pa.string()))
    as_maps = [[list(turn.items()) for turn in TURNS]]
    for number, column in enumerate((pa.array([TURNS], large), pa.array(as_maps, maps))):
        file = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"messages": column}), file)
        assert records(sniff_one(file)) == [{"messages": TURNS}]


# ---- columns ---------------------------------------------------------------------------------------------------------


def test_a_map_whose_keys_are_numbers_is_read(tmp_path: Path) -> None:
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    table = pa.table({"messages": pa.array([[*enumerate(TURNS)]], pa.map_(pa.int64(), turn))})
    pq.write_table(table, tmp_path / "a.parquet")
    result = sniff_one(tmp_path / "a.parquet")
    assert result.row_format is not None and result.row_format.rows == "conversations"
    parsed = parse_conversation(records(result)[0])
    assert isinstance(parsed, ParsedConversation) and parsed.messages == TURNS


def test_functions_are_the_tools_of_calls() -> None:
    function = {"name": "tide", "parameters": {"type": "object", "properties": {"port": {"type": "string"}}}}
    call = {"role": "assistant", "content": None, "function_call": {"name": "tide", "arguments": '{"port": "Wick"}'}}
    result = {"role": "function", "name": "tide", "content": "6:10"}
    record = {"messages": [TURNS[0], call, result, TURNS[1]], "functions": [function]}
    parsed = parse_conversation(record)
    assert isinstance(parsed, ParsedConversation)
    assert json.loads(parsed.tools) == [{"type": "function", "function": function}]
    assert columns_not_used(record, "conversations") == ()


@pytest.mark.parametrize(
    "record",
    [
        {"指令": "堤坝在哪里？", "输入": "", "输出": "在磨坊下面。", "系统": "请简短。"},
        {"用户问题": "堤坝在哪里？", "模型回答": "在磨坊下面。", "系统提示词": "请简短。"},
        {"問題": "堤坝在哪里？", "回答": "在磨坊下面。", "系統": "请简短。"},
        {
            "對話": [{"角色": "使用者", "內容": "堤坝在哪里？"}, {"角色": "助理", "內容": "在磨坊下面。"}],
            "系統": "请简短。",
        },
    ],
)
def test_chinese_names_of_columns(record: dict[str, Any]) -> None:
    parsed = parse_conversation(record)
    assert isinstance(parsed, ParsedConversation)
    assert [(turn["role"], turn["content"]) for turn in parsed.messages] == [
        ("system", "请简短。"), ("user", "堤坝在哪里？"), ("assistant", "在磨坊下面。"),
    ]  # fmt: skip
    assert columns_not_used(record, "conversations") == ()


@pytest.mark.parametrize("names", [("好回答", "坏回答"), ("选中", "拒绝"), ("接受", "拒绝"), ("优选", "劣选")])
def test_chinese_names_of_a_pair(names: tuple[str, str]) -> None:
    parsed = parse_preferences({"问题": "堤坝在哪里？", names[0]: "在磨坊下面。", names[1]: "不知道。"})
    assert isinstance(parsed, ParsedPreferences)
    assert [(pair.chosen, pair.rejected) for pair in parsed.pairs] == [("在磨坊下面。", "不知道。")]


def test_turns_in_an_object_by_their_numbers_are_in_order() -> None:
    record = {"messages": {"10": TURNS[1], "9": TURNS[0]}}
    assert parse_conversation(record) == ParsedConversation(TURNS)
    assert columns_not_used(record, "conversations") == ()


@pytest.mark.parametrize(
    ("record", "note"),
    [
        ({"question": "Which?", "choices": ["a", "b"], "answer": 1}, "column 'answer' is the letter or number of a"),
        ({"question": "Which?", "A": "the weir", "B": "the mill", "answer": "B"}, "choice in A, B, which nothing"),
        ({"text": "User: Where is the weir?\nAssistant: Below the mill."}, "the marks of a template (User:) are read"),
        ({"chat": "USER: Where?\n\n\nASSISTANT: There. <|endoftext|>"}, "the marks of a template (USER:) are read"),
        ({"role": "user", "text": "Where is the weir?"}, "each row is one turn of a conversation"),
    ],
)  # fmt: skip
def test_rows_that_do_not_say_all_are_noted(tmp_path: Path, record: dict[str, Any], note: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    (problem,) = sniff_one(tmp_path / "a.jsonl").problems
    assert note in problem


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Which?", "choices": ["a", "b"], "answer": "the mill"},
        {"text": "User: a word for someone who uses a thing."},
        {"question": "A or B?", "answer": "B"},
    ],
)
def test_other_rows_are_not_noted(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    assert sniff_one(tmp_path / "a.jsonl").problems == ()


def test_names_of_columns_and_speakers_do_not_decide_on_the_language(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]
    for row in ({"messages": turns}, {"instruction": "你好", "input": "", "output": "好"}):
        (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
        assert sniff_one(tmp_path / "a.jsonl").language == "zh"


def test_a_sample_shows_who_speaks_whatever_the_keys_are(tmp_path: Path) -> None:
    turns = [{"角色": "用户", "内容": "堤坝在哪里？"}, {"角色": "助手", "内容": "在磨坊下面。"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"对话": turns}) + "\n")
    assert sniff_one(tmp_path / "a.jsonl").sample == ("对话: 用户: 堤坝在哪里？ / 助手: 在磨坊下面。",)


# ---- tables and what is no file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path: Path, name: str) -> None:
    """A record would hold one of them, and the other would be lost in silence."""
    table = pa.table([["One."], ["Two."]], names=["text", "text"])
    if name == "a.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_stream(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(UserError, match=f"{name}: the schema has text more than once; give each column its own name"):
        rows(make_source(tmp_path, "parquet" if name == "a.parquet" else "dataset", name))


def test_a_row_in_place_of_the_names_of_columns_is_noted(tmp_path: Path) -> None:
    lines = [f'{number},"The weir below mill number {number} was built long before the road."' for number in range(5)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    [note] = sniff_one(tmp_path / "a.csv").problems
    assert "in a column named 'The weir below mill number 0 was built l…': if that is a row, give the table" in note
    (tmp_path / "b.csv").write_text("\n".join(["id,text", *lines]) + "\n")
    assert sniff_one(tmp_path / "b.csv").problems == ()


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.parquet", "a.csv", "a.pdf", "a.arrow"])
def test_a_pointer_of_git_lfs_is_told_from_the_file(tmp_path: Path, name: str) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    problem = "a pointer of Git LFS in place of the file; expected its content: git lfs pull"
    with pytest.raises(UserError, match=f"{name}: {problem}"):
        sniff(tmp_path / name)
    kind = {"a.txt": "text", "a.arrow": "dataset"}.get(name, name[2:])
    with pytest.raises(UserError, match=f"{name}: {problem}"):
        rows(make_source(tmp_path, kind, name))
    other = tmp_path / f"b{name[1:]}"
    other.write_text(pointer)  # among others it is a bad row of each
    read = rows(make_source(tmp_path, kind, [name, other.name]))
    assert [row.problem for row in read if isinstance(row, BadRow)] == [problem, problem]


def test_files_whose_first_rows_are_all_unreadable_are_not_taken_for_english(tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / f"{number:03}.txt").touch()
    (tmp_path / "last.txt").write_text("渡船早上六点离开小岛，错过的人只好等到第二天早晨。")
    assert sniff_one(tmp_path).language == "auto"
