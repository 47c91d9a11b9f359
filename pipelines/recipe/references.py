"""Sources that the options of a stage name: what it compares its rows with, such as evaluation sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipelines.data.sources.source import Source
from pipelines.errors import UserError
from pipelines.options import Options
from pipelines.recipe import yaml_lines
from pipelines.recipe.messages import suggestion
from pipelines.stage import Stage


def references(
    stage: Stage,
    options: Options,
    sources: Mapping[str, Source],
    path: yaml_lines.Path,
    error: Callable[[yaml_lines.Path, str], UserError],
) -> dict[str, Source]:
    """The sources that the options of the stage at `path` name, by name.

    Raises an error at the option's key for a name that no source of the recipe has."""
    named: dict[str, Source] = {}
    for key, names in stage.references(options).items():
        for name in names:
            if name not in sources:
                raise error((*path, *key.split(".")), f"no source {name!r}.{suggestion(name, sources)}")
            named[name] = sources[name]
    return named
