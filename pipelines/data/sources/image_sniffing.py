"""Detects images with captions among a user's files: folders of image files, archives, Parquet with a column of images.

Image files without a word about them (the pictures of a documentation) are no source; they are counted as passed over.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from pipelines.data.sources import image_folders
from pipelines.data.sources.captions import TEXT_SUFFIXES
from pipelines.data.sources.files import FileProblem
from pipelines.data.sources.image_archives import ARCHIVE_SUFFIXES
from pipelines.data.sources.image_folders import IMAGE_SUFFIXES
from pipelines.data.sources.images import CAPTION_SUFFIXES, IMAGE_COLUMNS, Images, is_container
from pipelines.data.sources.parquet import open_parquet
from pipelines.data.sources.source import BadRow, Row
from pipelines.errors import UserError

MAX_ROWS = 50  # read of each file or folder
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")


def captioned_files(folder: Path, files: list[Path]) -> set[Path]:
    """The image files among these, what says something of them, and the archives and tables of images that a source
    of the folder reads too; empty if nothing is said of any image file.

    files: those of a folder that may be read."""
    images = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
    captions = {caption for image in images for caption in image_folders.captions_beside(image)}
    captions |= {file for image in images if (file := image_folders.metadata_file(image, folder)) is not None}
    if not captions:
        return set()
    source = Images.model_validate({"kind": "images", "path": str(folder.absolute())})
    read = set(source.files())
    return {*images, *captions, *(file for file in files if is_container(file) and file.absolute() in read)}


def captions_alone(top: Path, files: list[Path]) -> set[Path]:
    """Text among these files that a source of images in a folder takes for captions of no image: no documents."""
    below = [file for file in files if file.is_relative_to(top)]
    images = [file for file in below if file.name.lower().endswith(IMAGE_SUFFIXES)]
    others = [file for file in below if file.name.lower().endswith(CAPTION_SUFFIXES)]
    return {file for file in image_folders.without_image(images, others) if file.name.lower().endswith(TEXT_SUFFIXES)}


def holds_images(file: Path) -> bool:
    """Whether a file is an image, an archive, or a Parquet file whose first row has an image in a usual column."""
    if file.suffix.lower() != ".parquet":
        return file.name.lower().endswith((*IMAGE_SUFFIXES, *ARCHIVE_SUFFIXES))
    try:
        with open_parquet(file) as table:
            names = [name for name in table.schema_arrow.names if name in IMAGE_COLUMNS]
            batch = next(table.iter_batches(1, columns=names), None) if names else None
    except FileProblem:
        return False
    row = batch.to_pylist()[0] if batch is not None and batch.num_rows else {}
    values = [value.get("bytes") if isinstance(value, dict) else value for value in row.values()]
    return any(isinstance(value, bytes) and value.startswith(IMAGE_STARTS) for value in values)


def first_captions(path: Path) -> tuple[list[str], list[str]]:
    """(captions, problems) of the first rows of a file or folder of images; "" where an image has no caption."""
    source = Images.model_validate({"kind": "images", "path": str(path.absolute())})
    try:
        rows: list[Row | BadRow] = list(
            itertools.islice((row for part in source.parts() for row in source.read(part)), MAX_ROWS)
        )
    except UserError as error:
        return [], [str(error)]
    problems = [f"{path.name}:{row.row}: {row.problem}" for row in rows if isinstance(row, BadRow)]
    return [row.text for row in rows if isinstance(row, Row)], problems
