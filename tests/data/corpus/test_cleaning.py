"""Cleaning rows to documents: every row is counted once, and batching does not change the result."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.data.corpus import cleaning
from pipelines.data.corpus.documents import DOCUMENTS, document_of
from pipelines.data.corpus.filters import Filters
from pipelines.data.corpus.filters.filter import MaxWords
from pipelines.data.corpus.minhash import exact_keys
from pipelines.data.corpus.rules import Rules
from pipelines.data.sources.jsonl import Jsonl
from pipelines.data.sources.source import BadRow, Part, Row
from pipelines.data.text.privacy_kinds import PrivacyOptions
from tests.data.corpus.test_web_filters import BOOKS

GOOD = "The moon shows us the same face, for it turns once about itself while it goes around. Number {}."
RECORDS = [
    {"text": GOOD.format(1), "from": "a"},
    {"text": "Too short.", "from": "a"},
    {"text": " \n ", "from": "b"},
    {"text": GOOD.format(2) + " \r\n", "from": "b"},
    {"other": 1},
    {"text": "月亮总是以同一面朝向我们，因为它自转一圈的时间正好等于绕地球一圈。", "from": "c"},
]


def cleaned(
    tmp_path: Path,
    records: list[dict],
    language: str = "auto",
    filters: Filters | None = None,
    privacy: PrivacyOptions | None = None,
) -> list[cleaning.CleanedBatch]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    source = Jsonl.model_validate({"path": str(file), "group": "from", "language": language})
    filters = filters or Filters()
    rules = Rules(filters.enabled(), filters.split_words, privacy or {}, seed=7)
    return list(cleaning.clean("web", source, source.parts(), rules=rules, permutations=32))


def test_every_row_is_counted_once(tmp_path: Path) -> None:
    (batch,) = cleaned(tmp_path, RECORDS)
    assert batch.counts == {
        "documents/read": 5,
        "rows/bad": 1,
        "bytes/read": sum(len(record.get("text", "").encode()) for record in RECORDS),
        "documents/dropped_too_short": 1,
        "documents/dropped_empty": 1,
    }
    assert batch.documents.num_rows == 3
    assert batch.documents.schema == cleaning.schema(32)


def test_documents_record_their_origin(tmp_path: Path) -> None:
    (batch,) = cleaned(tmp_path, RECORDS)
    rows = batch.documents.select(DOCUMENTS.names).to_pylist()
    assert [(row["id"], row["group"], row["language"]) for row in rows] == [
        ("web/0/1", "a", "en"),
        ("web/0/4", "b", "en"),
        ("web/0/6", "c", "zh"),
    ]
    assert rows[1]["text"] == GOOD.format(2)
    assert batch.documents.column("key").to_pylist()[1] == exact_keys(pa.array([GOOD.format(2)])).tobytes()
    rejected = batch.rejected.to_pylist()
    assert [(row["source"], row["row"], row["reason"]) for row in rejected] == [
        ("web", 5, "unreadable"), ("web", 2, "too_short"), ("web", 3, "empty"),
    ]  # fmt: skip
    assert rejected[0]["where"].endswith("rows.jsonl")
    assert "no column 'text'" in rejected[0]["problem"]


def test_language_of_the_source_replaces_detection(tmp_path: Path) -> None:
    (batch,) = cleaned(tmp_path, RECORDS, language="zh")
    assert set(batch.documents.column("language").to_pylist()) == {"zh"}


def test_result_does_not_depend_on_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"text": GOOD.format(n) * (n % 3 + 1), "from": str(n)} for n in range(50)]
    (whole,) = cleaned(tmp_path, records)
    monkeypatch.setattr(cleaning, "BATCH_BYTES", 300)
    batches = cleaned(tmp_path, records)
    assert len(batches) > 10
    assert pa.concat_tables([batch.documents for batch in batches]).combine_chunks() == whole.documents
    assert sum((batch.counts for batch in batches), Counter()) == whole.counts


def test_a_source_with_only_bad_rows_gives_an_empty_table(tmp_path: Path) -> None:
    (batch,) = cleaned(tmp_path, [{"no": 1}, {"no": 2}])
    assert batch.documents.num_rows == 0
    assert batch.documents.schema == cleaning.schema(32)
    assert batch.counts["rows/bad"] == 2


def test_long_documents_become_parts_of_their_group(tmp_path: Path) -> None:
    book = "\n\n".join(GOOD.format(n) for n in range(100))
    records = [{"text": book, "from": "books"}, {"text": GOOD.format(500), "from": "b"}]
    filters = Filters.model_validate({"length": {"max_words": 500}, "repetition": None})
    (batch,) = cleaned(tmp_path, records, filters=filters)
    rows = batch.documents.select(["id", "group", "text"]).to_pylist()
    num_parts = len(rows) - 1
    assert num_parts > 4
    assert [row["id"] for row in rows] == [*(f"web/0/1.{n}" for n in range(1, num_parts + 1)), "web/0/2"]
    assert {document_of(row["id"]) for row in rows} == {"web/0/1", "web/0/2"}
    assert {row["group"] for row in rows[:-1]} == {"books"}
    assert "\n\n".join(row["text"] for row in rows[:-1]) == book
    counts = {"documents/read": num_parts + 1, "documents/split": 1, "documents/parts": num_parts}
    assert batch.counts == {**counts, "rows/bad": 0, "bytes/read": len(book) + len(GOOD.format(500))}
    whole = Filters.model_validate({"length": {"max_words": 500, "split_long": False}, "repetition": None})
    (batch,) = cleaned(tmp_path, records, filters=whole)
    assert batch.counts["documents/dropped_too_long"] == 1


def novel(language: str, words: int) -> str:
    """A text without repetition, of about so many words (of 1.6 characters) in chapters of long paragraphs."""
    rng = random.Random(3)
    if language == "en":
        vocabulary = ["".join(rng.choices("abdeilmnorst", k=rng.randint(3, 8))) for _ in range(3000)]
        sentences: list[str] = []
        for _ in range(words // 12):
            rng.shuffle(sentence := [*rng.choices(vocabulary, k=9), "the", "of", "and"])
            sentences.append(f"{' '.join(sentence)}.")
    else:
        vocabulary = [chr(code) for code in range(0x4E00, 0x5600)]
        sentences = [f"{''.join(rng.choices(vocabulary, k=15))}的。" for _ in range(words // 10)]
    between, heading = (
        (" ", "This is chapter number {} of the book.") if language == "en" else ("", "这里是这本书的第{}章。")
    )
    paragraphs = [between.join(sentences[first : first + 12]) for first in range(0, len(sentences), 12)]
    for number, first in enumerate(range(0, len(paragraphs), 100)):
        paragraphs[first] = f"{heading.format(number + 1)}\n{paragraphs[first]}"
    return "\n\n".join(paragraphs)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("preset", ["gopher", "fineweb"])
def test_the_published_filters_split_a_book_that_is_over_their_maximum(
    tmp_path: Path, preset: str, language: str
) -> None:
    book = novel(language, 130_000)
    records = [{"text": book, "from": "books"}]
    batches = cleaned(tmp_path, records, filters=Filters.model_validate({"preset": preset, "language": None}))
    counts = sum((batch.counts for batch in batches), Counter())
    assert (counts["documents/split"], counts["documents/parts"]) == (1, 2)
    texts = [text for batch in batches for text in batch.documents.column("text").to_pylist()]
    assert len(texts) == 2 and "".join("".join(texts).split()) == "".join(book.split())
    dropping = Filters.model_validate({"preset": preset, "language": None, "gopher_quality": {"split_long": False}})
    (batch,) = cleaned(tmp_path, records, filters=dropping)
    assert batch.counts["documents/dropped_gopher_long"] == 1 and batch.documents.num_rows == 0


def test_a_preset_without_a_maximum_keeps_a_book_whole(tmp_path: Path) -> None:
    filters = Filters.model_validate({"preset": "c4", "language": None})
    (batch,) = cleaned(tmp_path, [{"text": novel("en", 130_000), "from": "books"}], filters=filters)
    assert batch.documents.num_rows == 1


def test_documents_are_split_by_the_maximum_of_their_language(tmp_path: Path) -> None:
    records = [{"text": novel(language, 2000), "from": language} for language in ("en", "zh")]
    for long, other in (("en", "zh"), ("zh", "en")):
        limits = {long: {"max_words": 500}, other: {"max_words": 3000}}
        (batch,) = cleaned(
            tmp_path,
            records,
            filters=Filters.model_validate({"preset": "gopher", "language": None, "gopher_quality": limits}),
        )
        groups = Counter(batch.documents.column("group").to_pylist())
        assert groups[other] == 1 and groups[long] > 4 and batch.counts["documents/split"] == 1


def test_documents_in_other_languages_are_counted_by_language(tmp_path: Path) -> None:
    records = [
        {"text": "月は地球のまわりを一周するあいだに一回だけ自転するので、いつも同じ面を見せている。", "from": "a"},
        {
            "text": "달은 지구를 한 바퀴 도는 동안 한 번만 자전하기 때문에 언제나 같은 면을 보여 준다고 한다.",
            "from": "a",
        },
        *RECORDS,
    ]
    (batch,) = cleaned(tmp_path, records)
    assert batch.documents.num_rows == 3
    assert batch.counts["documents/dropped_language"] == 2
    assert {name: n for name, n in batch.counts.items() if name.startswith(cleaning.OTHER_LANGUAGE)} == {
        "documents/other_language_ja": 1,
        "documents/other_language_ko": 1,
    }
    (batch,) = cleaned(tmp_path, records, language="en")
    assert batch.documents.column("language").to_pylist() == ["en", "en"]
    assert batch.counts["documents/other_language_zh"] == 1


def test_a_wrong_decoding_is_seen_before_its_traces_are_removed(tmp_path: Path) -> None:
    """Python decodes the UTF-8 of a quotation mark and of Chinese as Latin-1: with control characters."""
    for text in ("It isn’t what we’d expect of a text that anyone would want to keep.", "月亮总是以同一面朝向我们。"):
        wrong = text.encode().decode("latin-1")
        records = [{"text": wrong * 3, "from": "a"}, {"text": text * 3, "from": "a"}]
        (batch,) = cleaned(tmp_path, records, filters=Filters(length=None))  # wrong Chinese is a single word
        (row,) = batch.rejected.to_pylist()
        assert (row["reason"], batch.documents.num_rows) == ("mojibake", 1)


def test_rejected_documents_have_what_was_measured_and_the_limit(tmp_path: Path) -> None:
    (batch,) = cleaned(tmp_path, [{"text": "Too short.", "from": "a"}, {"text": f"{GOOD}\n" * 4, "from": "a"}])
    assert [row["problem"] for row in batch.rejected.to_pylist()] == [
        "2 < 10 (filters.length.min_words)", "0.75 > 0.3 (filters.repetition.max_duplicate_line_fraction)",
    ]  # fmt: skip


def test_a_document_of_which_lines_were_dropped_is_as_if_they_had_never_been(tmp_path: Path) -> None:
    book = "\n".join(f"{GOOD.format(n)} And so it does on every other day of the year." for n in range(3))
    c4 = Filters.model_validate({"preset": "c4"})
    (batch,) = cleaned(tmp_path, [{"text": f"Home\n{book}\nCopyright", "from": "a"}], filters=c4)
    (alone,) = cleaned(tmp_path, [{"text": book, "from": "a"}], filters=c4)
    assert batch.documents == alone.documents
    assert (batch.counts[cleaning.LINES], alone.counts[cleaning.LINES]) == (2, 0)


def test_personal_data_is_in_no_file(tmp_path: Path) -> None:
    records: list[dict] = [
        {"text": f"{GOOD.format(1)} ann@mail.org", "from": "ann@mail.org"},
        {"text": f"{GOOD.format(2)} bob@mail.org", "from": "bob@mail.org"},
        {"text": "Short: ann@mail.org", "from": "a"},
        {"text": f"{GOOD.format(3)} Card 4111 1111 1111 1111", "from": "a"},
        {"other": "ann@mail.org"},
    ]
    (batch,) = cleaned(tmp_path, records, privacy={"email": "mask", "card": "drop"})
    assert batch.counts["privacy/email"] == 3 and batch.counts["privacy/card"] == 1
    assert batch.counts["documents/dropped_personal_data"] == batch.counts["documents/dropped_too_short"] == 1
    texts = json.dumps(batch.documents.select(DOCUMENTS.names).to_pylist() + batch.rejected.to_pylist())
    assert "ann@" not in texts and "bob@" not in texts and "4111" not in texts
    assert len(set(batch.documents.column("group").to_pylist())) == 2
    letter = {"text": f"Dear Jane Doe,\n{GOOD.format(5)}\nJane Doe and 李娜老师 said so.", "from": "Mr Smith"}
    (batch,) = cleaned(tmp_path, [letter], privacy={"names": "mask"})
    assert batch.counts["privacy/names"] == 3
    assert batch.documents.column("text").to_pylist() == [
        f"Dear [name],\n{GOOD.format(5)}\n[name] and [name]老师 said so."
    ]
    (kept,) = cleaned(tmp_path, records, privacy={"email": "keep"})
    (default,) = cleaned(tmp_path, records)
    assert kept.documents == default.documents


def test_what_is_said_of_a_bad_row_has_no_personal_data(tmp_path: Path) -> None:
    records = [
        {"text": GOOD.format(1), "lang": "ann.smith@corp-mail.com"},
        {"ann.smith@corp-mail.com": 1, "138 1234 5678": 2, "lang": "en"},
        {"note": "电话\n13812345678 or\t+49 30 901820", "lang": "en"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"text": "\\u7535\\u8bdd13812345678')
    source = Jsonl.model_validate({"path": str(file), "language_column": "lang"})
    problems: dict[bool, list[str]] = {}
    for is_on in (True, False):
        rules = Rules([], MaxWords(), {"email": "mask", "phone": "mask"} if is_on else {}, seed=7)
        (batch,) = cleaning.clean("web", source, source.parts(), rules=rules, permutations=32)
        rows = batch.rejected.to_pylist()
        problems[is_on] = [row["problem"] for row in rows]
        said = json.dumps(rows)
        hidden = [value not in said for value in ("ann.smith@", "1234 5678", "13812345678", "901820")]
        assert len(rows) == 4 and hidden == [is_on] * 4, said
    assert problems[True][0] == "column 'lang' says '[email]'; expected a code, such as en"
    assert "columns here: [email], [phone], lang" in problems[True][1]
    assert "columns here: ann.smith@corp-mail.com, 138 1234 5678, lang" in problems[False][1]


@pytest.mark.parametrize("cut", range(12))
def test_a_value_at_the_end_of_a_cut_row_is_in_no_file(tmp_path: Path, cut: int) -> None:
    for value in ("ann@mail.org", "138 1234 5678"):
        before = "word " * 200
        record = {"other": before[: 500 - len("{'other': '") - len(value) + cut].rstrip(" w") + " " + value}
        (batch,) = cleaned(tmp_path, [record], privacy={"email": "mask", "phone": "mask"})
        (row,) = batch.rejected.to_pylist()
        assert row["raw"].endswith(("word", "wor", "wo", "w", "[email]", "[phone]", "[email]'}", "[phone]'}")), row[
            "raw"
        ]


def test_personal_data_in_meta_follows_the_action_and_is_counted(tmp_path: Path) -> None:
    class WithMeta(Jsonl):
        def read(self, part: Part) -> Iterator[Row | BadRow]:
            meta = {"by": "ann@mail.org", "at": "81.2.69.142", "name": "Jane Doe"}
            yield Row(row=1, text=GOOD.format(1), meta=meta)

        read_texts = read

    (tmp_path / "rows.jsonl").write_text("{}\n")
    source = WithMeta.model_validate({"path": str(tmp_path / "rows.jsonl")})
    rules = Rules([], MaxWords(), {"email": "mask", "ip": "drop", "names": "mask"}, seed=7)
    (batch,) = cleaning.clean("web", source, source.parts(), rules=rules, permutations=32)
    assert dict(batch.documents.column("meta").to_pylist()[0]) == {"by": "[email]", "at": "[ip]", "name": "[name]"}
    assert [batch.counts[f"privacy/{kind}"] for kind in ("email", "ip", "names")] == [1, 1, 1]


def test_a_document_of_which_no_line_is_left_is_empty(tmp_path: Path) -> None:
    filters = Filters.model_validate({"preset": "c4", "c4": {"min_sentences": 0}})
    (batch,) = cleaned(tmp_path, [{"text": "Home\nContact", "from": "a"}], filters=filters)
    assert (batch.documents.num_rows, batch.counts["documents/dropped_empty"]) == (0, 1)


WARM_UP = """
import gc
import sys
from numba.core.dispatcher import Dispatcher
from pipelines.data.corpus import cleaning
from pipelines.data.corpus.filters import Filters
from pipelines.data.corpus.rules import Rules
from pipelines.data.sources.jsonl import Jsonl

def compiled():
    functions = [one for one in gc.get_objects() if isinstance(one, Dispatcher) and one.signatures]
    return {(one.py_func.__name__, str(one.signatures)) for one in functions}

source = Jsonl.model_validate({"path": sys.argv[1], "language": "auto"})
filters = Filters.model_validate({"preset": "fineweb", "length": {}, "repetition": {}, "quality": {}})
cleaning.warm_up(filters.enabled())
before = compiled()
rules = Rules(filters.enabled(), filters.split_words, {}, 7)
(batch,) = cleaning.clean("web", source, source.parts(), rules=rules, permutations=16)
print(len(before) > 5, batch.documents.num_rows, sorted(compiled() - before))
"""


def test_all_that_is_compiled_is_compiled_before_the_tasks(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in (*BOOKS, "A menu")))
    done = subprocess.run([sys.executable, "-c", WARM_UP, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == "True 2 []\n"
