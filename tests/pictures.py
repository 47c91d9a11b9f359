"""Pictures that tests make themselves: photographs, drawings, pages of text, each different by its seed; and files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw


def photograph(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Random colours with the spectrum of natural images (amplitude falls with frequency), and a few objects."""
    rng = np.random.default_rng(seed)
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    amplitude = 1 / np.maximum(frequency, 1 / max(size)) ** 1.2
    planes = []
    shared = rng.standard_normal((height, width))
    for _ in range(3):
        noise = shared + 0.5 * rng.standard_normal((height, width))
        plane = np.fft.ifft2(np.fft.fft2(noise) * amplitude).real
        planes.append((plane - plane.mean()) / plane.std() * 48 + rng.uniform(90, 160))
    image = Image.fromarray(np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        radius = int(rng.integers(min(size) // 12, min(size) // 4))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def drawing(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A few shapes on white, as a diagram or a logo."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 8))):
        left, top = rng.integers(0, size[0] - 40), rng.integers(0, size[1] - 40)
        box = (int(left), int(top), int(left + rng.integers(20, 140)), int(top + rng.integers(20, 120)))
        colour = tuple(int(value) for value in rng.integers(0, 200, 3))
        (draw.rectangle if rng.random() < 0.5 else draw.ellipse)(box, fill=colour)
    return image


def page(seed: int, size: tuple[int, int] = (480, 640)) -> Image.Image:
    """A page of text: every page has the same margins and lines, and other words."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", size, 255)
    draw = ImageDraw.Draw(image)
    for top in range(40, size[1] - 40, 16):
        left = 40
        while left < size[0] - 60:
            word = int(rng.integers(10, 60))
            draw.rectangle((left, top, min(left + word, size[0] - 40), top + 7), fill=30)
            left += word + 8
        if rng.random() < 0.15:
            draw.rectangle((int(rng.integers(60, size[0] - 40)), top, size[0], top + 8), fill=255)  # a paragraph ends
    return image


def file_of(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """The image as a file."""
    stream = io.BytesIO()
    image.save(stream, format, **({"quality": 90} if format in ("JPEG", "WEBP") else {}) | options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it is this large, with hardly any pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
