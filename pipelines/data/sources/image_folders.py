"""Images that are files in folders, each with its caption beside it or in a metadata file.

    folder ──images, 64 a part──► rows with the caption of metadata.csv or metadata.jsonl, else of photo.txt, photo.json
           ──what is left over──► bad rows: lines of metadata without an image, captions without an image

A metadata file speaks for its folder and the folders below it that have none of their own (as Hugging Face's
imagefolder). Images are found by looking, never by a path that a metadata file names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.data.sources.captions import (
    METADATA_FILES,
    RECORD_SUFFIX,
    TEXT_SUFFIXES,
    Caption,
    CaptionColumns,
    caption_of_files,
    read_metadata,
)
from pipelines.data.sources.encodings import readable_name
from pipelines.data.sources.source import BadRow, Part, Row

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
MAX_FILE_BYTES = 256 << 20  # default for an image file: no photograph is larger, and a task holds several in memory
IMAGES_A_PART = 64


def metadata_file(image: Path, top: Path) -> Path | None:
    """The metadata file that speaks for an image: in its folder, or in the nearest folder above it up to `top`."""
    for folder in image.parents:
        for name in METADATA_FILES:
            if (folder / name).is_file():
                return folder / name
        if folder == top:
            return None
    return None


def captions_beside(image: Path) -> list[Path]:
    """The files beside an image that hold its caption."""
    files = [image.with_suffix(suffix) for suffix in (*TEXT_SUFFIXES, RECORD_SUFFIX)]
    return [file for file in files if file.is_file()]


def parts(top: Path, images: list[Path], others: list[Path], where: str) -> list[Part]:
    """The parts of a folder: its images, 64 at a time, then what is left over. Numbered from 0.

    images, others: the files in the folder; others: captions and metadata. where: the folder, for messages."""
    result = []
    for start in range(0, len(images), IMAGES_A_PART):
        files = images[start : start + IMAGES_A_PART]
        args = {"images": [file.relative_to(top).as_posix() for file in files], "top": str(top)}
        size = sum(file.stat().st_size for file in files)
        result.append(Part(index=len(result), where=where, group=where, bytes=size, args=args))
    metadata = [file for file in others if file.name in METADATA_FILES]
    left_over = without_image(images, others)
    if metadata or left_over:
        args = {
            "metadata": [str(file) for file in metadata],
            "left_over": [file.relative_to(top).as_posix() for file in left_over],
            "top": str(top),
        }
        result.append(Part(index=len(result), where=where, group=where, args=args))
    return result


def without_image(images: list[Path], others: list[Path]) -> list[Path]:
    """The captions of no image; more of them than images are documents, beside which there are pictures, too."""
    beside = {caption for image in images for caption in captions_beside(image)}
    left_over = [file for file in others if file not in beside and file.name not in METADATA_FILES]
    return left_over if len(left_over) <= len(images) else []


def read_images(part: Part, columns: CaptionColumns, max_bytes: int) -> Iterator[Row | BadRow]:
    """Yields a row for each image of a part; an image without a caption is a row with an empty text.

    max_bytes: of an image file."""
    top = Path(part.args["top"])
    for number, name in enumerate(part.args["images"], 1):
        image = top / name
        try:
            if image.stat().st_size > max_bytes:
                yield BadRow(row=number, problem=f"{name}: {too_large(image.stat().st_size, max_bytes)}")
                continue
            caption, data = _caption(image, top, columns), image.read_bytes()
        except OSError as error:
            yield BadRow(
                row=number, problem=f"{name}: cannot be read any more ({error.strerror}); expected it as it was"
            )
            continue
        if isinstance(caption, str):
            yield BadRow(row=number, problem=f"{name}: {caption}")
        else:
            yield image_row(number, name, data, caption)


def too_large(size: int, max_bytes: int) -> str:
    """The problem with an image file of this size."""
    return f"{size:,} bytes; expected at most {max_bytes:,} of one image, as max_row_bytes says"


def image_row(number: int, name: str, image: bytes, caption: Caption) -> Row:
    """A row of one image. Its group is that of its record, or its own name: held-out data is split by images."""
    name = readable_name(name)
    meta = {"file": name, **caption.meta}
    return Row(row=number, text=caption.text, record={"image": image}, group=caption.group or name, meta=meta)


def read_left_over(part: Part, columns: CaptionColumns) -> Iterator[BadRow]:
    """Yields a bad row for each line of metadata that is damaged or names no image here, and each caption file without
    an image."""
    top, number = Path(part.args["top"]), 0
    for name in part.args["metadata"]:
        file = Path(name)
        shown = file.relative_to(top).as_posix()
        metadata = read_metadata(file, columns)
        for bad_row in metadata.bad_rows:
            number += 1
            yield BadRow(row=number, problem=f"{shown}:{bad_row.row}: {bad_row.problem}", raw=bad_row.raw)
        for image_name, line in metadata.rows.items():
            image = file.parent / image_name
            inside = image.resolve().is_relative_to(top.resolve())
            if not inside or not image.is_file() or not image_name.lower().endswith(IMAGE_SUFFIXES):
                number += 1
                text = metadata.captions[image_name].text
                problem = f"{shown}:{line}: no image {image_name!r} in this folder; expected the path of an image file"
                yield BadRow(row=number, problem=problem, raw=text[:500])
    for name in part.args["left_over"]:
        number += 1
        yield BadRow(row=number, problem=f"{name}: no image of this name beside it; expected one to be its caption")


def _caption(image: Path, top: Path, columns: CaptionColumns) -> Caption | str:
    """What a metadata file says of an image, else what stands beside it; or what is wrong with that."""
    file = metadata_file(image, top)
    if file is not None:
        caption = read_metadata(file, columns).captions.get(image.relative_to(file.parent).as_posix())
        if caption is not None and caption.text:
            return caption
    return caption_of_files({file.suffix: file.read_bytes() for file in captions_beside(image)}, columns)
