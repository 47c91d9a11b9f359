"""Detects the format of a user's files, so that `rayse init` can write a starter recipe.

    file ──suffix, else content──► kind of source ──first rows──► format of the rows
                                                                   └──► text column, group, language, encoding, sample

A guess, which `rayse init` displays with sample rows: the user has the last word in the recipe.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.data.sources import SOURCES, encodings, row_notes, streams
from pipelines.data.sources.cells import as_turns, has_value, key_of
from pipelines.data.sources.column_names import CONTENT_KEYS, ROLE_KEYS, TEXT_COLUMNS
from pipelines.data.sources.dataset import data_sets, splits
from pipelines.data.sources.delimiters import DELIMITERS
from pipelines.data.sources.files import FileSource, RecordSource, check_readable, value_of
from pipelines.data.sources.folder_files import caches, cards, is_known, other_files, source_kind, splits_beside_train
from pipelines.data.sources.image_archives import ARCHIVE_SUFFIXES
from pipelines.data.sources.image_folders import IMAGE_SUFFIXES
from pipelines.data.sources.image_sniffing import captioned_files, captions_alone, first_captions, holds_images
from pipelines.data.sources.jsonl import Jsonl
from pipelines.data.sources.not_read import TEXT_FORMS, remedy
from pipelines.data.sources.record_formats import main_format
from pipelines.data.sources.row_format import RowFormat
from pipelines.data.sources.source import BadRow
from pipelines.data.sources.split_names import common_folder, folders_of_images, held_out_names, in_held_out_folders
from pipelines.data.text.languages import LANGUAGES, document_language
from pipelines.errors import UserError

MAX_ROWS = 300  # read of each file
CONTENT_BYTES = 1 << 16  # read of a file whose suffix says nothing
FIRST_LINE_BYTES = 1000
BYTE_ORDER_MARKS = b"\xef\xbb\xbf\xff\xfe "
TABLE_LINES = 20  # that have as many cells as the first in a table
DISPLAYED_ROWS = 3
DISPLAYED_CHARACTERS = 200
MAX_NAMES = 20  # of columns, in a message
ONE_ROW = "; a table in one object, which is one row. Expected an array of rows (pandas: to_json with orient='records')"
MIN_LANGUAGE_FRACTION = 0.95  # of the rows read; below, the language is auto
ONE_DOCUMENT_BYTES = 200_000  # a text file up to this size counts as one document

GROUP_COLUMNS = ("source", "group", "domain", "site", "book", "package", "category", "dataset", "topic", "来源", "类别")
DOCUMENTS = {"file": "one document in each file", "blank_lines": "documents between blank lines",
             "warc": "a document for each page"}  # fmt: skip


@dataclass(frozen=True)
class SniffResult:
    """The detected format of one file, or of one folder: of documents of one kind, or a data set."""

    path: Path
    kind: str  # kind of source
    row_format: RowFormat | None  # None: not recognised, see problems
    language: str  # en, zh or auto
    encoding: str | None  # of its text; None for binary formats; of several files all, separated by commas
    options: Mapping[str, Any]  # the source as a recipe would write it, without its path
    sample: tuple[str, ...]  # the first rows, as text
    problems: tuple[str, ...]  # for the user: bad rows, no column with text
    files: tuple[Path, ...] = ()  # of a folder that is not read as a whole

    @property
    def paths(self) -> tuple[Path, ...]:
        """What a recipe names."""
        return self.files or (self.path,)


def sniff(path: Path) -> list[SniffResult]:
    """Detects the format of a file, or of each file of a folder; documents of one kind in a folder are one source.

    Raises UserError if the path is missing or a file cannot be read, or neither its suffix nor its content is known."""
    if not path.is_dir():
        return [_sniff_images(path) if holds_images(path) else _sniff_file(path)]
    in_folder = other_files(path)
    captioned = captioned_files(path, in_folder)
    held_out = splits_beside_train(path)
    for place in folders_of_images(path, captioned, set(held_out)):
        captioned |= captions_alone(place, in_folder)
    left_out = {*captioned, *held_out}
    known = [file for file in in_folder if is_known(file) and file not in left_out]
    files = {kind: [file for file in known if source_kind(file) == kind] for kind in SOURCES}
    results = [result for folder in data_sets(path) for result in _sniff_set_in(folder, path)]
    results += _sniff_captioned(path, captioned, held_out) if captioned else []
    described = cards(path)
    for kind, named in files.items():
        whole = kind != "images" and not issubclass(SOURCES[kind], RecordSource)
        others = [file for file in (*held_out, *described, *captioned) if source_kind(file) == kind]
        place = common_folder(path, set(named)) if others else path  # train/ alone
        documents = [file for file in named if whole and not _rows_in_text(file)]
        if len(documents) > 1:
            is_whole = len(documents) == len(named) and not any(file.is_relative_to(place) for file in others)
            results.append(_with_split_names(_sniff_documents(place, documents, kind, is_whole=is_whole), documents))
            named = sorted({*named} - {*documents})
        results += [_sniff_among_others(file, kind) for file in named]
    if not results:
        num_caches = len(caches(path))
        cached = f"; {num_caches:,} are caches of the library datasets, read if you name them" if num_caches else ""
        raise UserError(f"{path}: no file in this folder is of a known kind{cached}; expected {_suffixes()}")
    return results


def _with_split_names(result: SniffResult, files: list[Path]) -> SniffResult:
    """The result with a note on pages that are named as splits beside train, and read."""
    names = held_out_names(file.name for file in files)
    if not names:
        return result
    more = ", …" if len(names) > DISPLAYED_ROWS else ""
    problem = f"{', '.join(names[:DISPLAYED_ROWS])}{more}: named as splits beside train, and read; else name the others"
    return replace(result, problems=(*result.problems, problem))


def _sniff_captioned(folder: Path, captioned: set[Path], held_out: list[Path]) -> list[SniffResult]:
    """Detects images with captions, but for a split beside train."""
    results = [_sniff_images(place) for place in folders_of_images(folder, captioned, set(held_out))]
    images = (file for file in captioned if file.name.lower().endswith(IMAGE_SUFFIXES))
    others = in_held_out_folders(folder, images) - set(held_out)
    if not others:
        return results
    problem = f"{len(others):,} images of splits beside train are read too: one metadata file speaks for all; divide it"
    return [replace(result, problems=(*result.problems, problem)) for result in results]


def _sniff_among_others(file: Path, kind: str) -> SniffResult:
    """Detects the format of one file of a folder; one that cannot be read does not keep the others from being read."""
    try:
        return _sniff_images(file) if holds_images(file) else _sniff_file(file)
    except UserError as error:
        return SniffResult(file, kind, None, "en", None, {"kind": kind}, (), (str(error),))


def _sniff_file(path: Path) -> SniffResult:
    check_readable(path)
    kind = source_kind(path)
    if kind is None and path.suffix.lower() in TEXT_FORMS:
        raise UserError(f"{path}: {remedy(path)}")
    base = kind_by_content(path) if kind is None else {"kind": kind}
    if base is None:
        what = "its suffix belongs to no kind of source, and its content is neither text, JSON lines, CSV nor Parquet"
        raise UserError(f"{path}: {remedy(path) or f'{what}; expected {_suffixes()}'}")
    if not issubclass(SOURCES[base["kind"]], RecordSource):
        return _rows_in_text(path) or _sniff_documents(path, [path], base["kind"])
    return _sniff_records(path, base)


def _rows_in_text(path: Path) -> SniffResult | None:
    """The format of rows in a file that is named as text: Excel saves tables as .txt. None unless their columns have
    usual names."""
    base = kind_by_content(path) if _may_hold_rows(path) else None
    if base is None or not issubclass(SOURCES[base["kind"]], RecordSource):
        return None
    try:
        result = _sniff_records(path, base)
    except UserError:  # no rows after all
        return None
    row_format = result.row_format
    if row_format is None or (row_format.rows == "text" and row_format.columns[0].lower() not in TEXT_COLUMNS):
        return None
    return result


def _may_hold_rows(path: Path) -> bool:
    """Whether a .txt begins as JSON does, or with cells between tabs."""
    if path.suffix.lower() != ".txt":
        return False
    with path.open("rb") as stream:
        line = re.split(b"[\r\n]", stream.read(FIRST_LINE_BYTES).replace(b"\0", b""))[0]  # of UTF-16, too
    return b"\t" in line or line.lstrip(BYTE_ORDER_MARKS).startswith((b"{", b"["))


def _sniff_set_in(folder: Path, named: Path) -> list[SniffResult]:
    """Detects the format of a data set; one below the folder that the user named, and that cannot be read, does not
    keep the other files from being read."""
    try:
        return _sniff_dataset(folder)
    except UserError as error:
        if folder == named:
            raise
        return [SniffResult(folder, "dataset", None, "en", None, {"kind": "dataset"}, (), (str(error),))]


def _sniff_dataset(folder: Path) -> list[SniffResult]:
    """Detects the format of a data set; of several splits the one to train on is read."""
    by_split = splits(folder)
    held_out = held_out_names(by_split)
    read = ["train"] if "train" in by_split else [name for name in by_split if name not in held_out]
    files = [file for name in read for file in by_split[name]]
    if holds_images(files[0]):
        results = [_sniff_among_others(file, "images") for file in files]
    else:
        results = [_sniff_records(folder, {"kind": "dataset", "split": name}) for name in read]
        formats = {result.row_format and result.row_format.content for result in results}
        if len(read) == len(by_split) and len(formats) == 1:
            results = [_sniff_records(folder, {"kind": "dataset"})]
    others = ", ".join(name for name in by_split if name not in read)
    if not others:
        return results
    problem = f"{folder.name}: splits that are not read: {others}"
    return [replace(results[0], problems=(*results[0].problems, problem)), *results[1:]]


def _sniff_records(path: Path, base: dict[str, str]) -> SniffResult:
    # With any kind of rows but text the source returns whole records.
    source = SOURCES[base["kind"]].model_validate({**base, "path": str(path.absolute()), "rows": "conversations"})
    assert isinstance(source, FileSource)
    rows = list(itertools.islice((row for part in source.parts() for row in source.read(part)), MAX_ROWS))
    records = [row.record for row in rows if not isinstance(row, BadRow) and row.record is not None]
    bad_rows = [row for row in rows if isinstance(row, BadRow) and not row.reason]
    problems = [f"{path.name}:{row.row}: {row.problem}" for row in bad_rows][:DISPLAYED_ROWS]
    row_format, count = main_format(records)
    is_table = len(records) == 1 and row_notes.is_table_in_an_object(records[0])
    if row_format is None or (is_table and row_format.rows == "text"):
        if records:
            names = ", ".join(itertools.islice(records[0], MAX_NAMES)) + (", …" if len(records[0]) > MAX_NAMES else "")
            names = names or "none"
            problems.append(f"{path.name}: no column with text; columns are: {names}{ONE_ROW if is_table else ''}")
        elif not problems:
            problems.append(f"{path.name}: no rows; expected at least one")
        return SniffResult(path, base["kind"], None, "en", source.encoding_of(path), base, (), tuple(problems))
    if count < len(records):
        problems.append(f"{path.name}: {len(records) - count} of {len(records)} sampled rows have another format")
    texts = [_record_text(record, row_format) for record in records]
    beside = source.names_beside_rows(path) if isinstance(source, Jsonl) else []
    problems += row_notes.notes(path.name, row_format, records, texts, beside)
    language = main_language(_said([value_of(record, name) for name in row_format.columns]) for record in records)
    options = {**base, **_row_options(row_format, language, records)}
    encoding = source.encoding_of(path)
    return SniffResult(path, base["kind"], row_format, language, encoding, options, _sample(texts), tuple(problems))


def _sniff_images(path: Path) -> SniffResult:
    """Detects whether images have captions, and their language."""
    captions, problems = first_captions(path)
    if not any(captions):
        expected = "a .txt beside it, or metadata.csv, .jsonl"
        if path.name.lower().endswith(ARCHIVE_SUFFIXES):
            expected = (
                "members such as 1.jpg and 1.txt. An archive of other files is not read: unpack it, name the folder"
            )
        problems.append(f"{path.name}: no image with a caption; expected {expected}")
        return SniffResult(path, "images", None, "en", None, {"kind": "images"}, (), tuple(problems[:DISPLAYED_ROWS]))
    language = main_language(captions)
    row_format = RowFormat("images", "images with captions", ())
    options = {"kind": "images", "language": language}
    sample, shown = _sample([caption for caption in captions if caption]), tuple(problems[:DISPLAYED_ROWS])
    return SniffResult(path, "images", row_format, language, None, options, sample, shown)


def kind_by_content(file: Path) -> dict[str, str] | None:
    """The kind of source, with its options, that the beginning of a file fits whose suffix says nothing.

    None for binary data other than Parquet, and for JSON that holds no objects."""
    with file.open("rb") as stream:
        start = stream.read(CONTENT_BYTES)
    if start.startswith(b"PAR1"):
        return {"kind": "parquet"}
    encoding = encodings.detect(start)
    if encoding is None:
        return None
    text = start.decode(encodings.codec(encoding), errors="replace").removeprefix("\ufeff")
    if any(character < " " and not character.isspace() for character in text):
        return None
    if re.match(r"\s*\[\s*\{", text):
        return {"kind": "json"}
    lines = [line for line in re.split("\r\n?|\n", text) if line.strip()]
    lines = lines[:-1] if len(start) == CONTENT_BYTES and len(lines) > 1 else lines  # the last one may be cut
    if lines and lines[0].lstrip().startswith(("{", "[")):
        is_object = lines[0].lstrip().startswith("{") and (len(lines) == 1 or lines[0].rstrip(", \t").endswith("}"))
        return {"kind": "jsonl"} if is_object else None
    is_table = any(_is_table(lines[:TABLE_LINES], character) for character in DELIMITERS)
    return {"kind": "csv" if is_table else "text"}


def _is_table(lines: list[str], delimiter: str) -> bool:
    """Whether every line has as many cells as the first, which has names in them."""
    header, *rows = list(csv.reader(lines, delimiter=delimiter)) or [[]]
    names = all(name and name == name.strip() for name in header)  # prose has a space after its commas
    return len(header) > 1 and names and bool(rows) and all(len(cells) == len(header) for cells in rows)


def _row_options(row_format: RowFormat, language: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The options of a source that follow from its rows."""
    options: dict[str, Any] = {}
    if row_format.rows == "text":
        options["text"] = row_format.columns[0]
    else:
        options["rows"] = row_format.rows
    options["language"] = language
    columns = records[0].keys()
    group = next((name for name in GROUP_COLUMNS if name in columns and _has_groups(records, name)), None)
    if group is not None and group not in row_format.columns:
        options["group"] = group
    return options


