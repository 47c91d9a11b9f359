"""The description of the API in OpenAPI 3.1, made of the models that requests are read with (fields.py)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve.gateway.fields import ChatFields, CompletionFields, FeedbackFields, ResponsesFields

COMPONENTS = "#/components/schemas/"
# What each route takes: the model of its body, and what it is for.
BODIES: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (ChatFields, "Reply to a conversation, whole or streamed (`stream`)."),
    "/v1/completions": (CompletionFields, "Continue a text, whole or streamed, or return its log-probabilities."),
    "/v1/responses": (ResponsesFields, "Reply to a conversation, whole or streamed; nothing is stored."),
    "/feedback": (FeedbackFields, "Store a thumb, a comment, a correction or a report on a reply."),
}
PLAIN = {
    "/v1/models": "List the one model.",
    "/v1/models/{model}": "Describe the model.",
    "/health": "Say whether the server is ready.",
    "/about": "Describe the server, for its chat page.",
}
STREAMED = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
STATUSES = {
    "400": "A field is wrong; `param` names it.", "401": "The key is wrong or missing.",
    "403": "The request is another site's.", "404": "There is no such model, reply or route.",
    "408": "The body came too slowly.", "413": "The body is too large.", "415": "The body is no JSON.",
    "429": "Too many requests.", "503": "The server is not ready.", "504": "The reply took too long.",
    "507": "The feedback could not be stored.",
}  # fmt: skip
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def document(*, needs_key: bool, prefix: str = "/") -> dict[str, Any]:
    """The OpenAPI document. needs_key: whether requests carry a key. prefix: of all paths."""
    models = [(model, "validation") for model, _ in BODIES.values()]
    _, definitions = models_json_schema(models, ref_template=COMPONENTS + "{model}")  # pyright: ignore[reportArgumentType]
    key = {"security": [{"key": []}]} if needs_key else {}
    paths: dict[str, Any] = {route: {"get": _operation(summary)} for route, summary in PLAIN.items()}
    paths["/v1/models/{model}"]["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    for route, (model, summary) in BODIES.items():
        schema = {"$ref": COMPONENTS + model.__name__}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[route] = {"post": _operation(summary, streams=route in STREAMED) | {"requestBody": body}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rayse", "version": "1", "description": "OpenAI's API, with feedback on replies."},
        **({} if prefix == "/" else {"servers": [{"url": prefix}]}),
        "paths": paths,
        "components": {
            "schemas": {**definitions["$defs"], "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        **key,
    }


def _operation(summary: str, *, streams: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        content["text/event-stream"] = {}
    error = {"application/json": {"schema": {"$ref": f"{COMPONENTS}Error"}}}
    responses = {status: {"description": text, "content": error} for status, text in STATUSES.items()}
    responses["503"] = responses["503"] | {"content": {"application/json": {"schema": {"type": "object"}}}}
    return {"summary": summary, "responses": {"200": {"description": "Done.", "content": content}, **responses}}
