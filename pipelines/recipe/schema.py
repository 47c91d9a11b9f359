"""The JSON Schema of recipes, by which editors complete and check a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.sources import SOURCES
from pipelines.recipe.search_space import KINDS, SweepOptions
from pipelines.stage import Stage

SPACE = {
    "type": "object",
    "description": "Search space of this option, for `rayse sweep`",
    "properties": {**{kind: {"type": "array"} for kind in KINDS}, "default": {}},
    "additionalProperties": False,
}


def json_schema(stages: Mapping[str, Stage]) -> dict[str, Any]:
    """The JSON Schema of recipes: the options of every stage and source, with their descriptions."""
    entry = {"stage": {"enum": list(stages)}, "from": {}, "sources": {"type": "array", "items": {"type": "string"}}}
    kinds = {kind: stage.options.model_json_schema() for kind, stage in stages.items()}
    listed = {
        kind: {**schema, "properties": {**_searchable(schema.get("properties", {})), **entry}}
        for kind, schema in kinds.items()
        if kind != "evaluate"
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
        "required": ["stages"],
        "properties": {
            "name": {"type": "string"},
            "seed": {"type": "integer"},
            "store": {"type": "string"},
            "base": kinds.get("base", {"type": "object"}),
            "sources": {"additionalProperties": {"anyOf": [s.model_json_schema() for s in SOURCES.values()]}},
            "stages": {"type": "object", "properties": listed},
            "evaluate": kinds.get("evaluate", {"type": "object"}),
            "sweep": SweepOptions.model_json_schema(),
            "cluster": {"properties": {kind: stage.cluster.model_json_schema() for kind, stage in stages.items()}},
        },
    }


def _searchable(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of each option, or a search space instead of it."""
    return {
        key: {"description": option.get("description", ""), "anyOf": [option, SPACE]}
        for key, option in properties.items()
    }
