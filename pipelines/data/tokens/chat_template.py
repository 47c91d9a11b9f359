"""The chat template in a model's folder, read in the Jinja environment that Hugging Face's templates expect.

Sandboxed, as a downloaded model brings its template.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.errors import UserError

TODAY = datetime(2024, 7, 26)  # for templates that write the date; constant, so that a run can be repeated
SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def read(folder: Path, name: str) -> tuple[jinja2.Template, dict[str, str]]:
    """The chat template of a Hugging Face folder, and its variables: bos_token, eos_token, pad_token, …

    name: what messages call the model. Raises UserError if it has no chat template, or one that cannot be parsed."""
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else _default_template(config.get("chat_template"))
    if not isinstance(source, str):
        raise UserError(
            f"{name}: no chat_template.jinja and no chat_template in tokenizer_config.json; expected a model "
            f"with a chat format. Put a template into its folder as chat_template.jinja"
        )
    try:
        template = _environment().from_string(source)
    except jinja2.TemplateError as error:
        raise UserError(f"{name}: its chat template cannot be read ({error}); expected Jinja as Hugging Face "
                        f"writes it") from None  # fmt: skip
    tokens = {key: _token_text(config.get(key)) for key in SPECIAL_NAMES}
    return template, {key: text for key, text in tokens.items() if text}


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}: some templates mark an assistant's tokens with it. Renders its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja declares it so)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """Makes the environment: the filters, functions and extensions that templates use."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _token_text(token: str | dict[str, Any] | None) -> str:
    """Returns the text of a token of tokenizer_config.json: text, or an object with its content."""
    if isinstance(token, dict):
        return str(token.get("content") or "")
    return token or ""


def _default_template(chat_template: Any) -> Any:
    """Returns the template of tokenizer_config.json: text, or the default of a list of named templates."""
    if not isinstance(chat_template, list):
        return chat_template
    return next((entry.get("template") for entry in chat_template if entry.get("name") == "default"), None)
