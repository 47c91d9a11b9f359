"""Changes of images: turned upright, to RGB, resampled, denoised, encoded; and augmented copies.

Augmentation is seeded by the copy's id, so the same run gives the same bytes, however it was divided among tasks.
"""

from __future__ import annotations

import io
import math
import random
import re
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import xxhash
from PIL import Image, ImageEnhance, ImageOps

MEDIAN_WINDOW = 3  # pixels
# The bilateral filter's window in pixels, and how far it blurs: over brightness (of 255) and over pixels.
BILATERAL = {"d": 5, "sigmaColor": 25, "sigmaSpace": 3}
DECODED_SCALE = 1.5  # what a JPEG decoder must leave, times the size it is resampled to: more is not seen in the result
JPEG_QUALITY = 95
PNG_LEVEL = 3  # on a photograph 3 × as fast as the default of 6, and 15% larger
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")  # formats of photographs, which are written again as JPEG; others as PNG
SIDES = re.compile(r"\b(left|right)(most|ward|wards|hand|-hand)?\b|[左右]", re.IGNORECASE)
BACKGROUND = (255, 255, 255)  # behind transparent pixels: most images with any were made for white pages


@dataclass(frozen=True)
class Augmentation:
    """How far a copy may differ from its image."""

    flip: bool  # half of the copies are mirrored, left to right
    crop: float  # largest fraction of each side that is cut off
    colour: float  # largest relative change of brightness, contrast and saturation
    rotate: float  # largest turn, degrees


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image as the camera was held (EXIF orientation), in RGB, or greyscale where it has no colours."""
    return _rgb(ImageOps.exif_transpose(image))


def resample(image: Image.Image, max_side: int | None) -> Image.Image:
    """The image made smaller, by Lanczos's filter, so that its longer side is `max_side`; never larger."""
    if max_side is None or max(image.size) <= max_side:
        return image
    return image.resize(smaller_size(image.size, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)


def smaller_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """The size of which the longer side is `max_side`, with the same aspect ratio.

    >>> smaller_size((4000, 3000), 1024)
    (1024, 768)
    """
    scale = max_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def decode_smaller(image: Image.Image, max_side: int | None) -> None:
    """Tells a JPEG decoder, before it decodes, that half or a quarter of the size is enough: it is several times as
    fast."""
    if image.format in ("JPEG", "MPO") and max_side is not None and max(image.size) > max_side:
        width, height = smaller_size(image.size, max_side)
        image.draft(None, (math.ceil(DECODED_SCALE * width), math.ceil(DECODED_SCALE * height)))


def median(image: Image.Image) -> Image.Image:
    """The image without single wrong pixels: each becomes the median of the pixels around it."""
    return Image.fromarray(_opencv().medianBlur(np.asarray(image), MEDIAN_WINDOW))


def bilateral(image: Image.Image) -> Image.Image:
    """The image without fine noise: each pixel becomes the mean of those around it that have a similar colour."""
    return Image.fromarray(_opencv().bilateralFilter(np.asarray(image), **BILATERAL))


def encode(image: Image.Image, format: str) -> bytes:
    """The image as a file: JPEG where its format was one of photographs, else PNG. Without any metadata."""
    stream = io.BytesIO()
    if format in LOSSY:
        image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(stream, "PNG", icc_profile=None, compress_level=PNG_LEVEL)
    return stream.getvalue()


def mentions_sides(caption: str) -> bool:
    """Whether a caption says left or right, so that it would be wrong of the mirrored image.

    >>> mentions_sides("A dog left of a tree"), mentions_sides("树在左边"), mentions_sides("A bright leaf")
    (True, True, False)
    """
    return SIDES.search(caption) is not None


def augmented(image: Image.Image, how: Augmentation, key: str) -> Image.Image:
    """A changed copy of an image. key: of the copy; the same key gives the same copy."""
    rng = random.Random(xxhash.xxh3_64_intdigest(key.encode()))
    if how.flip and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    image = _rotated(image, rng.uniform(-how.rotate, how.rotate))
    image = _cropped(image, how.crop, rng)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        factor = 1 + rng.uniform(-how.colour, how.colour)
        if factor != 1:
            image = enhance(image).enhance(factor)
    return image


def _opencv() -> ModuleType:
    """OpenCV with one thread: as many tasks as cores run beside each other."""
    import cv2  # takes as long to load as everything else here, and few recipes need it

    cv2.setNumThreads(1)
    return cv2


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "L"):
        return image if "transparency" not in image.info else _on_background(image)
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image)
    if image.mode in ("1", "CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("L" if image.mode == "1" else "RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        return _on_background(image)
    return image.convert("RGB")


def _on_background(image: Image.Image) -> Image.Image:
    with_alpha = image.convert("RGBA")
    background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(background, with_alpha).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits: the range of the format becomes 0 to 255; of numbers without a range, their own."""
    pixels = np.asarray(image, np.float64)
    low, high = float(np.nanmin(pixels)), float(np.nanmax(pixels))
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    scaled = (np.nan_to_num(pixels, nan=low) - low) / max(high - low, 1e-12) * 255
    return Image.fromarray(np.round(scaled).astype(np.uint8), "L")


def _rotated(image: Image.Image, degrees: float) -> Image.Image:
    """Turns an image about its centre and keeps the largest part of the same aspect ratio that has no empty corner."""
    if not degrees:
        return image
    width, height = image.size
    sine, cosine = abs(math.sin(math.radians(degrees))), math.cos(math.radians(degrees))
    scale = min(width / (width * cosine + height * sine), height / (width * sine + height * cosine))
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop(_box(image.size, scale, scale, 0.5, 0.5))


def _cropped(image: Image.Image, largest: float, rng: random.Random) -> Image.Image:
    if not largest:
        return image
    kept_width, kept_height = 1 - rng.uniform(0, largest), 1 - rng.uniform(0, largest)
    return image.crop(_box(image.size, kept_width, kept_height, rng.random(), rng.random()))


def _box(
    size: tuple[int, int], kept_width: float, kept_height: float, left: float, top: float
) -> tuple[int, int, int, int]:
    """The part of an image that is kept. left, top: the fraction of what is cut off that is cut there."""
    width, height = max(1, int(size[0] * kept_width)), max(1, int(size[1] * kept_height))
    x, y = int((size[0] - width) * left), int((size[1] - height) * top)
    return x, y, x + width, y + height
