"""YAML read strictly, with the line of every key.

Differs from plain PyYAML on purpose: a doubled key is an error; floats are written as in YAML 1.2 (3e-3 is a number, as
people expect, not text); 010 is ten, not eight; only true and false are booleans (`no` and `on` stay words); no tags,
no anchors' magic beyond plain aliases.
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


def load(text: str, where: str) -> tuple[Any, dict[Path, int]]:
    """The document and the line (from 1) of every key and list item, by path.

    Raises UserError naming file and line for YAML that cannot be read and for a doubled key."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: dict[Path, int] = {}
        return (None if node is None else _build(loader, node, (), lines, where)), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{where}:{line}: not readable as YAML: {error.problem or error}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{where}:{line}: not readable as YAML: character {error.character!r} is not text") from None
    except RecursionError:
        raise UserError(f"{where}: not readable as YAML: nested too deeply, or an alias stands inside itself") from None


def scalar(text: str) -> Any:
    """A value as it would be read in a recipe: 1e-4 is a number, [a, b] a list."""
    return load(text, "value")[0]


def _build(loader: _Loader, node: yaml.Node, path: Path, lines: dict[Path, int], where: str) -> Any:
    lines[path] = lines.get(path, node.start_mark.line + 1)
    if not isinstance(node, yaml.ScalarNode) and not node.tag.endswith(("2002:map", "2002:seq")):
        raise UserError(f"{where}:{node.start_mark.line + 1}: {dotted(path)}: tag {node.tag} is not known; remove it")
    if isinstance(node, yaml.MappingNode):
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                key = str(key)
            line = key_node.start_mark.line + 1
            if key in found:
                first = lines[(*path, key)]
                raise UserError(f"{where}:{line}: {dotted((*path, key))}: doubled key, first on line {first}; keep one")
            lines[(*path, key)] = line
            found[key] = _build(loader, value_node, (*path, key), lines, where)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), lines, where) for i, item in enumerate(node.value)]
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # `!!int word`, or more digits than a number may have
        raise UserError(f"{where}:{node.start_mark.line + 1}: {dotted(path)}: {error}") from None


def dotted(path: Path) -> str:
    """("stages", "sft", "rate") -> stages.sft.rate"""
    return ".".join(str(p) for p in path)
