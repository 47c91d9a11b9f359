"""`rayse recipe`: explains the keys of stages, of sources and of the section `sweep`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from pipelines.console import print_json
from pipelines.errors import UserError
from pipelines.recipe.schema import json_schema
from pipelines.recipe.search_space import SweepOptions
from pipelines.recipe.shipped import SHIPPED, find
from pipelines.stage import Stage


def explain_recipe(stages: Mapping[str, Stage], *, keys: str | None, schema: bool, show: str | None) -> None:
    """`rayse recipe`: explains the keys of one of these stages, of a kind of source or of `sweep`; without arguments
    lists them.

    schema: prints the JSON Schema; show: prints this recipe. Raises UserError for an unknown stage, kind or recipe."""
    from pipelines.data.sources import SOURCES

    if schema:
        return print_json(json_schema(stages))
    if show is not None:
        return print(find(show).read_text(encoding="utf-8"), end="")
    if keys is None:
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        print(f"stages: {', '.join(stages)}\nsources: {', '.join(SOURCES)}\nrecipes that come with Rayse: {shipped}")
        print("rayse recipe --keys NAME explains a stage, a kind of source, or the section sweep; --show RECIPE prints "
              "one; --schema prints the JSON Schema")  # fmt: skip
        return None
    models: dict[str, list[tuple[str, type[BaseModel]]]] = {
        name: [(name, stage.options), (f"cluster: {name}", stage.cluster)] for name, stage in stages.items()
    }
    for name, source in SOURCES.items():  # images are a stage and a kind of source
        models.setdefault(name, []).append((f"sources: {name}" if name in stages else name, source))
    models["sweep"] = [("sweep", SweepOptions)]
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
    """(dotted key, default, description) of every key of a model and of the models inside it.

    A model that may be absent has a line of its own, whose default says whether it is: None, or {} with its keys at
    their defaults."""
    for name, field in model.model_fields.items():
        types: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
        inner = next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        if inner is None or type(None) in types:
            shown = default if inner is None or default == "None" else "{}"
            yield f"{prefix}{name}", shown, field.description or ""
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{name}.")
