"""Perceptual hashes: near duplicates are found, different images are not; equal to a search over all pairs."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from pipelines.data.images.hashing import distance, near_duplicates, perceptual_hash
from tests.pictures import drawing, file_of, page, photograph

BITS = 6  # the stage's default
NUM_IMAGES = 25


def saved(image: Image.Image, format: str, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(file_of(image.convert("RGB"), format, quality=quality)))


def cropped(image: Image.Image, fraction: float) -> Image.Image:
    x, y = round(image.width * fraction / 2), round(image.height * fraction / 2)
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], float]] = {  # and the recall that they must have
    "half size": (lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS), 0.98),
    "third of the size, JPEG 60": (lambda i: saved(i.resize((i.width // 3, i.height // 3)), "JPEG", 60), 0.95),
    "JPEG 40": (lambda image: saved(image, "JPEG", 40), 1.0),
    "WebP 50": (lambda image: saved(image, "WEBP", 50), 1.0),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), 0.9),
    "more contrast": (lambda image: ImageEnhance.Contrast(image).enhance(1.3), 0.95),
    "more colour": (lambda image: ImageEnhance.Color(image).enhance(1.4), 0.98),
    "grey": (lambda image: image.convert("L"), 1.0),
    "blurred": (lambda image: image.filter(ImageFilter.GaussianBlur(1)), 1.0),
    "stretched": (lambda image: image.resize((round(image.width * 1.1), image.height)), 0.98),
    "cropped by 2%": (lambda image: cropped(image, 0.02), 0.9),
}


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [make(seed) for make in (photograph, drawing, page) for seed in range(NUM_IMAGES)]


@pytest.fixture(scope="module")
def hashes(images: list[Image.Image]) -> list[int]:
    return [perceptual_hash(image) for image in images]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_image_is_a_near_duplicate(change: str, images: list[Image.Image], hashes: list[int]) -> None:
    function, recall = CHANGES[change]
    distances = [distance(h, perceptual_hash(function(i))) for i, h in zip(images, hashes, strict=True)]
    assert np.mean([bits <= BITS for bits in distances]) >= recall, sorted(distances)[-10:]


def test_different_images_are_no_near_duplicates(hashes: list[int]) -> None:
    assert min(distance(first, second) for first, second in itertools.combinations(hashes, 2)) > BITS


@pytest.mark.parametrize("max_distance", [0, 1, 6, 15])
def test_search_by_bands_finds_what_a_search_over_all_pairs_finds(max_distance: int) -> None:
    rng = np.random.default_rng(max_distance)
    centres = rng.integers(0, 2**64, 40, np.uint64)
    flips = rng.random((600, 64)) < rng.uniform(0, 0.2, (600, 1))
    masks = np.packbits(flips, axis=1).view(">u8")[:, 0].astype(np.uint64)
    hashes = centres[rng.integers(0, 40, 600)] ^ masks
    kept: list[int] = []
    expected = []
    for image, value in enumerate(hashes.tolist()):
        expected.append(next((one for one in kept if distance(value, int(hashes[one])) <= max_distance), image))
        if expected[-1] == image:
            kept.append(image)
    assert near_duplicates(hashes, max_distance).tolist() == expected


def test_no_images_have_no_duplicates() -> None:
    assert near_duplicates(np.empty(0, np.uint64), 6).tolist() == []
