"""One image file from its bytes to what the corpus holds: checked, upright, resampled, denoised, hashed.

bytes ──header──► size in the limits? ──decode──► upright RGB ──► resampled ──► hash ──► denoised ──► bytes
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from pipelines.data.images import hashing, quality, transforms
from pipelines.data.images.quality import Limits
from pipelines.data.images.transforms import Augmentation
from pipelines.data.sources.bad_rows import Problem

# What a file must be to stay as it is: every reader opens these, and the pixels are the ones that were checked.
KEPT_FORMATS = ("JPEG", "PNG", "WEBP")
KEPT_MODES = ("RGB", "L")
ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class Preparation:
    """What is done to every image."""

    limits: Limits
    max_side: int | None  # of the longer side, pixels; None: as it is
    denoise: Callable[[Image.Image], Image.Image] | None


@dataclass(frozen=True)
class Picture:
    """An image that can be used."""

    data: bytes  # the original file where nothing was changed
    width: int
    height: int
    phash: int
    original_pixels: int  # width × height of the file: of duplicates the largest is kept
    changes: tuple[str, ...]  # of: oriented, converted, first_frame, resampled, denoised


def prepare(data: bytes, how: Preparation) -> Picture | Problem:
    """Checks an image file and prepares its image; or returns why it cannot be used."""
    opened = quality.open_image(data, how.limits)
    if isinstance(opened, Problem):
        return opened
    original_size = opened.size
    decoded = _decode(opened, how.max_side)
    if isinstance(decoded, Problem):
        return decoded
    image, changes = decoded
    if how.max_side is not None and max(original_size) > how.max_side:
        image = transforms.resample(image, how.max_side)
        changes.append("resampled")
    problem = quality.blank(image)
    if problem is not None:
        return problem
    phash = hashing.perceptual_hash(image)
    if how.denoise is not None:
        image = how.denoise(image)
        changes.append("denoised")
    stored = transforms.encode(image, opened.format or "") if changes else data
    pixels = original_size[0] * original_size[1]
    return Picture(stored, image.width, image.height, phash, pixels, tuple(changes))


def augment(data: bytes, how: Augmentation, key: str) -> tuple[bytes, int, int]:
    """A changed copy of a picture's file: (file, width, height). key: of the copy."""
    with quality.without_pillows_limit(), Image.open(io.BytesIO(data), formats=quality.FORMATS) as image:
        copy = transforms.augmented(transforms.upright_rgb(image), how, key)
        return transforms.encode(copy, image.format or ""), copy.width, copy.height


def _decode(opened: Image.Image, max_side: int | None) -> tuple[Image.Image, list[str]] | Problem:
    """Decodes the pixels of an opened image. Returns it upright and in RGB or greyscale, and what had to be changed."""
    try:
        transforms.decode_smaller(opened, max_side)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that are not used
            opened.load()
            return transforms.upright_rgb(opened), _changes(opened)
    except Exception as error:  # decoders raise nearly anything on damaged data
        text = f"damaged image data ({quality.describe(error)}); expected a complete image file"
        return Problem("corrupt", text)


def _changes(image: Image.Image) -> list[str]:
    """What must be changed in a decoded image whatever the options say."""
    changes = []
    if image.getexif().get(ORIENTATION, 1) != 1:
        changes.append("oriented")
    if getattr(image, "is_animated", False):
        changes.append("first_frame")
    if image.format not in KEPT_FORMATS or image.mode not in KEPT_MODES or "transparency" in image.info:
        changes.append("converted")
    return changes
