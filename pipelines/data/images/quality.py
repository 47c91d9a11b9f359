"""Opens an image file and refuses what is no use: damaged, too small, too long, too large to decode.

Sizes are judged by the header, before any pixel is decoded: a file of a few kilobytes can name 10^9 pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, ImageStat, UnidentifiedImageError

from pipelines.data.sources.bad_rows import Problem

# Decoders that are safe with other people's files: Pillow's others start programs (EPS) or fetch data.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MIN_DEVIATION = 1.0  # of brightness, 0 to 255: below it there is nothing to see
NOT_READ = {b"ftypheic": "HEIC", b"ftypheix": "HEIC", b"ftypmif1": "HEIF", b"<svg": "SVG", b"%PDF": "PDF"}


@dataclass(frozen=True)
class Limits:
    """What an image must be to be used."""

    min_side: int  # pixels of the shorter side
    max_aspect_ratio: float  # longer side / shorter side
    max_pixels: int  # width × height of the file: what decoding may cost


def open_image(data: bytes, limits: Limits) -> Image.Image | Problem:
    """Opens an image whose header passes the limits, without decoding it; or returns what is wrong with it."""
    if not data:
        return Problem("corrupt", "the image file is empty; expected an image")
    try:
        with without_pillows_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that are not used
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        known = next((f"a {name} file" for magic, name in NOT_READ.items() if magic in data[:64]), "no known format")
        return Problem("corrupt", f"not an image that can be read ({known}); expected {', '.join(FORMATS)}")
    except Exception as error:  # decoders raise nearly anything on damaged headers
        return Problem("corrupt", f"damaged header ({describe(error)}); expected a complete image file")
    return _size_problem(*image.size, limits) or image


@contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Leaves it to the recipe's limits how many pixels are too many: Pillow's own would refuse what they allow."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def blank(image: Image.Image) -> Problem | None:
    """The problem of an image of one colour: nothing that a caption could describe, and no hash that could tell it
    from another one."""
    if max(ImageStat.Stat(image).stddev) >= MIN_DEVIATION:
        return None
    return Problem("blank", "the image is of one colour; expected something to see", by_rule=True)


def describe(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]


def _size_problem(width: int, height: int, limits: Limits) -> Problem | None:
    size = f"{width:,} × {height:,} pixels"
    if width < 1 or height < 1:
        return Problem("corrupt", f"{size}; expected an image")
    if width * height > limits.max_pixels:
        return Problem("too_many_pixels", f"{size}; max_pixels allows {limits.max_pixels:,}", by_rule=True)
    if min(width, height) < limits.min_side:
        return Problem("tiny", f"{size}; min_side expects {limits.min_side} or more on each side", by_rule=True)
    ratio = max(width, height) / min(width, height)
    if ratio > limits.max_aspect_ratio:
        text = f"{size}, {ratio:.1f} : 1; max_aspect_ratio allows {limits.max_aspect_ratio:g} : 1"
        return Problem("aspect", text, by_rule=True)
    return None
