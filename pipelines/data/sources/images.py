"""Images with captions: folders of image files, WebDataset archives (.tar), Parquet files with a column of images.

path ──suffix──► image files │ .tar │ .parquet ──► rows: the caption as text, the image's bytes in the record
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from pipelines.data.sources import image_archives, image_folders
from pipelines.data.sources.captions import (
    METADATA_FILES,
    RECORD_SUFFIX,
    TEXT_SUFFIXES,
    CaptionColumns,
    caption_of,
)
from pipelines.data.sources.files import FileSource, type_name
from pipelines.data.sources.image_archives import ARCHIVE_SUFFIXES
from pipelines.data.sources.image_folders import IMAGE_SUFFIXES, image_row
from pipelines.data.sources.parquet import open_parquet
from pipelines.data.sources.source import BadRow, Part, Row, Rows
from pipelines.errors import UserError

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes")
BATCH_ROWS = 16  # of a Parquet file: images of some megabytes each
CAPTION_SUFFIXES = (*TEXT_SUFFIXES, RECORD_SUFFIX, *METADATA_FILES)


class Images(FileSource):
    """Image-text pairs."""

    kind: str = Field(default="images", description="Kind of the source: images with captions")
    rows: Rows = Field(default="images", description="Content of its rows: images, each with its caption")
    text: str | None = Field(
        default=None,
        description="Column with the caption, in Parquet, metadata files and JSON. Default: text, caption, captions, "
        "txt, alt_text, alt or description, the first that a row has",
    )
    image: str | None = Field(
        default=None,
        description="Column with the image in Parquet: bytes, or {bytes, path}. Default: image, img, jpg, png and the "
        "like, the first that a file has",
    )
    group: str | None = Field(
        default=None,
        description="Column with the group, which is never split between training and held-out images. Default: each "
        "image is its own",
    )
    suffixes: ClassVar[tuple[str, ...]] = (*IMAGE_SUFFIXES, *ARCHIVE_SUFFIXES, ".parquet")
    kinds_of_rows: ClassVar[tuple[str, ...]] = ("images",)

    @property
    def columns(self) -> CaptionColumns:
        """The columns that are read beside the image."""
        return CaptionColumns(self.text, self.group)

    def files(self) -> list[Path]:
        """Lists every file that decides the rows: images, archives, Parquet files, captions and metadata files.

        Raises UserError if a path names none."""
        files: dict[Path, None] = {}
        for top, found in self._found():
            for file in found:
                files[file] = None
                if file.name.lower().endswith(IMAGE_SUFFIXES):
                    metadata = image_folders.metadata_file(file, top)
                    files.update(dict.fromkeys([*image_folders.captions_beside(file), *filter(None, [metadata])]))
        return list(files)

    def parts(self) -> list[Part]:
        """Divides the source: 64 image files, an archive, or a row group of a Parquet file are a part.

        Raises UserError for a Parquet file that is damaged or has no column with images."""
        parts: list[Part] = []
        for top, found in self._found():
            images = [file for file in found if file.name.lower().endswith(IMAGE_SUFFIXES)]
            others = [file for file in found if file.name.lower().endswith(CAPTION_SUFFIXES)]
            where = self.display_path(top)
            parts += image_folders.parts(top, images, others if images else [], where)
            for file in found:
                if file.name.endswith(ARCHIVE_SUFFIXES):
                    parts.append(_part(file, self.display_path(file), file.stat().st_size))
                elif file.suffix == ".parquet" and file.name not in METADATA_FILES:
                    parts += self._row_groups(file)
        return [part.model_copy(update={"index": index}) for index, part in enumerate(parts)]

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Yields the rows of a part, numbered from 1; of a Parquet file within the file."""
        if "images" in part.args:
            return image_folders.read_images(part, self.columns)
        if "left_over" in part.args:
            return image_folders.read_left_over(part, self.columns)
        if "row_group" in part.args:
            return self._read_row_group(part)
        return image_archives.read_archive(Path(part.args["file"]), self.columns)

    def _found(self) -> Iterator[tuple[Path, list[Path]]]:
        """(folder, the files in it that are read) of each path of the source; the folder of files is the one above."""
        patterns = [self.path] if isinstance(self.path, str) else self.path
        for pattern in patterns:
            path = self._folder.absolute() / Path(pattern).expanduser()
            found = image_folders.find(pattern, self._folder, (*self.suffixes, *CAPTION_SUFFIXES))
            if not any(_has_images(file) for file in found):
                raise UserError(f"{path}: no image, .tar or .parquet file here, only captions")
            if path.is_dir():
                yield path, found
            else:
                for top, files in itertools.groupby(found, key=lambda file: file.parent):
                    yield top, list(files)

    def _row_groups(self, file: Path) -> Iterator[Part]:
        with open_parquet(file) as table:
            names = table.schema_arrow.names
            for name in filter(None, (self.text, self.group)):
                if name not in names:
                    raise UserError(f"{file}: no column {name!r}; the file has: {', '.join(names)}")
            column = self.image or next((name for name in IMAGE_COLUMNS if name in names), None)
            if column not in names:
                problem = "no column with images" if column is None else f"no column {column!r}"
                raise UserError(f"{file}: {problem}; the file has: {', '.join(names)}. Name the column with image:")
            row = 1
            for group in range(table.num_row_groups):
                meta = table.metadata.row_group(group)
                args = {"row_group": group, "row": row, "image": column}
                yield _part(file, self.display_path(file), meta.total_byte_size, **args)
                row += meta.num_rows

    def _read_row_group(self, part: Part) -> Iterator[Row | BadRow]:
        import pyarrow

        file, number = Path(part.args["file"]), part.args["row"]
        with open_parquet(file) as table:
            try:
                for batch in table.iter_batches(BATCH_ROWS, row_groups=[part.args["row_group"]]):
                    for record in batch.to_pylist():
                        yield self._parquet_row(number, part, record)
                        number += 1
            except (OSError, pyarrow.ArrowException) as error:
                problem = f"{file}: damaged near row {number} ({error}); expected a complete Parquet file"
                raise UserError(problem) from None

    def _parquet_row(self, number: int, part: Part, record: dict[str, Any]) -> Row | BadRow:
        column = part.args["image"]
        value = record.pop(column)
        name = f"{part.where}:{number}"
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            name = str(value.get("path") or name)
            value = value.get("bytes")
        if not isinstance(value, bytes):
            found = type_name(value) if name == f"{part.where}:{number}" else f"the path {name} alone"
            problem = f"column {column!r} holds {found}; expected the bytes of one image, or {{bytes, path}} with them"
            return BadRow(row=number, problem=problem, raw=str(record)[:500])
        caption = caption_of(record, self.columns)
        row = image_row(number, name, value, caption)
        return row.model_copy(update={"group": caption.group or f"{part.where}:{number}"})


def _has_images(file: Path) -> bool:
    return file.name not in METADATA_FILES and file.name.lower().endswith(Images.suffixes)


def _part(file: Path, where: str, size: int, **args: Any) -> Part:
    return Part(index=0, where=where, group=where, bytes=size, args={"file": str(file), **args})
