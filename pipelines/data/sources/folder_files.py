"""What the files of a folder are: those of data sets, splits that are held out, others by the kind that reads them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipelines.data.sources import SOURCES
from pipelines.data.sources.dataset import DESCRIPTIONS, data_sets, files_of, is_cache
from pipelines.data.sources.files import FileSource, RecordSource
from pipelines.data.sources.finding import visible_files
from pipelines.data.sources.image_folders import IMAGE_SUFFIXES
from pipelines.data.sources.image_sniffing import captioned_files
from pipelines.data.sources.split_names import folders_of_images, held_out_names, in_held_out_folders

CARDS = ("readme.md", *DESCRIPTIONS)  # of data sets


def other_files(folder: Path) -> list[Path]:
    """The files of a folder but for those of the data sets in it, and for caches."""
    described, others = _divided(folder)
    return [file for file in others if file not in described]


def cards(folder: Path) -> list[Path]:
    """The files of a folder that describe a data set below them."""
    return _divided(folder)[0]


def caches(folder: Path) -> list[Path]:
    """The files below a folder that the library datasets keeps for itself."""
    return [file for file in visible_files(folder) if is_cache(file)]


def _divided(folder: Path) -> tuple[list[Path], list[Path]]:
    """(those that describe a data set below them, all) of a folder's files that are not in the data sets in it."""
    sets = data_sets(folder)
    of_sets = {file for one in sets for file in files_of(one)}
    others = [file for file in visible_files(folder) if file not in of_sets and not is_cache(file)]
    named = [file for file in others if file.name.lower() in CARDS]
    return [file for file in named if any(one.is_relative_to(file.parent) for one in sets)], others


def splits_beside_train(folder: Path) -> list[Path]:
    """The files in a folder that are what a data set holds out, by their names or those of folders beside train.

    Pages and Markdown that are named so are none: test.html and train.html may be about that."""
    others = other_files(folder)
    files = [file for file in others if source_kind(file)]
    captioned = captioned_files(folder, others)
    held_out = in_held_out_folders(
        folder,
        (
            file
            for file in files
            if file in captioned or may_be_a_split(file) or file.name.lower().endswith(IMAGE_SUFFIXES)
        ),
    )
    by_parent: dict[Path, list[Path]] = {}
    for file in files:
        by_parent.setdefault(file.parent, []).append(file)
    for siblings in by_parent.values():
        stems = {file: _stem(file) for file in siblings if may_be_a_split(file)}
        names = held_out_names(stems.values())
        held_out |= {file for file, stem in stems.items() if stem in names}
    for read in folders_of_images(folder, captioned, held_out):  # captions of both splits in one file: it reads both
        held_out -= {file for file in captioned if file.is_relative_to(read)}
    return sorted(held_out)


def may_be_a_split(file: Path) -> bool:
    """Whether the name of a file with rows, plain text or an archive may say which split it is."""
    kind = source_kind(file)
    is_rows = kind is not None and (issubclass(SOURCES[kind], RecordSource) or kind == "images")
    return (is_rows and not file.name.lower().endswith(IMAGE_SUFFIXES)) or "txt" in file.name.lower().split(".")


def passed_over(folder: Path) -> Counter[str]:
    """Numbers of files below a folder that belong to no kind of source, by suffix."""
    files = other_files(folder)
    captioned = captioned_files(folder, files)
    return Counter(file.suffix or file.name for file in files if not is_known(file) and file not in captioned)


def is_known(file: Path) -> bool:
    """Whether a file is of a known kind by itself: image files are only where something is said of them."""
    kind = source_kind(file)
    return kind is not None and (kind != "images" or not file.name.lower().endswith(IMAGE_SUFFIXES))


def source_kind(file: Path) -> str | None:
    """The kind of source that reads files with this suffix."""
    for kind, source in SOURCES.items():
        if issubclass(source, FileSource) and file.name.lower().endswith(source.suffixes):
            return kind
    return None


def _stem(file: Path) -> str:
    """The name of a file without the suffix of its kind: a split may be of another kind than the one for training."""
    suffixes = (suffix for source in SOURCES.values() if issubclass(source, FileSource) for suffix in source.suffixes)
    known = max((suffix for suffix in suffixes if file.name.lower().endswith(suffix)), key=len, default="")
    return file.name[: len(file.name) - len(known)]
