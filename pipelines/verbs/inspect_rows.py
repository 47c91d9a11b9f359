"""`rayse inspect NAME`: rows of a corpus, of conversations, preferences or documents, those that are used and those set
aside; and rows that a model wrote.

train, held_out (Parquet) ──┐
rejected (Parquet or JSON   ├──filter──► numbers, and the first rows with place, reason and text
lines), as split set_aside ─┘

Of Parquet files in an object store it reads what it needs: the numbers of rows, the columns that a filter names, and
groups of rows until there are enough.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.console import print_json
from pipelines.data.corpus.filters import reasons_of
from pipelines.data.dialogues.synthetic import rows as synthetic
from pipelines.data.knowledge.index import PASSAGES
from pipelines.data.sources.bad_rows import REJECTED
from pipelines.errors import UserError, printable
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.runs import resolve
from pipelines.verbs.inspect_card import show_card

SYNTHETIC = ("augmented", "ai_feedback")  # kinds whose rows a model wrote
KINDS = ("corpus", "images", "conversations", "preferences", "knowledge", *SYNTHETIC)
SET_ASIDE = "set_aside"
DISPLAYED_CHARACTERS = 300  # of a row; --json has all
TEXTS = ("text", "messages", "prompt", "chosen", "rejected", "raw")  # columns that are shown, as far as a row has them
NAMED_TEXTS = ("chosen", "rejected")  # by their names


@dataclass(frozen=True)
class Split:
    """Rows of one split that match a filter."""

    name: str
    rows: ds.Dataset
    condition: pc.Expression

    def count(self) -> int:
        return self.rows.count_rows(filter=self.condition)

    def reasons(self) -> Counter[str]:
        """Numbers of rows set aside by reason; empty for other splits."""
        if "reason" not in self.rows.schema.names:
            return Counter()
        return Counter(self.rows.to_table(columns=["reason"], filter=self.condition).column(0).to_pylist())

    def head(self, number: int) -> list[dict[str, Any]]:
        """The first rows, with `split`; bytes are replaced by their number."""
        rows: list[dict[str, Any]] = []
        for fragment in self._fragments() if number else ():
            scanner = fragment.scanner(schema=self.rows.schema, filter=self.condition)
            rows += scanner.head(number - len(rows)).to_pylist()
            if len(rows) == number:
                break
        return [{"split": self.name, **{key: _plain(value) for key, value in row.items()}} for row in rows]

    def _fragments(self) -> Iterator[ds.Fragment]:
        """Groups of rows, to be read one by one: `Dataset.head` would read far ahead."""
        for fragment in self.rows.get_fragments():
            yield from fragment.split_by_row_group() if isinstance(fragment, ds.ParquetFileFragment) else [fragment]


def show_rows(store: Store, name: str, *, where: Sequence[str], limit: int, card: bool, as_json: bool) -> None:
    """`rayse inspect`: prints the rows of an artifact that match all conditions KEY=VALUE, at most `limit` of them.

    card: prints the data card of a corpus instead, with as many samples.
    Raises UserError for an artifact of another kind, and for a key that no row has."""
    artifact = resolve(store, name)
    if card:
        return show_card(artifact, name, where=where, limit=limit, as_json=as_json)
    if artifact.kind not in KINDS:
        raise UserError(f"{name}: holds no rows but {artifact.kind}; expected one of {', '.join(KINDS)}")
    tables = _written if artifact.kind in SYNTHETIC else _passages if artifact.kind == "knowledge" else _tables
    splits = _matching(dict(tables(artifact)), _conditions(where))
    numbers = {split.name: split.count() for split in splits}
    reasons = sum((split.reasons() for split in splits), Counter[str]())
    num_kept = sum(numbers.values()) - numbers.get(SET_ASIDE, 0)
    shown_set_aside = min(numbers.get(SET_ASIDE, 0), max(limit // 2, limit - num_kept))  # both kinds are shown
    rows: list[dict[str, Any]] = []
    for split in splits:
        rows += split.head(shown_set_aside if split.name == SET_ASIDE else limit - shown_set_aside - len(rows))
    if as_json:
        facts = {"artifact": artifact.fingerprint, "kind": artifact.kind, "num_rows": sum(numbers.values())}
        return print_json({**facts, **numbers, "not_used": dict(reasons.most_common()), "rows": rows})
    for row in rows:
        print(printable(_line(row)))
    counts = ", ".join(f"{number:,} {split}" for split, number in numbers.items())
    text = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
    print(printable(f"{len(rows):,} of {sum(numbers.values()):,} rows ({counts}{': ' if text else ''}{text})"))
    return None


def _tables(artifact: Artifact) -> Iterator[tuple[str, ds.Dataset]]:
    """The splits of an artifact by name."""
    names = sorted(artifact.manifest.files)
    for split in ("train", "held_out"):
        parts = [name for name in names if name.startswith(f"{split}/") and name.endswith(".parquet")]
        yield split, _dataset(artifact, parts or [f"{split}.parquet"])
    if "rejected.parquet" in names:
        yield SET_ASIDE, _dataset(artifact, ["rejected.parquet"])
    elif REJECTED in names:
        yield from _of_lines(SET_ASIDE, artifact, REJECTED)


def _written(artifact: Artifact) -> Iterator[tuple[str, ds.Dataset]]:
    """The rows that a model wrote, and those that were dropped."""
    yield from _of_lines("written", artifact, synthetic.ROWS)
    yield from _of_lines(SET_ASIDE, artifact, synthetic.DROPPED)


def _passages(artifact: Artifact) -> Iterator[tuple[str, ds.Dataset]]:
    """The passages of documents, and the documents that are not used."""
    yield "passages", ds.dataset(str(artifact.file(PASSAGES)), format="ipc")
    yield from _of_lines(SET_ASIDE, artifact, REJECTED)


def _dataset(artifact: Artifact, names: Sequence[str]) -> ds.Dataset:
    """Parquet files of an artifact, of which the parts are read that are needed."""
    files = [artifact.opened(name) for name in names]
    if isinstance(files[0], Path):
        return ds.dataset([str(file) for file in files], format="parquet")
    reader = ds.ParquetFileFormat()
    fragments = [reader.make_fragment(file) for file in files]
    return ds.FileSystemDataset(fragments, fragments[0].physical_schema, reader)


def _of_lines(split: str, artifact: Artifact, name: str) -> Iterator[tuple[str, ds.Dataset]]:
    """The split in a file of JSON lines, unless it is empty."""
    file = artifact.file(name)
    # Texts hold U+2028 and U+0085, at which splitlines would cut a row.
    lines = [] if file is None else file.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    if rows:
        numbered = [{**row, "where": row.get("where", name), "row": row.get("row", n)} for n, row in enumerate(rows, 1)]
        yield split, ds.dataset(pa.Table.from_pylist(numbered))


def _conditions(where: Sequence[str]) -> dict[str, str]:
    """{"reason": "too_long"} from ["reason=too_long"]. Raises UserError for a condition without =."""
    conditions: dict[str, str] = {}
    for text in where:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--where {text}: expected KEY=VALUE, such as reason=too_long or language=zh")
        conditions[key] = value
    return conditions


def _matching(tables: Mapping[str, ds.Dataset], conditions: Mapping[str, str]) -> list[Split]:
    """The splits with the condition on each; without those that lack a key. Raises UserError if none has it."""
    known = {"split", *(name for table in tables.values() for name in _keys(table))}
    for key in conditions:
        if key not in known:
            raise UserError(f"--where {key}: no row has this key; expected one of {', '.join(sorted(known))}")
    splits: list[Split] = []
    for name, table in tables.items():
        values = {key: value for key, value in conditions.items() if key != "split"}
        if conditions.get("split", name) != name or values.keys() - _keys(table):
            continue
        condition = pc.scalar(True)
        for key, value in values.items():
            # A filter of a corpus stands for all its reasons.
            names = [value, *reasons_of(value)] if key == "reason" else [value]
            condition = condition & pc.field(key).cast(pa.string()).isin(names)
        splits.append(Split(name, table, condition))
    return splits


def _keys(table: ds.Dataset) -> set[str]:
    """Columns whose values are text or numbers."""
    return {field.name for field in table.schema if pa.types.is_string(field.type) or pa.types.is_integer(field.type)}


def _plain(value: Any) -> Any:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else value


def _line(row: Mapping[str, Any]) -> str:
    """A row for a terminal: where it is from, why it is set aside, and the beginning of its text."""
    if row["split"] == SET_ASIDE:
        title = f"{SET_ASIDE} {row['reason']}  {row['where']}:{row['row']}  {row['problem']}"
        if row.get("kept_where") is not None:  # of a duplicate
            title += f": {row['kept_where']}:{row['kept_row']}"
    else:
        title = f"{row['split']} {row['language']}  {row.get('id') or row['row']}"
    if "width" in row:
        title += f"  {dict(row['meta'])['file']}  {row['width']} × {row['height']} pixels, {row['image']}"
    texts = [f"{key}: {_text(row[key])}" if key in NAMED_TEXTS else _text(row[key]) for key in TEXTS if row.get(key)]
    text = " ".join(" | ".join(texts).split())
    return f"{title}\n    {text[:DISPLAYED_CHARACTERS]}{'…' if len(text) > DISPLAYED_CHARACTERS else ''}"


def _text(value: Any) -> str:
    """Text, or the turns of a conversation, in one line."""
    if isinstance(value, list):
        return " / ".join(map(_text, value))
    if isinstance(value, dict) and "role" in value:
        return f"{value['role']}: {' '.join(filter(None, (value.get('content'), value.get('tool_calls'))))}"
    return str(value)
