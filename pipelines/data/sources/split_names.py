"""Names that say which split of a data set a file or folder holds: train, and what is held out beside it.

train.jsonl, test.jsonl · my_train.csv, my_dev.csv · train/a.png, test/b.png · train_sft, test_sft
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path

TRAIN = ("train", "training", "训练", "训练集")
HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval", "测试", "测试集", "验证", "验证集")
SEPARATORS = re.compile(r"[\W_]+")


def held_out_names(names: Iterable[str]) -> list[str]:
    """Those of the names that name what is held out, and of which there is another that names a training split.

    >>> held_out_names(["train_sft-00000-of-00001", "test_sft-00000-of-00001", "dev", "test"])
    ['test_sft-00000-of-00001']
    """
    names = list(names)
    trained = {key for name in names for key in _keys(name, TRAIN)}
    return [name for name in names if not trained.isdisjoint(_keys(name, HELD_OUT))]


def in_held_out_folders(folder: Path, files: Iterable[Path]) -> set[Path]:
    """The files below a folder that is named as what is held out, and beside which there is one for training."""
    places = [(file, file.relative_to(folder).parts[:-1]) for file in files]

    def parents(words: tuple[str, ...], parts: tuple[str, ...]) -> set[tuple[str, ...]]:
        return {parts[:depth] for depth, name in enumerate(parts) if name.lower() in words}

    trained = {parent for _, parts in places for parent in parents(TRAIN, parts)}
    return {file for file, parts in places if not trained.isdisjoint(parents(HELD_OUT, parts))}


def _keys(name: str, split: tuple[str, ...]) -> Iterator[Hashable]:
    """A name without numbers and hashes, with a mark in place of each word that names a split."""
    words = [word for word in SEPARATORS.split(name.lower()) if word != "of" and not any(map(str.isdigit, word))]
    for place, word in enumerate(words):
        if word in split:
            yield (*words[:place], None, *words[place + 1 :])


def folders_of_images(folder: Path, captioned: set[Path], held_out: set[Path]) -> list[Path]:
    """Folders to read images with captions from: the one that holds all but a split beside train, or, where that split
    is below it too and no file beside the splits describes their images, each folder that is none."""
    rest = captioned - held_out
    common = common_folder(folder, rest)
    if not rest or not any(file.is_relative_to(common) for file in captioned & held_out):
        return [common] if captioned else []
    tops = {common / file.relative_to(common).parts[0] for file in rest}
    return sorted(tops) if all(map(Path.is_dir, tops)) else [common]


def common_folder(folder: Path, files: set[Path]) -> Path:
    """The folder that holds all of these files."""
    return Path(os.path.commonpath([file.parent for file in files])) if files else folder
