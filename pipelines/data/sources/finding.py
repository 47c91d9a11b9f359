"""Finds the files that a path names: a file, a folder, a glob. Hidden ones are found only if it names them.

Paths are text while there are many of them: one as a `Path` takes five times the memory.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from pipelines.errors import UserError

HIDDEN_FOLDERS = ("__MACOSX", "lost+found")  # besides names that begin with a dot


def find_files(pattern: str, folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Lists the files that one path names. Raises UserError if there is none, or one is unreadable."""
    path = folder.absolute() / Path(pattern).expanduser()
    if path.is_dir():
        files = [file for file in _visible(path) if os.path.basename(file).lower().endswith(suffixes)]
        if not files:
            raise UserError(f"{path}: no file in this folder ends in {' or '.join(suffixes)}")
    elif glob.has_magic(pattern) and not path.exists():
        names = sorted(glob.glob(str(path), recursive=True))
        files = [name for name in names if os.path.isfile(name) and not _hidden(name, path.parts)]
        if not files:
            raise UserError(f"{path}: no file matches this pattern")
    else:
        files = [str(path)]
    for file in files:
        check_exists(Path(file))
    return files


def visible_files(folder: Path) -> list[Path]:
    """Lists the files in a folder and its folders, linked ones too, sorted, without hidden ones: .git, __MACOSX.

    Each folder is read once: under its own name, or that of a link if it lies elsewhere."""
    return [Path(name) for name in _visible(folder)]


def _visible(folder: Path) -> list[str]:
    """The files of `visible_files`, as text."""
    files, seen, links = list[str](), set[str](), [str(folder)]
    for link in links:  # grows while it is walked: real folders come before links to them
        for root, folders, names in os.walk(link, onerror=_refuse_folder):
            is_new = (real := os.path.realpath(root)) not in seen  # a link may lead to a folder above it
            seen.add(real)
            below = {name: os.path.join(root, name) for name in folders}
            folders[:] = sorted(name for name in folders if is_new and not _hidden(below[name], folder.parts))
            links += [below[name] for name in folders if os.path.islink(below[name])]
            found = (os.path.join(root, name) for name in names if is_new)
            files += [
                file.replace(os.sep, "\0")  # as paths are sorted, folder by folder
                for file in found
                if os.path.isfile(file) and not _hidden(file, folder.parts)
            ]
    files.sort()
    for number, file in enumerate(files):  # in place: there may be millions
        files[number] = file.replace("\0", os.sep)
    return files


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: a folder that cannot be read ({error.strerror}); allow it, or move it away")


def _hidden(file: str, named: tuple[str, ...]) -> bool:
    """Whether a file or a folder above it is hidden, and is not named by the user."""
    parts = (part for part in file.split(os.sep) if part != ".")
    return any((part.startswith(".") or part in HIDDEN_FOLDERS) and part not in named for part in parts)


def check_exists(file: Path) -> None:
    """Raises UserError for what is no file, or one that cannot be opened."""
    if not file.exists():
        raise UserError(f"{file}: no such file; check the source's path (it starts at the recipe's folder)")
    if not file.is_file():
        raise UserError(f"{file}: not a file; expected a file, a folder, a glob or a list of them")
    if not os.access(file, os.R_OK):
        raise UserError(f"{file}: cannot be read (permission denied)")
