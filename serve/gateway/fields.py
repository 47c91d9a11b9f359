"""The fields of a request, one model for each route: OpenAI's, with some of vLLM's, and no others.

    parsed JSON ──read (reading.py)──► ChatFields | CompletionFields ──passed_on──► the fields that vLLM gets

Types are strict, as OpenAI's are: 1 and "yes" are no truth values, "5" is no number. A field's description is what an
error says was expected. What is not listed here does not reach vLLM, whose further fields would step around the chat
template, the guard or another client's reply. Of many wrong items the first alone is an error: a body of 1 MB holds
hundreds of thousands, each of which would cost 3 kB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WrapValidator, model_validator

from serve.gateway.feedback import MAX_COMMENT_CHARACTERS, MAX_CORRECTION_CHARACTERS, ReportKind
from serve.gateway.reading import by_alias
from serve.gateway.receipts import MAX_CHARACTERS as MAX_RECEIPT

INT64 = 2**63
MAX_LOGPROBS = 20  # vLLM's limit
MAX_TOOLS = 128  # OpenAI's limit
COUNT = "a whole number of at least 1"
TokenId = Annotated[int, Field(ge=0)]
Item = TypeVar("Item")


def _each_entry(entries: Any, check: Callable[[Any], Any]) -> Any:
    """Checks an object entry by entry, up to the first wrong one."""
    if not isinstance(entries, dict):
        return check(entries)
    return {name: value for entry in entries.items() for name, value in check(dict([entry])).items()}


Items = Annotated[list[Item], Field(fail_fast=True)]
Entries = Annotated[dict[str, Item], WrapValidator(_each_entry)]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    WrapValidator(_each_entry),
]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, values: Any) -> Any:
        """Null counts as absent. Of fields that are not listed the first one stays, for the error."""
        if not isinstance(values, dict):
            return values
        listed = by_alias(cls)
        present = {name: value for name, value in values.items() if value is not None}
        unknown = next((name for name in present if name not in listed), None)
        return {name: value for name, value in present.items() if name in listed or name == unknown}


class StreamOptions(_Fields):
    """What a stream holds besides its text."""

    include_usage: bool | None = Field(None, description="true or false")
    continuous_usage_stats: bool | None = Field(None, description="true or false")
    include_obfuscation: Literal[False] | None = Field(None, description="false; this server pads no events")


class StructuredOutputs(_Fields):
    """A form that the reply must have, in vLLM's words: exactly one of the fields."""

    json_: str | dict[str, Any] | None = Field(None, alias="json", description="a JSON schema, as an object or text")
    regex: str | None = Field(None, description="a regular expression")
    choice: Items[str] | None = Field(None, min_length=1, description="a list of at least one text")
    grammar: str | None = Field(None, description="a grammar in EBNF")
    json_object: Literal[True] | None = Field(None, description="true")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("expected exactly one of json, regex, choice, grammar and json_object")
        return self


class JsonSchema(_Fields):
    """A JSON schema with its name."""

    name: str = Field(description="the schema's name, as text")
    description: str | None = Field(None, description="text")
    schema_: dict[str, Any] = Field(alias="schema", description="a JSON schema, as an object")
    strict: bool | None = Field(None, description="true or false")


