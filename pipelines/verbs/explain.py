"""`rayse recipe`: explains the keys of stages and sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from pipelines.console import print_json
from pipelines.errors import UserError
from pipelines.recipe.schema import json_schema
from pipelines.recipe.shipped import SHIPPED, find
from pipelines.stage import Stage


def explain_recipe(stages: Mapping[str, Stage], *, keys: str | None, schema: bool, show: str | None) -> None:
    """`rayse recipe`: explains the keys of one of these stages or of a kind of source; without arguments lists both.

    schema: prints the JSON Schema; show: prints this recipe. Raises UserError for an unknown stage, kind or recipe."""
    from pipelines.data.sources import SOURCES

    if schema:
        return print_json(json_schema(stages))
    if show is not None:
        return print(find(show).read_text(encoding="utf-8"), end="")
    if keys is None:
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        print(f"stages: {', '.join(stages)}\nsources: {', '.join(SOURCES)}\nrecipes that come with Rayse: {shipped}")
        print("rayse recipe --keys NAME explains one; --show RECIPE prints one; --schema prints the JSON Schema")
        return None
    models: dict[str, list[tuple[str, type[BaseModel]]]] = {
        name: [(name, stage.options), (f"cluster: {name}", stage.cluster)] for name, stage in stages.items()
    }
    for name, source in SOURCES.items():  # images are a stage and a kind of source
        models.setdefault(name, []).append((f"sources: {name}" if name in stages else name, source))
    if keys not in models:
        raise UserError(f"--keys {keys}: no such stage or kind of source; expected one of {', '.join(models)}")
    for title, model in models[keys]:
        print(title)
        rows = list(keys_of(model))
        width = max((len(key) for key, _, _ in rows), default=0)
        for key, default, description in rows:
            print(f"  {key:<{width}}  {default:<10}  {description}".rstrip())
    return None


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, description) of every key of a model and of the models inside it."""
    for name, field in model.model_fields.items():
        types: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
        inner = next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            yield f"{prefix}{name}", default, field.description or ""
