"""Image files from bytes to what the corpus holds: every format upright and in RGB, every damage a reason."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipelines.data.images import transforms
from pipelines.data.images.pictures import Picture, Preparation, augment, prepare
from pipelines.data.images.quality import Limits
from pipelines.data.sources.bad_rows import Problem
from tests.pictures import file_of, photograph, png_header

LIMITS = Limits(min_side=64, max_aspect_ratio=4, max_pixels=50_000_000)
AS_IT_IS = Preparation(LIMITS, max_side=None, denoise=None)


def prepared(data: bytes, how: Preparation = AS_IT_IS) -> Picture:
    picture = prepare(data, how)
    assert isinstance(picture, Picture), picture
    return picture


def problem(data: bytes) -> Problem:
    result = prepare(data, AS_IT_IS)
    assert isinstance(result, Problem)
    return result


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def is_like(picture: Picture, image: Image.Image, tolerance: float = 6) -> bool:
    """Whether the picture shows this image: their pixels differ by little on average."""
    return bool(np.abs(pixels(picture.data) - np.asarray(image.convert("RGB"), np.int16)).mean() < tolerance)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_file_that_needs_no_change_stays_as_it_is(format: str) -> None:
    data = file_of(photograph(1), format)
    picture = prepared(data)
    assert picture.data == data
    assert picture.changes == ()
    assert (picture.width, picture.height, picture.original_pixels) == (320, 240, 320 * 240)


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "AVIF"])
def test_other_formats_are_converted(format: str) -> None:
    picture = prepared(file_of(photograph(1), format))
    assert picture.changes == ("converted",)
    assert is_like(picture, photograph(1), tolerance=12)


def test_greyscale_and_palette_and_cmyk() -> None:
    photo = photograph(2)
    assert is_like(prepared(file_of(photo.convert("L"))), photo.convert("L"))
    palette = prepared(file_of(photo.quantize(64), "PNG"))
    assert palette.changes == ("converted",)
    assert is_like(palette, photo, tolerance=12)
    assert is_like(prepared(file_of(photo.convert("CMYK"))), photo)
    black_and_white = prepared(file_of(photo.convert("1"), "PNG"))
    assert is_like(black_and_white, photo.convert("1"), tolerance=1)


def test_transparent_pixels_become_white() -> None:
    photo = photograph(3).convert("RGBA")
    photo.paste((0, 0, 0, 0), (0, 0, 100, 240))
    for data in (file_of(photo, "PNG"), file_of(photo.quantize(64), "PNG"), file_of(photo, "WEBP", lossless=True)):
        picture = prepared(data)
        assert pixels(picture.data)[:, :90].min() >= 250
        assert "converted" in picture.changes


def test_sixteen_bits_keep_their_shades() -> None:
    shades = np.linspace(0, 65535, 200 * 100).reshape(100, 200).astype(np.uint16)
    picture = prepared(file_of(Image.fromarray(shades), "PNG"))
    assert np.abs(pixels(picture.data)[..., 0] - shades / 65535 * 255).max() <= 1


def test_exif_orientation_is_applied() -> None:
    photo = photograph(4)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown a quarter to the right
    picture = prepared(file_of(photo, exif=exif))
    assert (picture.width, picture.height) == (240, 320)
    assert picture.changes == ("oriented",)
    assert is_like(picture, photo.transpose(Image.Transpose.ROTATE_270))
    with Image.open(io.BytesIO(picture.data)) as stored:
        assert stored.getexif().get(0x0112, 1) == 1  # not to be turned again


def test_first_frame_of_an_animation() -> None:
    frames = [photograph(seed).quantize(64) for seed in (5, 6, 7)]
    picture = prepared(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert picture.changes == ("first_frame", "converted")
    assert is_like(picture, photograph(5), tolerance=12)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_truncated_file_is_corrupt(format: str) -> None:
    data = file_of(photograph(8), format)
    result = problem(data[: len(data) // 2])
    assert result.reason == "corrupt"
    assert not result.by_rule
    assert "damaged" in result.text or "not an image" in result.text


def test_what_is_no_image_is_corrupt_and_named() -> None:
    assert "empty" in problem(b"").text
    assert "no known format" in problem(b"hello" * 100).text
    assert "HEIC" in problem(b"\0\0\0\x18ftypheic" + b"\0" * 100).text
    assert "SVG" in problem(b"<svg xmlns='http://www.w3.org/2000/svg'></svg>").text
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"
    assert problem(postscript).reason == "corrupt"  # never given to an interpreter


@pytest.mark.parametrize("side", [40_000, 8_000])
def test_image_of_too_many_pixels_is_refused_by_its_header(side: int) -> None:
    result = problem(png_header(side, side))
    assert result.reason == "too_many_pixels"
    assert result.by_rule


def test_limit_of_pixels_is_the_recipes_and_not_pillows() -> None:
    data = file_of(Image.new("1", (14_000, 14_000)), "PNG")
    allowed = Preparation(Limits(min_side=64, max_aspect_ratio=4, max_pixels=200_000_000), max_side=64, denoise=None)
    result = prepare(data, allowed)
    assert isinstance(result, Problem)
    assert result.reason == "blank"  # decoded, and then looked at


def test_copies_are_made_of_every_image_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses from twice as many
    how = transforms.Augmentation(flip=True, crop=0.1, colour=0.1, rotate=5)
    data, width, height = augment(prepared(file_of(photograph(1))).data, how, "a/0/1#1")
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.undo()
    assert pixels(data).shape == (height, width, 3)


def test_random_damage_never_raises() -> None:
    rng = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"):
        data = file_of(photograph(9, (96, 80)), format)
        for _ in range(30):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, len(damaged), 12)] = rng.integers(0, 256, 12)
            assert isinstance(prepare(damaged.tobytes(), AS_IT_IS), Picture | Problem)


def test_sizes_and_blank_images_are_set_aside_by_rule() -> None:
    reasons = {
        "tiny": file_of(photograph(1, (200, 63))),
        "aspect": file_of(photograph(1, (400, 99))),
        "blank": file_of(Image.new("RGB", (100, 100), "navy")),
    }
    for reason, data in reasons.items():
        result = problem(data)
        assert (result.reason, result.by_rule) == (reason, True)
    assert prepared(file_of(photograph(1, (256, 64)))).width == 256


@pytest.mark.parametrize("size", [(750, 500), (240, 960), (257, 256)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_large_image_is_resampled(size: tuple[int, int], format: str) -> None:
    photo = photograph(10, size)
    picture = prepared(file_of(photo, format), Preparation(LIMITS, max_side=256, denoise=None))
    assert max(picture.width, picture.height) == 256
    assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.01)
    assert picture.changes == ("resampled",)
    assert is_like(picture, photo.resize((picture.width, picture.height), Image.Resampling.LANCZOS))
    assert picture.original_pixels == size[0] * size[1]


@pytest.mark.parametrize("filter", [transforms.median, transforms.bilateral])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_noise_is_removed(filter: Callable[[Image.Image], Image.Image], mode: str) -> None:
    clean = np.asarray(photograph(11).filter(ImageFilter.GaussianBlur(2)).convert(mode), np.int16)
    rng = np.random.default_rng(0)
    if filter is transforms.median:
        noisy = np.where(rng.random(clean.shape) < 0.02, 255, clean)
    else:
        noisy = np.clip(clean + np.round(rng.normal(0, 8, clean.shape)), 0, 255)
    data = file_of(Image.fromarray(noisy.astype(np.uint8)), "PNG")
    picture = prepared(data, Preparation(LIMITS, max_side=None, denoise=filter))
    assert picture.changes == ("denoised",)
    with Image.open(io.BytesIO(picture.data)) as image:
        assert image.mode == mode
        assert np.abs(np.asarray(image, np.int16) - clean).mean() < 0.6 * np.abs(noisy - clean).mean()