class ResponseFormat(_Fields):
    """A form that the reply must have, in OpenAI's words."""

    type: Literal["text", "json_object", "json_schema"] = Field(description="text, json_object or json_schema")
    json_schema: JsonSchema | None = Field(None, description="an object with name and schema")

    @model_validator(mode="after")
    def _schema_where_named(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('expected the field json_schema with the type "json_schema", and with no other')
        return self


Model = TypeVar("Model", bound=BaseModel)
AnyForm = Annotated[Model | dict[str, Any], Field(union_mode="left_to_right")]
"""A model, or an object of any other form."""
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
NAME = "1 to 64 letters, digits, _, . and -"


class Function(_Fields):
    """A function that the model may call."""

    name: FunctionName = Field(description=NAME)
    description: str | None = Field(None, description="text")
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema, as an object")
    strict: bool | None = Field(None, description="true or false")


class Tool(_Fields):
    """A tool that the model may call."""

    type: Literal["function"] = Field(description='"function", as this server runs no tools itself')
    function: Function = Field(description="an object with a name and parameters")


class CalledTools(_Fields):
    """The tools of a request to a model that calls them. One that does not ignores tools of any form."""

    tools: Items[Tool] = Field(description="a list of tools")


class FunctionOfName(_Fields):
    """The name of a function."""

    name: FunctionName = Field(description=NAME)


class NamedTool(_Fields):
    """The tool that the model has to call."""

    type: Literal["function"] = Field(description='"function"')
    function: FunctionOfName = Field(description="an object with a name")


ToolChoice = Literal["none", "auto", "required"] | NamedTool
TOOL_CHOICE = '"auto", "none", "required", or an object that names a function'


class _CommonFields(_Fields):
    """Fields of all routes that generate text. From `user` on they change no reply."""

    model: str | None = Field(None, description="the model's name, as text")
    temperature: float | None = Field(None, ge=0, le=2, description="a number from 0 to 2")
    top_p: float | None = Field(None, gt=0, le=1, description="a number above 0, at most 1")
    stream: bool | None = Field(None, description="true or false")
    user: str | None = Field(None, description="text")
    metadata: Entries[str] | None = Field(None, description="an object of texts")
    service_tier: Literal["auto", "default"] | None = Field(None, description='"auto" or "default"')
    safety_identifier: str | None = Field(None, description="text")
    prompt_cache_key: str | None = Field(None, description="text")


class _GenerationFields(_CommonFields):
    """Fields of the two routes that vLLM has too."""

    max_tokens: int | None = Field(None, ge=1, description=COUNT)
    max_completion_tokens: int | None = Field(None, ge=1, description=COUNT)
    min_tokens: int | None = Field(None, ge=0, description="a whole number of at least 0")
    n: int | None = Field(None, ge=1, description=COUNT)
    top_k: int | None = Field(None, ge=-1, description="a whole number of at least 1; 0 or -1 for all tokens")
    min_p: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    seed: int | None = Field(None, ge=-INT64, lt=INT64, description="a whole number of 64 bits")
    repetition_penalty: float | None = Field(None, gt=0, description="a number above 0")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="a number from -2 to 2")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="a number from -2 to 2")
    logit_bias: LogitBias | None = Field(None, description="an object of token ids with numbers from -100 to 100")
    bad_words: Items[str] | None = Field(None, description="a list of texts")
    stop: str | Annotated[Items[str], Field(max_length=16)] | None = Field(
        None, description="text, or a list of at most 16 texts"
    )
    stop_token_ids: Items[TokenId] | None = Field(None, description="a list of token ids")
    include_stop_str_in_output: bool | None = Field(None, description="true or false")
    ignore_eos: bool | None = Field(None, description="true or false")
    skip_special_tokens: bool | None = Field(None, description="true or false")
    stream_options: StreamOptions | None = Field(None, description='an object such as {"include_usage": true}')
    response_format: ResponseFormat | None = Field(None, description="an object with a type")
    structured_outputs: StructuredOutputs | None = Field(None, description="an object with one form, such as a regex")
    # Fields that change no reply.
    store: Literal[False] | None = Field(None, description="false; this server stores no replies")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.response_format and self.response_format.type != "text" and self.structured_outputs:
            raise ValueError("expected response_format or structured_outputs, not both")
        return self

    @property
    def max_reply_tokens(self) -> int | None:
        """The longest reply that the client requests, in tokens."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def passed_on(self) -> dict[str, Any]:
        """The fields that vLLM gets as they are."""
        return self.model_dump(exclude_none=True, by_alias=True, exclude=NOT_PASSED_ON)


class ChatFields(_GenerationFields):
    """Fields of /v1/chat/completions."""

    messages: Items[dict[str, Any]] = Field(min_length=1, description="a list with at least one message")
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description=f"a whole number from 0 to {MAX_LOGPROBS}"
    )
    add_generation_prompt: bool | None = Field(None, description="true or false")
    continue_final_message: bool | None = Field(None, description="true or false")
    tools: Annotated[Items[AnyForm[Tool]], Field(max_length=MAX_TOOLS)] | None = Field(
        None, description=f"a list of at most {MAX_TOOLS} tools"
    )
    tool_choice: ToolChoice | None = Field(None, description=TOOL_CHOICE)
    parallel_tool_calls: bool | None = Field(None, description="true or false")
    functions: Items[dict[str, Any]] | None = Field(None, description="a list of functions")
    function_call: str | dict[str, Any] | None = Field(None, description='"auto" or "none"')
    modalities: Items[Literal["text"]] | None = Field(None, description='["text"]')


class CompletionFields(_GenerationFields):
    """Fields of /v1/completions."""

    prompt: str | Items[str] | Items[TokenId] | Items[Items[TokenId]] = Field(
        description="text, token ids, or a list of either"
    )
    max_tokens: int | None = Field(None, ge=0, description="a whole number of at least 1; 0 with echo")
    echo: bool | None = Field(None, description="true or false")
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description=f"a whole number from 0 to {MAX_LOGPROBS}")
    prompt_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description=f"a whole number from 0 to {MAX_LOGPROBS}"
    )
    best_of: Literal[1] | None = Field(None, description="1")

    @property
    def scores_prompt(self) -> bool:
        """Whether the reply has the log-probabilities of its prompt."""
        return self.prompt_logprobs is not None or (self.echo is True and self.logprobs is not None)

    @property
    def num_scores(self) -> int:
        """Number of log-probabilities that the reply has of each token of its prompt; 0 where it has none."""
        numbers = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((number + 1 for number in numbers if number is not None), default=0)

    @property
    def only_scores(self) -> bool:
        """Whether the request is for the log-probabilities of its prompt: the reply has at most one new token."""
        return self.scores_prompt and self.max_reply_tokens in (0, 1) and not self.stream


class TextFormat(_Fields):
    """A form that a response must have: as ResponseFormat, with the schema beside the type."""

    type: Literal["text", "json_object", "json_schema"] = Field(description="text, json_object or json_schema")
    name: str | None = Field(None, description="the schema's name, as text")
    description: str | None = Field(None, description="text")
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="a JSON schema, as an object")
    strict: bool | None = Field(None, description="true or false")

    @model_validator(mode="after")
    def _schema_where_named(self) -> Self:
        if (self.type == "json_schema") != (self.name is not None and self.schema_ is not None):
            raise ValueError('expected name and schema with the type "json_schema", and with no other')
        return self


class TextOptions(_Fields):
    """The text of a response."""

    format: TextFormat | None = Field(None, description="an object with a type")


class ResponsesTool(Function):
    """A function that the model may call, with its type beside it."""

    type: Literal["function"] = Field(description='"function"')


class NamedFunction(FunctionOfName):
    """The function that the model has to call."""

    type: Literal["function"] = Field(description='"function"')


class ResponsesFields(_CommonFields):
    """Fields of /v1/responses."""

    input: str | Annotated[Items[dict[str, Any]], Field(min_length=1)] = Field(
        description="text, or a list with at least one message"
    )
    instructions: str | None = Field(None, description="text")
    max_output_tokens: int | None = Field(None, ge=1, description=COUNT)
    text: TextOptions | None = Field(None, description="an object with a format")
    tools: Annotated[Items[AnyForm[ResponsesTool]], Field(max_length=MAX_TOOLS)] | None = Field(
        None, description=f"a list of at most {MAX_TOOLS} functions"
    )
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = Field(None, description=TOOL_CHOICE)
    parallel_tool_calls: bool | None = Field(None, description="true or false")
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description='"auto" (of a long input the newest turns count) or "disabled" (a long one is an error)'
    )
    # Fields that change no reply.
    store: Literal[False] | None = Field(None, description="false; this server stores no responses")
    background: Literal[False] | None = Field(None, description="false; this server replies at once")
    include: Annotated[Items[Any], Field(max_length=0)] | None = Field(None, description="an empty list")


class CalledFunction(_Fields):
    """What a reply called."""

    name: str = Field(description="text")
    arguments: str = Field(description="JSON text of an object")


class ToolCall(_Fields):
    """A call of a reply."""

    id: str = Field(description="text")
    type: Literal["function"] = Field(description='"function"')
    function: CalledFunction = Field(description="an object with name and arguments")


class FeedbackFields(_Fields):
    """Fields of /feedback."""

    reply_id: Annotated[str, Field(pattern=r"^[ -~]{1,100}$")] | None = Field(None, description="the id of a reply")
    receipt: Annotated[str, Field(max_length=MAX_RECEIPT)] | None = Field(None, description="the receipt of a reply")
    thumb: Literal["up", "down"] | None = Field(None, description="up or down")
    comment: Annotated[str, Field(max_length=MAX_COMMENT_CHARACTERS)] = Field(
        "", description=f"text of at most {MAX_COMMENT_CHARACTERS} characters"
    )
    correction: Annotated[str, Field(max_length=MAX_CORRECTION_CHARACTERS)] = Field(
        "", description=f"the text that the reply should have been, at most {MAX_CORRECTION_CHARACTERS} characters"
    )
    report: ReportKind | None = Field(None, description="wrong, unsafe, format or other")
    prompt: str | Items[dict[str, Any]] | Items[str] | Items[TokenId] | Items[Items[TokenId]] | None = Field(
        None, description="the prompt that the receipt is of: messages, text, token ids, or a list of either"
    )
    reply: str | None = Field(None, description="the reply that the receipt is of")
    tool_calls: Items[ToolCall] | None = Field(None, description="a list of the calls of that reply")

    @model_validator(mode="after")
    def _one_reply(self) -> Self:
        if (self.reply_id is None) == (self.receipt is None):
            raise ValueError("reply_id: expected it, or receipt, and not both")
        return self

    @model_validator(mode="after")
    def _some_opinion(self) -> Self:
        if self.thumb is None and not self.correction and self.report is None:
            raise ValueError("thumb: expected up or down, or a correction or a report, which count as down without one")
        return self


# Read by the gateway, or without effect.
NOT_PASSED_ON = {
    "model", "messages", "max_completion_tokens", "add_generation_prompt", "continue_final_message", "tools",
    "tool_choice", "parallel_tool_calls", "functions", "function_call", "modalities", "best_of", "user", "metadata",
    "store", "service_tier", "safety_identifier", "prompt_cache_key",
}  # fmt: skip