def _has_groups(records: list[dict[str, Any]], column: str) -> bool:
    """Whether every record has a short name in the column, and some records have the same."""
    values = [record.get(column) for record in records]
    short = all(isinstance(value, str) and 0 < len(value) <= 100 for value in values)
    return short and (len(set(values)) < len(values) or len(values) == 1)


def _sniff_documents(path: Path, files: list[Path], kind: str, *, is_whole: bool = True) -> SniffResult:
    """Detects how a file of text, or a folder of them, divides into documents, and its language.

    is_whole: the files are all that a source reads of the path."""
    options = {"kind": kind} | ({"split": _text_split(files)} if kind == "text" else {})
    paths = [path] if is_whole else files
    source = SOURCES[kind].model_validate({**options, "path": [str(one.absolute()) for one in paths]})
    rows = itertools.islice(((part, row) for part in source.parts() for row in source.read(part)), MAX_ROWS)
    texts, problems = [], []
    for part, row in rows:
        if isinstance(row, BadRow):
            problems.append(f"{part.where}:{row.row}: {row.problem}")
        else:
            texts.append(row.text)
    language = main_language(texts)
    unit = "warc" if kind == "warc" else options.get("split", "file")
    options |= {"language": language}
    row_format = RowFormat("text", DOCUMENTS[unit], ())
    assert isinstance(source, FileSource)
    names = dict.fromkeys(filter(None, map(source.encoding_of, files)))
    encoding, sample = ", ".join(names) or None, _sample(texts)
    return SniffResult(
        path, kind, row_format, language, encoding, options, sample, tuple(problems[:DISPLAYED_ROWS]),
        () if is_whole else tuple(files),
    )  # fmt: skip


