"""Images with captions: folders of image files, WebDataset archives (.tar), Parquet files with a column of images.

path ──suffix──► image files │ .tar │ .parquet ──► rows: the caption as text, the image's bytes in the record
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from pipelines.data.sources import image_archives, image_folders
from pipelines.data.sources.captions import (
    METADATA_FILES,
    RECORD_SUFFIX,
    TEXT_SUFFIXES,
    CaptionColumns,
    caption_of,
)
from pipelines.data.sources.files import FileProblem, FileSource, type_name
from pipelines.data.sources.finding import find_files
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
    max_row_bytes: PositiveInt = Field(
        default=image_folders.MAX_FILE_BYTES, description="Maximum size of an image's file; a larger one is a bad row"
    )
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

    @property
    def object_suffixes(self) -> tuple[str, ...]:
        """All objects of a folder: images, and what is said of them."""
        return ()

    def each_file(self) -> Iterator[Path]:
        """Yields every file that decides the rows: images, archives, Parquet files, captions and metadata files.

        Raises UserError if a path names none."""
        return iter(dict.fromkeys(file for _, files in self.folders() for file in files))

    def folders(self) -> list[tuple[Path, list[Path]]]:
        """See `each_file`; a caption belongs to the image that has its name."""
        folders = []
        for top, listed in self._files_by_folder():
            files: dict[Path, None] = {}
            for file in listed:
                files[file] = None
                if _is_image(file):
                    metadata = image_folders.metadata_file(file, top)
                    files.update(dict.fromkeys([*image_folders.captions_beside(file), *filter(None, [metadata])]))
            folders.append((top, list(files)))
        return folders

    def each_part(self) -> Iterator[Part]:
        """Divides the source: 64 image files, an archive, or a row group of a Parquet file are a part.

        Raises UserError for a Parquet file that is damaged or has no column with images, if it is the only file."""
        parts: list[Part] = []
        folders = list(self._files_by_folder())
        containers = [file for _, files in folders for file in files if is_container(file)]
        alone = len(containers) == 1 and not any(_is_image(file) for _, files in folders for file in files)
        for top, files in folders:
            images = [file for file in files if _is_image(file)]
            others = [file for file in files if file.name.lower().endswith(CAPTION_SUFFIXES)]
            parts += image_folders.parts(top, images, others if images else [], self.display_path(top))
            for file in filter(is_container, files):
                parts += self._container_parts(file, alone)
        return (replace(part, index=index) for index, part in enumerate(parts))

    def pieces(self, file: Path) -> Iterator[dict[str, Any]]:
        """Divides a Parquet file into its row groups; an archive is one piece. Raises FileProblem."""
        if file.suffix.lower() != ".parquet":
            yield {"bytes": file.stat().st_size}
            return
        with open_parquet(file) as table:
            column, row = self._image_column(table.schema_arrow.names), 1
            for group in range(table.num_row_groups):
                meta = table.metadata.row_group(group)
                yield {"bytes": meta.total_byte_size, "row_group": group, "row": row, "image": column}
                row += meta.num_rows

    def read(self, part: Part) -> Iterator[Row | BadRow]:
        """Yields the rows of a part, numbered from 1; of a Parquet file within the file."""
        if "images" in part.args:
            return image_folders.read_images(part, self.columns, self.max_row_bytes)
        if "left_over" in part.args:
            return image_folders.read_left_over(part, self.columns)
        return super().read(part)

    def read_piece(self, file: Path, args: dict[str, Any]) -> Iterator[Row | BadRow]:
        """Yields the rows of an archive or of a row group. Raises FileProblem."""
        if "row_group" not in args:
            yield from image_archives.read_archive(file, self.columns, self.max_row_bytes)
            return
        import pyarrow

        number = args["row"]
        with open_parquet(file) as table:
            try:
                for batch in table.iter_batches(BATCH_ROWS, row_groups=[args["row_group"]]):
                    for record in batch.to_pylist():
                        yield self._parquet_row(number, file, args["image"], record)
                        number += 1
            except (OSError, pyarrow.ArrowException) as error:
                problem = f"damaged near row {number} ({error}); expected a complete Parquet file"
                yield BadRow(
                    row=number, problem=f"{problem}. What follows it in row group {args['row_group'] + 1} is lost"
                )

    def _files_by_folder(self) -> Iterator[tuple[Path, list[Path]]]:
        """(folder, the files in it that are read) of each path of the source; the folder of files is the one above."""
        patterns = [self.path] if isinstance(self.path, str) else self.path
        suffixes = (*self.suffixes, *CAPTION_SUFFIXES)
        for pattern in map(self.local, patterns):
            path = self._folder.absolute() / Path(pattern).expanduser()
            files = [
                file
                for file in map(Path, find_files(pattern, self._folder, suffixes))
                if file.name.lower().endswith(suffixes)
            ]
            if path.is_dir() and any(map(_is_image, files)):
                files = [file for file in files if file.suffix.lower() != ".parquet" or self._is_table_of_images(file)]
            if not any(_is_image(file) or is_container(file) for file in files):
                raise UserError(f"{path}: no image, .tar or .parquet file here; expected {', '.join(self.suffixes)}")
            if path.is_dir():
                yield path, files
            else:
                for top, inside in itertools.groupby(files, key=lambda file: file.parent):
                    yield top, list(inside)

    def _is_table_of_images(self, file: Path) -> bool:
        """Whether a Parquet file that stands among images is one of images, or of what is said of them."""
        import pyarrow

        if file.name in METADATA_FILES:
            return True
        names = [self.image] if self.image else IMAGE_COLUMNS
        try:
            with open_parquet(file) as table:
                fields = [field for field in table.schema_arrow if field.name in names]
        except FileProblem:
            return True  # damaged: a bad row says so
        return not all(pyarrow.types.is_string(field.type) for field in fields)

    def _container_parts(self, file: Path, alone: bool) -> Iterator[Part]:
        """The parts of an archive or a Parquet file. Raises UserError for one that cannot be read, if it is alone."""
        size, where = file.stat().st_size, self.display_path(file)
        for piece in self._pieces(file, alone=alone):
            args = {"file": str(file), "size": size, "alone": alone, **piece}
            yield Part(index=0, where=where, group=where, bytes=args.pop("bytes"), args=args)

    def _image_column(self, names: list[str]) -> str:
        for name in filter(None, (self.text, self.group, self.image)):
            if name not in names:
                raise FileProblem(f"no column {name!r}; the file has: {', '.join(names)}")
        column = self.image or next((name for name in IMAGE_COLUMNS if name in names), None)
        if column is None:
            raise FileProblem(f"no column with images; the file has: {', '.join(names)}. Name the column with image:")
        return column

    def _parquet_row(self, number: int, file: Path, column: str, record: dict[str, Any]) -> Row | BadRow:
        value = record.pop(column)
        place = f"{self.display_path(file)}:{number}"
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        path = value.get("path") if isinstance(value, dict) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            holds = f"the path {path} alone" if path else type_name(data)
            problem = f"column {column!r} holds {holds}; expected the bytes of one image, or {{bytes, path}} with them"
            return BadRow(row=number, problem=problem, raw=str(record)[:500])
        if len(data) > self.max_row_bytes:
            problem = f"{path or place}: {image_folders.too_large(len(data), self.max_row_bytes)}"
            return BadRow(row=number, problem=problem)
        caption = caption_of(record, self.columns)
        row = image_row(number, str(path or place), data, caption)
        return row.model_copy(update={"group": caption.group or place})


def _is_image(file: Path) -> bool:
    return file.name.lower().endswith(IMAGE_SUFFIXES)


def is_container(file: Path) -> bool:
    """Whether a file holds many images: an archive or a Parquet file, by its name."""
    return file.name.lower().endswith((*ARCHIVE_SUFFIXES, ".parquet")) and file.name not in METADATA_FILES
