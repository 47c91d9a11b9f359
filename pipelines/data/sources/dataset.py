"""Hugging Face data sets on disk: what `save_to_disk` writes (Arrow), or what the hub has (Parquet). Any Arrow file.

    FOLDER/dataset_dict.json, train/data-00000-of-00002.arrow     a dictionary of splits
    FOLDER/state.json, data-00000-of-00001.arrow                  one split
    FOLDER/data/train-00000-of-00001.parquet                      a folder of the hub

Read with pyarrow alone; no code of the data set is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipelines.data.sources.arrow_records import check_names, column_names, records
from pipelines.data.sources.files import FileProblem
from pipelines.data.sources.finding import visible_files
from pipelines.data.sources.parquet import Parquet
from pipelines.data.sources.source import BadRow, Row
from pipelines.errors import UserError

if TYPE_CHECKING:
    import pyarrow

MARKS = ("dataset_dict.json", "state.json", "dataset_info.json")  # files that `save_to_disk` writes
FILE_MARK = b"ARROW1"  # with which a file of batches begins that is no stream: Feather
DESCRIPTIONS = (*MARKS, "dataset_infos.json")
SHARD = re.compile(r"(?P<split>[A-Za-z0-9_.]+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.parquet")
PREPARED = re.compile(r"(?:.*?-)?(?P<split>[A-Za-z0-9_.]+?)(-\d{5}-of-\d{5})?\.arrow")  # of a cache: json-train.arrow
# What `map` and `filter` of the library datasets leave beside its data, by the digest that it has there.
CACHE = re.compile(r"cache-[0-9a-f]{16}(_\d{5}_of_\d{5})?\.arrow")


class Dataset(Parquet):
    """Rows of a data set's folder."""

    kind: str = Field(default="dataset", description="Kind of the source: a folder of a Hugging Face data set")
    split: str | None = Field(default=None, description="Split to read, such as train; default: all of them")
    suffixes: ClassVar = (".arrow", ".feather")

    @property
    def object_suffixes(self) -> tuple[str, ...]:
        """All objects of a folder: Parquet, and what describes the set."""
        return ()

    def find(self, pattern: str) -> list[str]:
        """Lists the data files of the folder that a path names, or the file. Raises UserError if it lacks the split."""
        folder = self._folder.absolute() / Path(pattern).expanduser()
        if not folder.is_dir():
            return super().find(pattern)
        by_split = splits(folder)
        if not by_split:
            raise UserError(f"{folder}: no .arrow or .parquet file in this folder; expected a data set's folder")
        if self.split is not None and self.split not in by_split:
            raise UserError(f"{folder}: no split {self.split!r}; its splits: {', '.join(by_split)}")
        return [str(file) for split, files in by_split.items() if self.split in (None, split) for file in files]

    def pieces(self, file: Path) -> Iterator[dict[str, Any]]:
        """Divides a file: Parquet into its row groups; Arrow is read in order."""
        if file.suffix == ".parquet":
            yield from super().pieces(file)
            return
        with _open(file) as reader:
            yield {"bytes": file.stat().st_size, "rows": _num_rows(reader)}

    def file_columns(self, file: Path) -> list[str]:
        """The names in the file's schema. Raises FileProblem if it is damaged."""
        if file.suffix == ".parquet":
            return super().file_columns(file)
        with _open(file) as reader:
            return column_names(reader.schema)

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow]:
        """Yields the rows, numbered from 1 within their file."""
        import pyarrow

        if file.suffix == ".parquet":
            yield from super().read_piece(file, args)
            return
        number = 1
        with _open(file) as reader:
            try:
                for batch in reader:
                    for record in records(batch, self.max_row_bytes, self.too_long):
                        bad = isinstance(record, str)
                        yield BadRow(row=number, problem=record) if bad else self.to_row(number, record)
                        number += 1
            except (OSError, pyarrow.ArrowException) as error:
                yield BadRow(row=number, problem=f"damaged ({error}); what follows row {number - 1} is lost")


def data_sets(folder: Path) -> list[Path]:
    """The folders of the data sets in a folder: itself, or those below it; several configurations are as many sets."""
    if _is_saved(folder):
        return [folder]
    files = visible_files(folder)
    saved = _topmost({file.parent for file in files if file.name in MARKS and _is_saved(file.parent)})
    of_shards = {file.parent for file in files if SHARD.fullmatch(file.name)}
    of_shards = {one for one in of_shards if not any(one.is_relative_to(other) for other in saved)}
    named = {one.parent if one.name == "data" and one != folder else one for one in of_shards}  # as the hub has it
    return sorted(saved | _topmost(named if len(_topmost(named)) == len(of_shards) else of_shards))


def files_of(data_set: Path) -> set[Path]:
    """The files of a data set's folder that are its data, or describe them."""
    describing = (file for file in visible_files(data_set) if file.name in DESCRIPTIONS)
    return {*describing, *(file for files in splits(data_set).values() for file in files)}


def is_cache(file: Path) -> bool:
    """Whether a file is one that the library datasets keeps for itself, such as rows that `map` has changed."""
    return CACHE.fullmatch(file.name) is not None


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in MARKS) and bool(splits(folder))


def _topmost(folders: set[Path]) -> set[Path]:
    """The folders that lie in none of the others."""
    return {one for one in folders if not any(one != other and one.is_relative_to(other) for other in folders)}


def splits(folder: Path) -> dict[str, list[Path]]:
    """The data files of each split of a data set, by the split's name: that of the folder, or in the files' names.

    Beside files as the hub names them one in Arrow is none of the set."""
    files = [file for file in visible_files(folder) if file.suffix in (".parquet", ".arrow") and not is_cache(file)]
    if any(SHARD.fullmatch(file.name) for file in files):
        files = [file for file in files if file.suffix == ".parquet" or (file.parent / "state.json").is_file()]
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split(file, folder), []).append(file)
    return by_split


def _split(file: Path, folder: Path) -> str:
    if match := SHARD.fullmatch(file.name):
        return match["split"]
    if file.suffix == ".parquet":
        return file.stem
    prepared = PREPARED.fullmatch(file.name)
    if prepared and (file.parent / "dataset_info.json").is_file() and not (file.parent / "state.json").is_file():
        return prepared["split"]
    return "train" if file.parent == folder else file.parent.name


def _num_rows(reader: pyarrow.RecordBatchReader) -> int:
    """The number of rows, by the heads of the batches: the file is mapped, so its values are not read."""
    import pyarrow

    num_rows = 0
    try:
        for batch in reader:
            num_rows += batch.num_rows
    except (OSError, pyarrow.ArrowException):  # the rows before the damage, which is told when they are read
        return num_rows
    return num_rows


def _open(file: Path) -> pyarrow.RecordBatchReader:
    import pyarrow

    try:
        data = pyarrow.memory_map(str(file))
        is_file = data.read(len(FILE_MARK)) == FILE_MARK
        data.seek(0)
        reader = _of_batches(pyarrow.ipc.open_file(data)) if is_file else pyarrow.ipc.open_stream(data)
        check_names(reader.schema)
        return reader
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise FileProblem(f"not an Arrow file or damaged ({error}); expected what save_to_disk writes") from None


def _of_batches(file: pyarrow.ipc.RecordBatchFileReader) -> pyarrow.RecordBatchReader:
    """A file of batches with an index at its end (Feather) as a stream of them."""
    import pyarrow

    batches = (file.get_batch(number) for number in range(file.num_record_batches))
    return pyarrow.RecordBatchReader.from_batches(file.schema, batches)
