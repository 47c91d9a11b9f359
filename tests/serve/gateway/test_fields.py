"""The fields of a request: OpenAI's types, strictly, and an error that says what was expected."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsBase
from pydantic import BaseModel, ValidationError

from serve.gateway.asgi import ApiError
from serve.gateway.fields import ChatFields, CompletionFields
from serve.gateway.openapi import BODIES
from serve.gateway.reading import read

HELLO = [{"role": "user", "content": "Hello"}]
UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"kv_transfer_params": {"prompt_token_ids": [1]}}, "kv_transfer_params"),
    ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
    ({"request_id": "x"}, "request_id"),
    ({"vllm_xargs": {}}, "vllm_xargs"),
    ({"stream_options": {"include_usages": True}}, "stream_options.include_usages"),
    ({"structured_outputs": {"choice": ["a"], "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
]
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"stream": "yes"}, "stream", 'expected true or false, got "yes"'),
    ({"stream": 1}, "stream", "expected true or false, got 1"),
    ({"logprobs": 1}, "logprobs", "expected true or false, got 1"),
    ({"top_logprobs": 21}, "top_logprobs", "expected a whole number from 0 to 20, got 21"),
    ({"structured_outputs": 5}, "structured_outputs", "got 5"),
    ({"structured_outputs": {}}, "structured_outputs", "exactly one of json, regex, choice, grammar"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly one of"),
    ({"structured_outputs": {"choice": [5]}}, "structured_outputs.choice[0]", "got 5"),
    ({"response_format": "json"}, "response_format", 'got "json"'),
    ({"response_format": {"type": "xml"}}, "response_format.type", "json_object or json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "expected the field json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.schema",
     "expected a JSON schema, as an object, missing"),
    ({"temperature": True}, "temperature", "a number from 0 to 2, got true"),
    ({"temperature": 2.5}, "temperature", "got 2.5"),
    ({"max_tokens": "5"}, "max_tokens", 'whole number of at least 1, got "5"'),
    ({"seed": 2**63}, "seed", "64 bits"),
    ({"stop": 5}, "stop", "text, or a list of at most 16 texts, got 5"),
    ({"logit_bias": {"five": 1}}, "logit_bias", "token ids"),
    ({"messages": []}, "messages", "at least one message"),
    ({"messages": None}, "messages", "missing"),
    ({"store": True}, "store", "stores no replies"),
]  # fmt: skip


def refused(body: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as error:
        read(ChatFields, {"messages": HELLO} | body)
    assert error.value.status == 400
    return error.value


@pytest.mark.parametrize(("body", "param", "message"), WRONG, ids=[str(body)[:40] for body, _, _ in WRONG])
def test_a_wrong_value_is_named_with_what_was_expected(body: dict[str, Any], param: str, message: str) -> None:
    error = refused(body)
    assert error.param == param and str(error).startswith(f"{param}: ") and message in str(error)


@pytest.mark.parametrize(("body", "param"), UNKNOWN, ids=[param for _, param in UNKNOWN])
def test_a_field_that_is_not_listed_is_refused(body: dict[str, Any], param: str) -> None:
    error = refused(body)
    assert (error.param, error.code) == (param, "unsupported_parameter")


def test_the_nearest_field_is_proposed() -> None:
    assert "did you mean max_tokens?" in str(refused({"max_token": 5}))
    assert "did you mean include_usage?" in str(refused({"stream_options": {"include_usages": True}}))


def test_null_is_as_if_absent() -> None:
    body = dict.fromkeys(("temperature", "tools", "suffix", "audio", "stop", "stream_options"))
    assert read(ChatFields, {"messages": HELLO} | body).passed_on == {}


def test_every_field_is_one_of_openais_or_vllms() -> None:
    """So that no name here is misspelt: OpenAI's from its client, vLLM's from its documentation."""
    of_vllm = {"top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos", "bad_words",
               "skip_special_tokens", "include_stop_str_in_output", "structured_outputs", "add_generation_prompt",
               "continue_final_message", "prompt_logprobs"}  # fmt: skip
    of_chat = set(chat_params.CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert set(ChatFields.model_fields) <= of_chat | of_vllm
    # OpenAI's older route has none of the newer fields.
    of_completions = set(CompletionCreateParamsBase.__annotations__) | of_chat | of_vllm
    assert set(CompletionFields.model_fields) <= of_completions


def test_fields_of_no_effect_are_not_passed_on() -> None:
    unused = {"user": "a", "metadata": {"run": "1"}, "store": False, "service_tier": "auto", "modalities": ["text"]}
    body = {"temperature": 1, "logit_bias": {"7": -100}, "structured_outputs": {"json": {"type": "object"}}}
    assert read(ChatFields, {"messages": HELLO} | unused | body).passed_on == {
        "temperature": 1.0, "logit_bias": {"7": -100.0}, "structured_outputs": {"json": {"type": "object"}},
    }  # fmt: skip


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_prompts_are_texts_or_token_ids(prompt: Any) -> None:
    assert read(CompletionFields, {"prompt": prompt}).prompt == prompt
    for wrong in (5, [1, "a"], [[1], "a"], [True], [-1], {"a": 1}):
        with pytest.raises(ApiError, match="expected text, token ids, or a list of either"):
            read(CompletionFields, {"prompt": wrong})


@pytest.mark.parametrize(
    ("body", "scores"),
    [({"echo": True, "logprobs": 1, "max_tokens": 1}, True), ({"echo": True, "logprobs": 0, "max_tokens": 0}, True),
     ({"prompt_logprobs": 0, "max_tokens": 1}, True), ({"echo": True, "logprobs": 1, "max_tokens": 2}, False),
     ({"echo": True, "logprobs": 1}, False), ({"echo": True, "max_tokens": 1}, False), ({"max_tokens": 1}, False),
     ({"echo": True, "logprobs": 1, "max_tokens": 1, "stream": True}, False),
     ({"prompt_logprobs": 0, "max_tokens": 1, "max_completion_tokens": 150}, False)],
)  # fmt: skip
def test_only_a_request_for_log_probabilities_of_its_prompt_scores(body: dict[str, Any], scores: bool) -> None:
    assert read(CompletionFields, {"prompt": "a"} | body).only_scores is scores


MANY = 1000
WRONG_ITEMS: dict[str, Any] = {
    "items": [None] * MANY, "an object among texts": ["a"] * MANY + [{}] * MANY, "lists": [[None] * MANY] * MANY,
    "entries": {str(number): None for number in range(MANY)}, "names": {f"x{number}": 0 for number in range(MANY)},
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_ITEMS.values(), ids=WRONG_ITEMS)
@pytest.mark.parametrize("model", [model for model, _ in BODIES.values()])
def test_of_many_wrong_items_the_first_alone_is_an_error(model: type[BaseModel], wrong: Any) -> None:
    """Each error costs 3 kB: a body of 1 MB would take gigabytes."""
    names = [field.alias or name for name, field in model.model_fields.items()]
    for body in [*({name: wrong} for name in names), wrong if isinstance(wrong, dict) else {}]:
        with pytest.raises(ValidationError) as error:
            model.model_validate(body)
        assert error.value.error_count() <= 10, body.keys()


def test_valid_items_are_all_read() -> None:
    body = {"metadata": {str(number): "a" for number in range(MANY)}, "stop_token_ids": [*range(MANY)],
            "logit_bias": {str(number): 1.0 for number in range(MANY)}}  # fmt: skip
    fields = read(ChatFields, {"messages": HELLO * MANY, **body})
    assert (fields.metadata, len(fields.messages)) == (body["metadata"], MANY)
    assert fields.passed_on == {name: body[name] for name in ("logit_bias", "stop_token_ids")}
