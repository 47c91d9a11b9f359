"""How a request's fields are checked, and what is said of the first wrong one.

parsed JSON ──read──► a model of fields.py, or ApiError (400): the field's path, what was expected, what was found
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from serve.gateway.asgi import ApiError

Model = TypeVar("Model", bound=BaseModel)


def read(model: type[Model], body: dict[str, Any]) -> Model:
    """Checks the fields of a request; null counts as absent. Raises ApiError (400) that names the first wrong one."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _api_error(model, error.errors(include_url=False)[0]) from None


def _api_error(model: type[BaseModel], problem: Any) -> ApiError:
    path, expected, known = _locate(model, problem["loc"])
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else "leave it out"
        path = f"{path}.{name}" if path else name
        return ApiError(400, f"{path}: not supported by this server; {hint}", param=path, code="unsupported_parameter")
    if problem["type"] == "value_error":  # raised by a validator of ours, which says what is expected
        message = f"{problem['ctx']['error']}"
        return ApiError(400, f"{path}: {message}" if path else message, param=path or None)
    found = "missing" if problem["type"] == "missing" else f"got {shortened(problem['input'])}"
    return ApiError(400, f"{path}: expected {expected}, {found}", param=path)


def _locate(model: type[BaseModel], location: Sequence[str | int]) -> tuple[str, str, list[str]]:
    """(path of a field as clients write it, what is expected there, names of the fields beside it). The location also
    holds the alternatives of a union, which are no fields."""
    path, expected, fields = "", "an object", by_alias(model)
    for key in location:
        if isinstance(key, int):
            path += f"[{key}]"
        elif key in fields:
            path += f".{key}" if path else key
            expected = fields[key].description
            inner = _model_in(fields[key].annotation)
            fields = by_alias(inner) if inner else {}
    return path, expected, list(fields)


@functools.cache
def by_alias(model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a model by their names in a request."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as `list[Model] | None`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for each in get_args(annotation) if (model := _model_in(each))), None)


def shortened(value: Any) -> str:
    """A value as JSON, as far as a message quotes it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
