"""A strict YAML loader that records the line of every key.

Differs from plain PyYAML on purpose: a doubled key is an error; floats are written as in YAML 1.2 (3e-3 is a number,
not text); 010 is ten, not eight; only true and false are booleans (`no` and `on` stay text); tags are refused, and
anchors support plain aliases only.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from pipelines.errors import UserError

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    pass


_SCALARS = [
    ("tag:yaml.org,2002:bool", r"^(?:true|false|True|False)$", "tfTF"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9][0-9_]*$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|)$", "~nN\0"),
]
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first) + ([""] if "null" in _tag else []))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value.replace("_", "")))  # PyYAML: 010 is 8


def load(text: str, file: str) -> tuple[Any, dict[Path, int]]:
    """The document, and the line (from 1) of every key and list item by its path. file: its name in errors.

    Raises UserError, naming file and line, for invalid YAML and for a doubled key."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[Path, int] = {}
        return _build(loader, node, (), lines, file), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}:{line}: not readable as YAML: {error.problem or error}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{file}:{line}: not readable as YAML: character {error.character!r} is not text") from None
    except RecursionError:
        raise UserError(f"{file}: not readable as YAML: nested too deeply, or an alias refers to itself") from None


def scalar(text: str) -> Any:
    """A value as a recipe would have it: 1e-4 is a number, [a, b] a list."""
    return load(text, "value")[0]


def _build(loader: _Loader, node: yaml.Node, path: Path, lines: dict[Path, int], file: str) -> Any:
    """The Python value of a node; records the lines of its keys and items in `lines`."""
    lines.setdefault(path, node.start_mark.line + 1)
    if not isinstance(node, yaml.ScalarNode) and not node.tag.endswith(("2002:map", "2002:seq")):
        raise UserError(f"{file}:{node.start_mark.line + 1}: {dotted(path)}: tag {node.tag} is not known; remove it")
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if key in mapping:
                first = lines[(*path, key)]
                raise UserError(f"{file}:{line}: {dotted((*path, key))}: doubled key, first on line {first}; keep one")
            lines[(*path, key)] = line
            mapping[key] = _build(loader, value_node, (*path, key), lines, file)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), lines, file) for i, item in enumerate(node.value)]
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # `!!int word`, or more digits than Python converts
        raise UserError(f"{file}:{node.start_mark.line + 1}: {dotted(path)}: {error}") from None


def dotted(path: Path) -> str:
    """("stages", "sft", "rate") -> stages.sft.rate"""
    return ".".join(str(p) for p in path)
