"""Phrases of a recipe's error messages: the nearest key, the type of a value, what pydantic refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, cast, get_args

from pydantic import ValidationError

from pipelines.options import Options
from pipelines.recipe import search_space
from pipelines.recipe.yaml_lines import Path, dotted


def suggestion(word: str, candidates: Iterable[str]) -> str:
    """` Did you mean X?` with the candidate nearest to a misspelt word; empty if none is near."""
    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]}?" if matches else ""


def unusable(name: str, makes: str, stage: str, kinds: Iterable[str], model: str | None) -> str:
    """Why a stage cannot use what an earlier entry makes, and what to do.

    kinds: of artifacts that the stage uses; model: the entry whose model it would use."""
    if makes != "adapter":
        return f"{name} makes a {makes}; {stage} uses {', '.join(kinds) or 'no artifact'}"
    instead = f", or `from: {model}` to go on without it" if model else ""
    return (
        f"{stage} cannot use what {name} makes: an adapter that cannot be merged into weights, and that vLLM cannot "
        f"hold; expected sft with lora or ia3 in the place of {name}{instead}"
    )


def type_name(value: Any) -> str:
    """The type of a YAML value in plain words; a number or boolean as itself."""
    if value is None:
        return "no value"
    return {"str": "text", "list": "a list", "dict": "keys and values"}.get(type(value).__name__, repr(value))


def validation_problem(model: type[Options], error: ValidationError, values: Any, path: Path) -> tuple[Path, str]:
    """The path of the key that pydantic refused, and what is wrong with it.

    model: the options model; values: what the recipe has for it; path: where the recipe has it. A misspelt key is
    reported before the required key that it leaves missing."""
    problem = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")[0]
    is_missing = problem["type"] == "missing"
    inner = problem["loc"] if is_missing else _written_path(problem["loc"], values)
    if is_missing:
        return (*path, *inner), "missing; it has no default"
    if problem["type"] == "extra_forbidden":
        keys = _keys(model, inner[:-1])
        owner = dotted((*(path[1:] if path[0] == "stages" else path), *inner[:-1]))
        nearest = difflib.get_close_matches(str(inner[-1]), keys, n=1, cutoff=0.5)
        hint = f" Did you mean {owner}.{nearest[0]}?" if nearest else ""
        return (*path, *inner), f"unknown key.{hint} (Keys of {owner}: {', '.join(keys) or 'none'})"
    value = problem.get("input")
    hint = f" (A search space is written {search_space.SPELLINGS})" if inner and isinstance(value, dict) else ""
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return (*path, *inner), f"{message}; got {value!r}{hint}"


def _keys(model: Any, inner: Path) -> list[str]:
    """The keys that a model has at an inner path, following nested models as far as their annotation is plain."""
    for part in inner:
        fields = getattr(model, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
        # `Length | None` is Length
        model = next((member for member in get_args(annotation) if hasattr(member, "model_fields")), annotation)
    return list(getattr(model, "model_fields", {}))


def _written_path(loc: Path, values: Any) -> Path:
    """A path as the recipe has it: without the parts that pydantic adds, such as members of a union."""
    path: list[str | int] = []
    for part in loc:
        if (isinstance(values, dict) and part in values) or (isinstance(values, list) and isinstance(part, int)):
            values = values[cast(Any, part)]
            path.append(part)
    return tuple(path)
