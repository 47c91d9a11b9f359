"""Functions of the user, which a recipe names as `path/to/file.py:name`: a reward, a filter.

The code is read where the recipe is and runs where it is called, so that no node needs the file.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from pipelines.errors import UserError


@dataclass(frozen=True)
class UserFunction:
    """The code of a file and the name of a function in it. Cheap to send to a task."""

    file: str  # for messages
    name: str
    code: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.name}"

    @property
    def identity(self) -> str:
        """The name with a digest of the code: the path does not matter."""
        return f"{self.name}@{xxhash.xxh3_128_hexdigest(self.code.encode())}"

    def load(self) -> Callable[..., Any]:
        """The function; running its file's code. Raises UserError if that fails, or has no such function."""
        module = types.ModuleType(f"rayse_user_{xxhash.xxh3_64_hexdigest(self.code.encode())}")
        module.__file__ = self.file
        sys.modules[module.__name__] = module  # where a dataclass looks up the types of its fields
        try:
            code = compile(self.code, self.file, "exec", dont_inherit=True)  # not the annotations from __future__ here
            exec(code, module.__dict__)
        except Exception as error:
            raise UserError(f"{self.file} cannot be imported ({type(error).__name__}: {error})") from error
        function = getattr(module, self.name, None)
        if not callable(function):
            raise UserError(f"{self.file} has no function {self.name}")
        return function


def location(where: str) -> tuple[Path, str]:
    """File and name of `path/to/file.py:name`. Raises UserError for anything else."""
    file, _, name = where.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UserError(f"{where!r}; expected path/to/file.py:name")
    return Path(file).expanduser().absolute(), name


def read(where: str) -> UserFunction:
    """The function's code. Raises UserError if its file cannot be read."""
    file, name = location(where)
    try:
        return UserFunction(str(file), name, file.read_text(encoding="utf-8-sig"))  # some editors write a BOM
    except (OSError, UnicodeDecodeError) as error:
        problem = f"not UTF-8 text: {error.reason}" if isinstance(error, UnicodeDecodeError) else error.strerror or ""
        problem = problem[:1].lower() + problem[1:]
        raise UserError(f"{file}: {problem}; expected Python code with a function {name}") from None
