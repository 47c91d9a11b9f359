"""Options of the stage images. Imported when a recipe is read, so no heavy imports here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from pipelines.stage import ClusterOptions, Options, RowLimit


class AugmentOptions(Options):
    """How copies of training images are changed."""

    copies: int = Field(
        default=0, ge=0, le=100, description="Number of changed copies of each training image, written beside it"
    )
    flip: bool = Field(
        default=False,
        description="Whether half of the copies are mirrored; never where the caption says left or right",
    )
    crop: float = Field(
        default=0.1, ge=0, le=0.5, description="Largest fraction of a copy's width, and of its height, that is cut off"
    )
    colour: float = Field(
        default=0.2, ge=0, le=1, description="Largest relative change of a copy's brightness, contrast and saturation"
    )
    rotate: float = Field(
        default=0, ge=0, le=45, description="Largest turn of a copy, in degrees; its empty corners are cut off"
    )


class ImagesOptions(Options):
    """Images with captions → checked, deduplicated, resampled; split into training and held-out images."""

    min_side: PositiveInt = Field(
        default=64, description="Minimum of an image's shorter side, in pixels; smaller ones are set aside (tiny)"
    )
    max_side: int | None = Field(
        default=1024,
        ge=16,
        description="Maximum of an image's longer side, in pixels; larger ones are resampled (Lanczos); null: never",
    )
    max_aspect_ratio: float = Field(
        default=5, ge=1, description="Maximum of the longer side divided by the shorter; beyond it, set aside (aspect)"
    )
    max_pixels: PositiveInt = Field(
        default=100_000_000,
        description="Maximum width × height of a file, by its header; larger ones are never decoded (too_many_pixels)",
    )
    near_duplicate_bits: int | None = Field(
        default=6,
        ge=0,
        le=15,
        description="Bits of 64 in which the perceptual hashes of near duplicates differ at most; the largest image "
        "is kept. null: equal files only",
    )
    denoise: Literal["none", "median", "bilateral"] = Field(
        default="none",
        description="Filter against noise, after resampling: none, median (single wrong pixels) or bilateral (fine "
        "noise; edges stay)",
    )
    augment: AugmentOptions = Field(default=AugmentOptions(), description="Changed copies of training images")
    held_out: float = Field(
        default=0.05, ge=0, le=0.5, description="Fraction of each language's images to hold out, in whole groups"
    )
    max_bad_rows: RowLimit | None = Field(
        default=None,
        description="Maximum number of rows that are corrupt, unreadable or without a caption (in rejected.jsonl) "
        "before the stage fails, or their share of each source's rows, such as 1%. Default: 5% (of few rows: 5 of "
        "them, but at most half), and 100 in all",
    )
    block_bytes: PositiveInt = Field(
        default=32_000_000, description="Bytes of image files read by one task: the work that a kill can lose"
    )
    part_bytes: PositiveInt = Field(default=256_000_000, description="Bytes of images in one file of the result")


class ImagesCluster(ClusterOptions):
    """Resources to read and prepare images."""

    tasks: PositiveInt | None = Field(
        default=None, description="Number of parallel tasks; default: this machine's cores, or the cluster's CPUs"
    )
    cpus_per_task: PositiveFloat = Field(default=1, description="Logical CPUs of a task")
