"""What `rayse init` says of each file: the counts of the run, columns, encoding, and when it refuses."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cluster.session import Session
from pipelines.cli import app
from pipelines.data.sources import ranges
from pipelines.data.sources.text import Text
from pipelines.recipe import reader
from pipelines.stage import Facts, Work
from pipelines.stages import STAGES
from pipelines.store.artifacts import Draft
from pipelines.verbs import file_review
from tests.stages.single import ProgressNotes
from tests.verbs.test_init import ENGLISH, init, jsonl, texts

CONVERSATIONS: list[Any] = [
    {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}], "url": "x"},
    {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}], "url": ""},
    {"messages": [{"role": "user", "content": "Who?"}]},
    {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": ""}]},
    "oops",
]
PAIRS: list[Any] = [
    {"prompt": "1 + 1?", "chosen": "2", "rejected": "3", "rating": 4},
    {"prompt": "1 + 2?", "chosen": "3", "rejected": "3"},
    {"prompt": "1 + 3?", "chosen": "4"},
    {"prompt": "1 + 4?", "chosen": "5", "rejected": "6"},
]
DOCUMENTS: list[Any] = [
    {"text": f"{ENGLISH[0]} It was a long day for all of us, and the night was no shorter.", "page": 1},
    {"text": "Too short.", "page": 2},
    {"text": "- one\n- two\n- three\n" * 40, "page": 3},
    {"text": None, "page": 4},
    {"text": f"{ENGLISH[1]} We had been on the road for a week, and there was no end to it.", "page": None},
]


def rows(file: Path, values: list[Any]) -> Path:
    lines = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def files(*arguments: str | Path) -> dict[str, Any]:
    done = init(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["files"]


def run(recipe: Path, stage: str, session: Session) -> Facts:
    """Runs a stage of a recipe that init wrote, with the limit on bad rows out of the way."""
    entry = reader.load(recipe, STAGES, overrides=[f"{stage}.max_bad_rows=100"]).entry(stage)
    draft = Draft(recipe.parent / f"draft-{stage}", "fingerprint")
    work = Work(name=stage, options=entry.options, cluster=entry.cluster, seed=7, inputs={}, sources=entry.sources,
                draft=draft, progress=ProgressNotes(), session=session)  # fmt: skip
    work.draft.out.mkdir(parents=True, exist_ok=True)
    return entry.stage.run(work)


@pytest.mark.parametrize(
    ("stage", "values"), [("conversations", CONVERSATIONS), ("preferences", PAIRS), ("corpus", DOCUMENTS)]
)
def test_the_counts_are_those_of_the_run(stage: str, values: list[Any], tmp_path: Path, session: Session) -> None:
    file = rows(tmp_path / "mine.jsonl", values)
    facts = files(file, "--out", tmp_path / "r.yaml")[str(file)]
    made = run(tmp_path / "r.yaml", stage, session)
    assert facts["rows_read"] == made["rows/read"] == len(values)
    assert facts["rows_used"] == made["rows/used"] == 2
    not_used = {f"rows/not_used_{reason}": number for reason, number in facts["not_used"].items()}
    assert not_used == {name: value for name, value in made.items() if name.startswith("rows/not_used_")}


def test_columns_are_named_with_the_rows_in_which_they_carry_a_value(tmp_path: Path) -> None:
    file = rows(tmp_path / "mine.jsonl", DOCUMENTS)
    facts = files(file, "--out", tmp_path / "r.yaml")[str(file)]
    assert (facts["columns_used"], facts["columns_not_used"]) == ({"text": 4}, {"page": 4})
    notes = (float("nan"), "  ", "<noinput>", [], 0)
    values = [{**value, "note": note} for value, note in zip(DOCUMENTS, notes, strict=True)]
    file = rows(tmp_path / "notes.jsonl", values)
    assert files(file, "--out", tmp_path / "n.yaml")[str(file)]["columns_not_used"] == {"page": 4, "note": 1}
    talks = rows(tmp_path / "talks.jsonl", [*CONVERSATIONS, {**CONVERSATIONS[0], "refusal": "I can't."}])
    facts = files(talks, "--out", tmp_path / "s.yaml")[str(talks)]
    assert (facts["columns_used"], facts["columns_not_used"]) == ({"messages": 5}, {"url": 2, "refusal": 1})


def test_each_file_is_shown_with_reasons_places_and_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "mine.jsonl", DOCUMENTS)
    rows(tmp_path / "talks.jsonl", CONVERSATIONS)
    done = init("mine.jsonl", "talks.jsonl")
    assert done.exit_code == 0, done.output
    shown = done.stdout.splitlines()
    counts = "read 5 rows, used 2; not used: 1 unreadable, 1 too_short, 1 duplicate_lines"
    assert f"    mine.jsonl: {counts}; language en, encoding utf-8" in shown
    assert "        columns used: text" in shown and "        columns not used: page (4 rows)" in shown
    assert "        too_short: mine.jsonl:2: 2 < 10 (filters.length.min_words)" in shown
    assert "        warning: the run would leave out, by its rules, 1 too_short, 1 duplicate_lines" in shown
    assert any(line.startswith("        no_reply: talks.jsonl:3: a conversation without") for line in shown)
    assert sum("talks.jsonl:5: not JSON" in line for line in shown) == 1


def test_a_doubled_key_that_nothing_reads_is_named(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    messages = json.dumps(CONVERSATIONS[0]["messages"])
    file.write_text(f'{{"id": 1, "id": 2, "messages": {messages}}}\n' * 3)
    facts = files(file, "--out", tmp_path / "r.yaml")[str(file)]
    assert (facts["rows_read"], facts["not_used"], facts["columns_not_used"]) == (3, {}, {"id": 3})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([{"n": 1}], "no column with text; columns are: n"),
        ([{"text": " "}, {"text": "\n"}], "it holds no text, only blanks"),
        ([{"messages": [{"role": "user", "content": "Why?"}]}] * 3, "3 no_reply of 3 rows. First: .*bad.jsonl:1: a"),
        (["oops"] * 5, "bad.jsonl:1: not JSON"),
        ([{"prompt": "a", "chosen": "b", "rejected": "b"}] * 2, "2 equal_sides of 2 rows"),
    ],
)  # fmt: skip
def test_a_file_of_which_nothing_is_understood_leaves_all_without_a_recipe(
    values: list[Any], reason: str, tmp_path: Path
) -> None:
    good, bad = texts(tmp_path / "good.jsonl", ENGLISH), rows(tmp_path / "bad.jsonl", values)
    done = init(good, bad, "--out", tmp_path / "r.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "bad.jsonl: nothing of it was understood: " in done.stderr and "good.jsonl" not in done.stderr
    assert "expected rows of running text" in done.stderr
    facts = json.loads(init(good, bad, "--out", tmp_path / "r.yaml", "--json").stdout)
    assert facts["recipe"] is None and facts["files"][str(good)]["rows_used"] == 200
    assert len(facts["not_understood"]) == 1
    assert re.search(reason, facts["not_understood"][0])
    assert not (tmp_path / "r.yaml").exists()


def test_in_a_folder_such_a_file_is_left_out_and_named(tmp_path: Path) -> None:
    texts(tmp_path / "data" / "good.jsonl", ENGLISH)
    rows(tmp_path / "data" / "bad.jsonl", [{"n": 1}])
    (tmp_path / "data" / "picture.png").write_bytes(b"\x89PNG")
    done = init(tmp_path / "data", "--out", tmp_path / "r.yaml")
    assert done.exit_code == 0, done.output
    assert f"left out: {tmp_path / 'data'}: 1 files of no known kind (1 .png)" in done.stdout
    assert "bad.jsonl: nothing of it was understood: bad.jsonl: no column with text" in done.stdout
    sources = reader.load(tmp_path / "r.yaml", STAGES).entry("corpus").sources.values()
    assert [source.model_dump()["path"] for source in sources] == ["data/good.jsonl"]


@pytest.mark.parametrize(
    "row", [{"text": f"{ENGLISH[0]} It was a long day for all of us, and the night was no shorter."}, CONVERSATIONS[0]]
)
def test_the_held_out_rows_of_a_document_are_left_out_by_rule(tmp_path: Path, row: dict[str, Any]) -> None:
    """As bad rows they would stop the run: there are more of them than of the others."""
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"train": [row] * 2, "test": [row] * 20, "version": 3}))
    done = init(file, "--out", tmp_path / "r.yaml")
    assert done.exit_code == 0 and "read 22 rows, used 2; not used: 20 split" in done.stdout
    assert "note: mine.json: beside the rows, and not read: version" in done.stdout
    assert "would stop" not in done.stdout


def test_of_splits_and_data_sets_all_that_is_not_read_is_named(tmp_path: Path) -> None:
    rows(jsonl(tmp_path / "data/train.jsonl", []), CONVERSATIONS[:2])
    (tmp_path / "data/test.csv").write_text("prompt,chosen,rejected\n1 + 1?,2,3\n")
    pairs = tmp_path / "data" / "pairs"
    pairs.mkdir()
    pq.write_table(pa.Table.from_pylist(PAIRS[:1]), pairs / "train-00000-of-00001.parquet")
    (pairs / "README.md").write_text("# Pairs\n")
    done = init(tmp_path / "data", "--out", tmp_path / "r.yaml")
    assert done.exit_code == 0, done.output
    assert f"left out: {tmp_path}/data/test.csv: a split beside train, which is not for training" in done.stdout
    assert f"left out: {pairs}/README.md: describes a data set; name it to read it" in done.stdout
    sources = reader.load(tmp_path / "r.yaml", STAGES).entry("preferences").sources.values()
    assert [source.model_dump()["path"] for source in sources] == ["data/pairs"]


def test_kinds_of_documents_in_one_folder_have_their_own_counts(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in (("a.html", f"<p>{ENGLISH[0]}"), ("b.html", ""), ("a.txt", ENGLISH[1]), ("b.txt", ENGLISH[2])):
        (folder / name).write_text(text)
    done = init(folder, "--out", tmp_path / "r.yaml", "--json")
    facts = json.loads(done.stdout)["files"]
    counts = {name: (file["rows_read"], file["not_used"]) for name, file in facts.items()}
    assert counts == {f"{folder} (html)": (2, {"unreadable": 1}), f"{folder} (text)": (2, {})}
    (tmp_path / "r.yaml").unlink()
    shown = init(folder, "--out", tmp_path / "r.yaml").stdout
    assert shown.count("docs/b.html:1: the file is empty") == 1


def test_rows_of_prompts_alone_are_refused_with_the_columns_that_nothing_reads(tmp_path: Path) -> None:
    file = rows(tmp_path / "mine.jsonl", [{"question": "Why?", "ans0": "a", "ans1": None}])
    done = init(file, "--out", tmp_path / "r.yaml")
    assert done.exit_code == 2 and not (tmp_path / "r.yaml").exists()
    assert f"{file}: only prompts, which no stage trains on (column question)" in done.stderr
    assert "columns not used: ans0. If one is the reply: columns: {prompt: question, reply: …}" in done.stderr
    facts = json.loads(init(file, "--json", "--out", tmp_path / "r.yaml").stdout)
    assert facts["recipe"] is None and "only prompts" in facts["not_understood"][0]
    assert facts["files"][str(file)]["not_used"] == {"no_stage": 1}


def test_patterns_that_no_shell_replaced(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.txt"):
        texts(tmp_path / name, ENGLISH)
    facts = files(tmp_path / "*.jsonl", "--out", tmp_path / "r.yaml")
    assert list(facts) == [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]


def test_a_file_that_rules_leave_out_as_a_whole_is_understood_and_warned_of(tmp_path: Path) -> None:
    done = init(rows(tmp_path / "mine.jsonl", [{"text": "Short."}] * 3), "--out", tmp_path / "r.yaml")
    assert done.exit_code == 0, done.output
    assert "read 3 rows, used 0; not used: 3 too_short" in done.stdout
    assert "warning: the run would leave out, by its rules, 3 too_short" in done.stdout


def test_too_many_bad_rows_are_warned_of_before_the_run_stops(tmp_path: Path) -> None:
    values = [CONVERSATIONS[0]] * 3 + ["oops"] * 6
    done = init(rows(tmp_path / "mine.jsonl", values), "--out", tmp_path / "r.yaml")
    assert "warning: the run would stop: 6 bad rows, and max_bad_rows allows 4 of them" in done.stdout
    done = init(rows(tmp_path / "mine.jsonl", values[:7]), "--out", tmp_path / "s.yaml")
    assert done.exit_code == 0 and "would stop" in done.stdout
    done = init(rows(tmp_path / "mine.jsonl", values[:6]), "--out", tmp_path / "t.yaml")
    assert done.exit_code == 0 and "would stop" not in done.stdout


def test_no_control_character_of_a_file_reaches_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[31mred\x07\x9b2J \u202ereversed"
    rows(tmp_path / "mine.jsonl", [{"text": f"{ENGLISH[0]} {evil}", evil: 1}, {"text": 5}])
    (tmp_path / "bad.csv").write_text(f'"{evil}",b\n1,2\n', encoding="utf-8")
    shown = init(tmp_path / "mine.jsonl", "--out", tmp_path / "r.yaml")
    as_json = init(tmp_path / "mine.jsonl", "--out", tmp_path / "s.yaml", "--json")
    assert shown.exit_code == as_json.exit_code == 0
    refused = init(rows(tmp_path / "bad.jsonl", [{evil: 1}]), "--out", tmp_path / "t.yaml")
    assert refused.exit_code == 2 and "red" in refused.stderr and "\\x1b[31mred" in shown.stdout
    for output in (shown.output, as_json.output, refused.output):
        assert not set(output) & set("\x1b\x07\x9b\u202e")
    assert evil in json.loads(as_json.stdout)["files"][str(tmp_path / "mine.jsonl")]["columns_not_used"]


def test_a_name_with_escapes_and_line_ends_stays_within_its_line(tmp_path: Path) -> None:
    """Of files that are read, of one that is not there, of one that is broken, and of a recipe."""
    evil = "\x1b[31mred\nerror: all is well"
    escaped = "\\x1b[31mred\\nerror: all is well"
    folder = tmp_path / "data"
    folder.mkdir()
    rows(folder / f"{evil}.jsonl", [*DOCUMENTS, "oops"])
    (folder / f"{evil}.parquet").write_bytes(b"oops")
    shown = init(folder, "--out", tmp_path / "r.yaml")
    assert shown.exit_code == 0 and f"data/{escaped}.jsonl: read" in shown.stdout
    assert f"left out: {folder}/{escaped}.parquet: nothing of it was understood" in shown.stdout
    sources = reader.load(tmp_path / "r.yaml", STAGES).entry("corpus").sources.values()
    assert [source.model_dump()["path"] for source in sources] == [f"data/{evil}.jsonl"]
    gone = init(tmp_path / f"{evil}.csv", "--out", tmp_path / "s.yaml")
    broken = init(folder / f"{evil}.parquet", "--out", tmp_path / "s.yaml")
    halved = init(os.fsdecode(b"caf\xe9.jsonl"), "--out", tmp_path / "s.yaml")
    named = CliRunner().invoke(app, ["plan", str(tmp_path / f"{evil}.yaml")])
    too_long = init(tmp_path / f"{evil}{'n' * 300}", "--out", tmp_path / "s.yaml")
    joined = escaped.replace("\\n", " ")  # as the lines of any text in an error
    for done, name in ((gone, f"{joined}.csv"), (broken, f"{joined}.parquet"), (halved, "caf\\udce9.jsonl"),
                       (named, f"{joined}.yaml"), (too_long, f"{joined}{'n' * 300}")):  # fmt: skip
        assert done.exit_code == 2 and f"{name}: " in done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\nerror: ") == 0
    for done in (shown, gone, broken, halved, named, too_long):
        assert "\x1b" not in done.output and "\nerror: all" not in done.output


def test_of_thousands_of_files_the_terminal_shows_a_few_and_json_all(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03}.txt").write_text(f"{ENGLISH[0]} It was the day number {number} of the year.")
        rows(folder / f"{number:03}.jsonl", ["oops"])
    texts(folder / "rows.txt", ENGLISH)
    shown = init(folder, "--out", tmp_path / "r.yaml")
    assert shown.exit_code == 0 and f"{folder} (200 text files): read 200 rows" in shown.stdout
    assert "left out: 180 more of these; --json has all" in shown.stdout
    assert len(shown.stdout.splitlines()) < 50
    facts = json.loads(init(folder, "--out", tmp_path / "s.yaml", "--json").stdout)
    assert len(facts["sources"]["data"]["options"]["path"]) == len(facts["left_out"]) == 200
    sources = reader.load(tmp_path / "r.yaml", STAGES).entry("corpus").sources
    assert {name: len(source.parts()) for name, source in sources.items()} == {"data": 200, "rows": 1}
    refused = init(*sorted(folder.glob("*.jsonl")), "--out", tmp_path / "t.yaml")
    assert refused.exit_code == 2 and len(refused.stderr.splitlines()) == 22
    wide = rows(tmp_path / "wide.jsonl", [{"text": text} | {f"c{n}": 1 for n in range(500)} for text in ENGLISH])
    assert ", c19 (200 rows), and 480 more\n" in init(wide, "--out", tmp_path / "u.yaml").stdout


def test_of_large_files_the_first_rows_are_judged_and_counts_are_estimates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_review, "MAX_TEXT_BYTES", 50_000)
    monkeypatch.setattr(file_review, "MAX_RECORD_BYTES", 20_000)
    many = texts(tmp_path / "many.jsonl", [text if n % 10 else "Short." for n, text in enumerate(ENGLISH * 40)])
    talks = jsonl(tmp_path / "talks.jsonl", [{"prompt": "Why?", "response": "Because."}] * 10_000)
    facts = files(many, talks, "--out", tmp_path / "r.yaml")
    assert not facts[str(many)]["exact"] and not facts[str(talks)]["exact"]
    assert facts[str(many)]["rows_read"] == pytest.approx(8000, rel=0.01)
    assert facts[str(many)]["not_used"]["too_short"] == pytest.approx(800, rel=0.15)
    assert facts[str(talks)]["rows_read"] == facts[str(talks)]["rows_used"] == 10_000
    shown = init(many, "--out", tmp_path / "s.yaml").stdout
    assert "read about 8,0" in shown and ", used about 7," in shown


def test_no_range_is_reached_beyond_the_first_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines would be counted from the file's begin, to number them."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", 10_000)
    (tmp_path / "a.txt").write_text("A line of text.\n" * 20_000)
    source = Text(path="a.txt", split="lines").at(tmp_path)
    first = file_review.FirstRows.of(source, 50_000)
    counted = list[int]()
    count_lines = ranges.count_lines

    def count(file: Path, start: int, stop: int) -> int:
        counted.append(stop - start)
        return count_lines(file, start, stop)

    monkeypatch.setattr(ranges, "count_lines", count)
    texts = [row for part in first.parts() for row in first.read(part)]
    assert first.num_rows == len(texts) == pytest.approx(50_000 / 15, rel=0.01) and not first.is_complete
    assert sum(counted) < 60_000


def test_a_hundred_megabytes_take_seconds(tmp_path: Path) -> None:
    texts(tmp_path / "large.jsonl", ENGLISH * 4000)
    assert (tmp_path / "large.jsonl").stat().st_size > 100e6
    files(texts(tmp_path / "small.jsonl", ENGLISH), "--out", tmp_path / "r.yaml")  # compiles, on a fresh machine
    start = time.process_time()
    files(tmp_path / "large.jsonl", "--out", tmp_path / "s.yaml")
    assert time.process_time() - start < 5


def test_turns_that_are_left_out_of_rows_are_told(tmp_path: Path) -> None:
    first = {"role": "assistant", "content": "Hello!"}
    again = {"role": "user", "content": "Why?"}
    values = [{"messages": turns} for turns in ([first, *CONVERSATIONS[0]["messages"]],
                                                [first, *CONVERSATIONS[1]["messages"], again], [first])]  # fmt: skip
    file = rows(tmp_path / "mine.jsonl", values)
    facts = files(file, "--out", tmp_path / "r.yaml")[str(file)]
    assert (facts["rows_used"], facts["not_used"]) == (2, {"unprompted": 1})
    assert facts["turns_cut"] == {"before": 2, "after": 1}
    printed = init(file, "--out", tmp_path / "s.yaml").output
    assert "turns left out before the first user's: 2" in printed
    assert "turns left out after the last reply that is learnt: 1" in printed