def _text_split(files: list[Path]) -> str:
    """Small files are one document each; a large file has many, with blank lines between them."""
    return "file" if max(file.stat().st_size for file in files) <= ONE_DOCUMENT_BYTES else "blank_lines"


def _record_text(record: Mapping[str, Any], row_format: RowFormat) -> str:
    """The content of a record in one line."""
    if row_format.rows in ("text", "prompts"):
        return str(value_of(dict(record), row_format.columns[0]) or "")
    columns = [name for name in row_format.columns if has_value(record.get(name))]
    return " | ".join(f"{name}: {_turns_text(as_turns(record[name]) or record[name])}" for name in columns)


def _turns_text(value: Any) -> str:
    """Text, or the turns of a conversation, in one line."""
    if isinstance(value, list):
        return " / ".join(_turns_text(turn) for turn in value)
    if isinstance(value, dict):
        role, content = (value.get(key_of(value, keys)) for keys in (ROLE_KEYS, CONTENT_KEYS))
        return f"{role}: {content}" if content else str(value)
    return str(value)


def _said(value: Any) -> str:
    """What a value says, without the names of columns, keys and speakers, which are English wherever people are."""
    if isinstance(value, list):
        return "\n".join(map(_said, as_turns(value) or value))
    if isinstance(value, dict):
        turns = as_turns(value)
        return _said(turns) if turns else _said(value.get(key_of(value, CONTENT_KEYS)))
    return value if isinstance(value, str) else ""


def _sample(texts: list[str]) -> tuple[str, ...]:
    lines = filter(None, (" ".join(text.split()) for text in texts))
    return tuple(line[:DISPLAYED_CHARACTERS] for line in itertools.islice(lines, DISPLAYED_ROWS))


def main_language(texts: Iterable[str]) -> str:
    """en or zh if nearly all texts are in that language, else auto; so it is if there is none."""
    languages = Counter(document_language(text, "auto") for text in texts if text.strip())
    if not languages:
        return "auto"
    language, count = languages.most_common(1)[0]
    is_main = language in LANGUAGES and count >= MIN_LANGUAGE_FRACTION * languages.total()
    return language if is_main else "auto"


def _suffixes() -> str:
    """The suffixes of all kinds, for messages: .txt, .md, …, text also with .gz, .zst, .bz2, .xz."""
    sources = [source for source in SOURCES.values() if issubclass(source, FileSource)]
    plain = dict.fromkeys(
        suffix for source in sources for suffix in source.suffixes if not suffix.endswith(tuple(streams.COMPRESSED))
    )
    return f"{', '.join(plain)}; text also with {', '.join(streams.COMPRESSED)}"
