"""Texts of many JSON lines at once are those of reading line by line, whatever stands on the lines."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from pipelines.data.sources.jsonl import Jsonl
from pipelines.data.sources.source import BadRow, Row, Texts

GOOD = [
    b'{"text": "one"}', '{"text": "字 \\u5b57 \\ud83d\\ude00 \\n \\"text\\" {"}'.encode(),
    b'{"id": 7, "text": ""}', b'{"url": {"a": [1, 2, {"b": null}]}, "text": "x", "n": -1.5e3}',
    b' {"text": "y"} ', b'{"text":"z"}\r',
]  # fmt: skip
ODD = [
    b"", b"  ", b'{"text": null}', b'{"text": 1}', b'{"text": true}', b'{"text": ["a"]}', b'{"other": "a"}',
    b"[]", b"1", b'{"text": "a", "text": "b"}', b'{"text": "a", "text": "a"}', b'{"t\\u0065xt": "a"}',
    b'{"a": {"text": 1, "text": 2}}', b'{"t\\u0065xt": "a", "text": "b"}', b'{"a": "text", "text": "b"}',
    b'{"text": "a"},', b'{"text": "a"} {"text": "b"}', b'{"text": "a"}{"text": "b"}', b'{"text": "a"',
    b'{"text":', b'"a"}', b'{"text": "\xff"}', b'{"a": "\xff", "text": "b"}', b'{"text": "\\ud800"}',
    b'{"a": "\\ud800", "text": "b"}', b'{"text": "a\tb"}', b'{"text": "\\u0000\\u0041"}',
    b'{"text": "a", "n": NaN}', b'{"text": "a", "n": 01}', b'{"text": "a", "n": 1.}', b'{"text": "a",}',
    b"{'text': 'a'}", b'\xef\xbb\xbf{"text": "a"}', b'{"text": "a", "b": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    b'{"text": "\\x41"}', b'{"text": "a", "n": 1e999}', b'{"text": "a", "n": 99999999999999999999999}',
    b'{"n": Inf, "text": "a"}', b'{"text": "a", "n": [-Inf ]}', b'{"text": "a", "n": -NaN}',
    b'{"n": -Infinity, "text": "a"}', b'{"text": "a" /* b */}', b"{}", b'{"text": "a\x00b"}', b'{"text": "a\x7fb"}',
    b'{"text": "a", "b": {"c": {"text": "d"}}}', b'{"Text": "a", "text": "b"}',
]  # fmt: skip


def rows_of(source: Jsonl, *, together: bool) -> tuple[list[tuple[object, ...]], int]:
    """All rows as (number, text, problem, raw), and how many were read with others."""
    rows: list[tuple[object, ...]] = []
    num_together = 0
    for part in source.parts():
        for row in source.read_texts(part) if together else source.read(part):
            if isinstance(row, Texts):
                num_together += len(row.texts)
                rows += [(row.first_row + n, text, "", "") for n, text in enumerate(row.texts.to_pylist())]
            elif isinstance(row, BadRow):
                rows.append((row.row, "", row.problem, row.raw))
            else:
                assert isinstance(row, Row)
                rows.append((row.row, row.text, "", ""))
    return rows, num_together


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_an_odd_line_among_others_is_read_as_alone(tmp_path: Path, odd: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    source = Jsonl.model_validate({"path": str(file), "encoding": "utf-8"})
    for lines in ([odd], [GOOD[0], odd, GOOD[0]], [odd, odd, GOOD[0]], [GOOD[0], odd, b"", GOOD[0]]):
        file.write_bytes(b'{"text": "first"}\n' + b"\n".join(lines) + b"\n")
        assert rows_of(source, together=True)[0] == rows_of(source, together=False)[0]


def test_odd_lines_that_make_up_for_each_other(tmp_path: Path) -> None:
    file, rng = tmp_path / "rows.jsonl", random.Random(1)
    source = Jsonl.model_validate({"path": str(file), "encoding": "utf-8"})
    for _ in range(1500):
        lines = [b'{"text": "first"}', *rng.choices([*GOOD[:4], *ODD, *ODD], k=rng.choice((1, 2, 3, 5)))]
        file.write_bytes(b"\n".join(lines) + rng.choice((b"", b"\n")))
        assert rows_of(source, together=True)[0] == rows_of(source, together=False)[0], lines


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_many_lines_are_read_together(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(2)
    lines = [json.dumps({"id": n, "text": rng.choice(("one", "字")) * rng.randrange(300)}) for n in range(20_000)]
    lines[7_000] = "not JSON"
    content = "".join(f"{line}\n" for line in lines).encode()
    file = tmp_path / f"rows.jsonl{suffix}"
    file.write_bytes(gzip.compress(content) if suffix else content)
    source = Jsonl.model_validate({"path": str(file)})
    rows, num_together = rows_of(source, together=True)
    assert rows == rows_of(source, together=False)[0]
    assert num_together > 10_000
    other = Jsonl.model_validate({"path": str(file), "meta": ["id"]})  # needs more than the text
    assert rows_of(other, together=True)[1] == 0
