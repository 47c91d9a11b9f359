"""Augmented copies: the same key gives the same bytes, and each option changes what it says."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.data.images.pictures import augment
from pipelines.data.images.transforms import Augmentation, augmented, mentions_sides
from tests.pictures import file_of, photograph

NOTHING = Augmentation(flip=False, crop=0, colour=0, rotate=0)
EVERYTHING = Augmentation(flip=True, crop=0.2, colour=0.3, rotate=10)


def test_copy_depends_on_its_key_alone() -> None:
    data = file_of(photograph(1))
    assert augment(data, EVERYTHING, "7/a/1") == augment(data, EVERYTHING, "7/a/1")
    assert augment(data, EVERYTHING, "7/a/1") != augment(data, EVERYTHING, "7/a/2")


def test_nothing_is_changed_by_no_option() -> None:
    photo = photograph(1)
    assert np.array_equal(np.asarray(augmented(photo, NOTHING, "key")), np.asarray(photo))


def test_half_of_the_copies_are_mirrored() -> None:
    photo = photograph(1)
    mirrored = 0
    for number in range(40):
        copy = np.asarray(augmented(photo, Augmentation(flip=True, crop=0, colour=0, rotate=0), str(number)))
        is_mirrored = np.array_equal(copy, np.asarray(ImageOps.mirror(photo)))
        assert is_mirrored or np.array_equal(copy, np.asarray(photo))
        mirrored += is_mirrored
    assert 10 <= mirrored <= 30


def test_crop_is_within_its_limit() -> None:
    for number in range(20):
        copy = augmented(photograph(1), Augmentation(flip=False, crop=0.25, colour=0, rotate=0), str(number))
        assert 240 <= copy.width <= 320
        assert 180 <= copy.height <= 240


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (400, 120)])
def test_turned_copy_has_no_empty_corners(size: tuple[int, int]) -> None:
    white = Image.new("L", size, 255)
    for number in range(10):
        copy = augmented(white, Augmentation(flip=False, crop=0, colour=0, rotate=30), str(number))
        assert np.asarray(copy)[1:-1, 1:-1].min() > 200
        assert copy.width / copy.height == pytest.approx(size[0] / size[1], rel=0.05)


def test_copy_of_a_greyscale_png_is_a_png() -> None:
    data, width, height = augment(file_of(photograph(1).convert("L"), "PNG"), EVERYTHING, "key")
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("PNG", (width, height))


def test_captions_that_say_left_or_right() -> None:
    for caption in ("A dog LEFT of a tree.", "on the right-hand side", "leftmost", "猫在树的左边"):
        assert mentions_sides(caption)
    for caption in ("A bright day", "leftovers", "猫在树上", "copyrighted"):
        assert not mentions_sides(caption)
