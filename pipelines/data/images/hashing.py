"""Perceptual hashing: images that look alike have hashes that differ in few bits.

    image ──grey, 32 × 32──► discrete cosine transform ──64 lowest frequencies above or below their median──► 64 bits

The transform as in pHash (Zauner 2010), over the lowest frequencies in both directions without the mean, so that
resizing, encoding and a change of brightness move few bits. Mirrored and turned images have other hashes.

Shape suffixes: D images, B bands of bits.
"""

from __future__ import annotations

import itertools

import numba
import numpy as np
from PIL import Image

SIDE = 32  # pixels of the small image
NUM_BITS = 64
# 0.01 of a grey level: far above the rounding of floating-point sums, which differs between machines.
PRECISION = 0.01


def perceptual_hash(image: Image.Image) -> int:
    """Returns 64 bits that say where an image is bright and dark, coarsely.

    >>> grey = Image.linear_gradient("L")
    >>> perceptual_hash(grey) == perceptual_hash(grey.resize((100, 100)))
    True
    """
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    coefficients = _BASIS @ np.asarray(small, np.float64) @ _BASIS.T
    lowest = np.round(coefficients[_ROWS, _COLUMNS] / PRECISION)
    bits = lowest > np.median(lowest)
    return int(np.packbits(bits).view(">u8")[0])


def distance(first: int, second: int) -> int:
    """Returns the number of bits in which two hashes differ.

    >>> distance(0b1010, 0b0110)
    2
    """
    return (first ^ second).bit_count()


def near_duplicates(hashes_D: np.ndarray, max_distance: int) -> np.ndarray:
    """Returns int64[D]: for each image the one that is kept in its place: itself, or an earlier one.

    hashes_D: uint64, the best image first. An image is kept unless an earlier kept one differs in at most max_distance
    bits; so images that are alike only through a third are not mistaken for each other. Hashes that differ in at most k
    bits are equal in at least one of k + 1 bands of bits: only those are compared."""
    bands_BD = _bands(hashes_D, max_distance + 1)
    order_BD = np.argsort(bands_BD, axis=1, kind="stable")  # each bucket of equal bands in the images' order
    starts_BD = np.empty_like(order_BD)  # where an image's bucket begins
    for bands_D, order_D, starts_D in zip(bands_BD, order_BD, starts_BD, strict=True):
        starts_D[:] = np.searchsorted(bands_D[order_D], bands_D)
    return _first_alike(hashes_D, order_BD, starts_BD, max_distance)


def _bands(hashes_D: np.ndarray, num_bands: int) -> np.ndarray:
    """Cuts hashes into bands of nearly equal numbers of bits. uint64[B, D]."""
    edges = [NUM_BITS * band // num_bands for band in range(num_bands + 1)]
    bands = []
    for low, high in itertools.pairwise(edges):
        mask = np.uint64((1 << (high - low)) - 1)
        bands.append((hashes_D >> np.uint64(low)) & mask)
    return np.stack(bands)


@numba.njit(cache=True)
def _num_bits(value: np.uint64) -> int:
    """Returns the number of bits that are set."""
    count = 0
    while value:
        value &= value - np.uint64(1)
        count += 1
    return count


@numba.njit(cache=True)
def _first_alike(hashes_D: np.ndarray, order_BD: np.ndarray, starts_BD: np.ndarray, max_distance: int) -> np.ndarray:
    """Returns for each image the first kept one that is alike. order_BD: images by bucket; starts_BD: of their own."""
    kept_D = np.arange(len(hashes_D))
    for image in range(len(hashes_D)):
        first = image
        for band in range(len(order_BD)):
            position = starts_BD[band, image]
            other = order_BD[band, position]
            while other < first:
                if kept_D[other] == other and _num_bits(hashes_D[other] ^ hashes_D[image]) <= max_distance:
                    first = other
                    break
                position += 1
                other = order_BD[band, position]
        kept_D[image] = first
    return kept_D


def _cosine_basis() -> np.ndarray:
    """The transform's matrix, float64[frequencies, SIDE], orthonormal."""
    frequencies, positions = np.arange(SIDE)[:, None], np.arange(SIDE)[None, :]
    basis = np.cos(np.pi * frequencies * (2 * positions + 1) / (2 * SIDE))
    return basis * np.where(frequencies == 0, 1, np.sqrt(2)) / np.sqrt(SIDE)


def _lowest_frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the NUM_BITS coefficients of the lowest frequency, without the mean at (0, 0)."""
    pairs = [(row, column) for row in range(SIDE) for column in range(SIDE)]
    pairs.sort(key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))
    chosen = np.array(pairs[1 : NUM_BITS + 1])
    return chosen[:, 0], chosen[:, 1]


_BASIS = _cosine_basis()
_ROWS, _COLUMNS = _lowest_frequencies()
