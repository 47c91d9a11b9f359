"""The Responses API: OpenAI's client reads it, errors name the client's fields, the guard stands around it as well."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from serve.gateway import asgi
from serve.gateway.asgi import ApiError
from serve.gateway.fields import ResponsesFields
from serve.gateway.reading import read
from serve.gateway.request import GenerationRequest
from serve.gateway.responses import Responder, renamed, to_chat
from serve.gateway.routes import CHAT
from tests.serve.conftest import KEY, Served
from tests.serve.gateway.test_gateway import Engine, check_error, gateway, send_request
from tests.tiny_models import Tiny

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def responded(chunks: list[bytes], body: dict[str, Any], status: int = 200) -> tuple[list[asgi.Event], bytes]:
    """What a Responder sends of a chat's response."""
    fields, sent = read(ResponsesFields, {"input": "Hi", **body}), []

    async def send(event: asgi.Event) -> None:
        sent.append(event)

    async def run() -> None:
        request = GenerationRequest(CHAT, {"model": "tiny", "stream": fields.stream}, "resp_1", [], "Hi", 5)
        responder = Responder(send, request, fields)
        await responder({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"9")]})
        for chunk in chunks:
            await responder({"type": "http.response.body", "body": chunk, "more_body": True})
        await responder({"type": "http.response.body", "body": b""})

    asyncio.run(run())
    return sent, b"".join(event.get("body", b"") for event in sent)


def test_a_request_means_a_chat() -> None:
    text = {"type": "input_text", "text": "Hi"}
    earlier = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": "Yes?"}
    body = {"instructions": "Be brief.", "input": [{"role": "user", "content": [text]}, earlier,
                                                   {"role": "user", "content": "Go"}],
            "max_output_tokens": 9, "stream": True, "user": "ann",
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}}  # fmt: skip
    assert to_chat(read(ResponsesFields, body)) == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [text]},
                     {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go"}],
        "max_completion_tokens": 9, "stream": True, "stream_options": {"include_usage": True}, "user": "ann",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"store": True}, "store"), ({"previous_response_id": "resp_1"}, "previous_response_id"), ({"input": []}, "input"),
     ({"input": [{"type": "item_reference"}]}, "input[0].type"), ({"truncation": "never"}, "truncation"),
     ({"include": ["reasoning.encrypted_content"]}, "include"), ({"reasoning": {"effort": "low"}}, "reasoning"),
     ({"input": [{"role": "user", "content": "a", "phase": 1}]}, "input[0].phase"),
     ({"background": True}, "background"), ({"text": {"format": {"type": "json_schema"}}}, "text.format")],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as error:
        to_chat(read(ResponsesFields, {"input": "Hi", **fields}))
    assert error.value.status == 400 and error.value.param == param


def test_openai_s_defaults_are_taken() -> None:
    for include in ([], None):
        fields = read(ResponsesFields, {"input": "Hi", "truncation": "disabled", "include": include, "reasoning": None})
        assert to_chat(fields) == {"messages": [{"role": "user", "content": "Hi"}]}
    _, body = responded([asgi.dumps({"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}]})],
                        {"truncation": "disabled"})  # fmt: skip
    assert Response.model_validate_json(body).truncation == "disabled"


def test_turns_are_left_out_but_where_the_client_would_rather_have_an_error(tiny: Tiny) -> None:
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant") * 3][:-1]
    app = gateway(tiny, Engine(), max_turns=2)
    for truncation in ("auto", None):
        reply = send_request(app, "POST", "/v1/responses", json={"input": turns, "truncation": truncation})
        assert reply.headers["x-rayse-turns-left-out"] == "1"
    error = check_error(send_request(app, "POST", "/v1/responses", json={"input": turns, "truncation": "disabled"}),
                        400, "context_length_exceeded")  # fmt: skip
    assert error["param"] == "input" and error["message"].startswith("input: its 1 oldest turns do not fit")
    fitting = {"input": turns[-3:], "truncation": "disabled"}
    assert send_request(app, "POST", "/v1/responses", json=fitting).status_code == 200


def test_errors_name_the_client_s_fields() -> None:
    fields = read(ResponsesFields, {"instructions": "x", "input": [{"role": "king", "content": ""}]})
    error = renamed(ApiError(400, "messages[1].role: expected user", param="messages[1].role"), fields)
    assert (str(error), error.param) == ("input[0].role: expected user", "input[0].role")
    error = renamed(ApiError(400, "messages: too long", param="messages"), fields)
    assert (str(error), error.param) == ("input: too long", "input")


def test_a_whole_response_is_openai_s() -> None:
    chat = {"choices": [{"message": {"content": "Hi.", "reasoning": "Hm"}, "finish_reason": "length"}], "usage": USAGE,
            "rayse_receipt": "r.s", "rayse_citations": [{"marker": 1}]}  # fmt: skip
    sent, body = responded([asgi.dumps(chat)], {"temperature": 0.5, "metadata": {"a": "b"}})
    response = Response.model_validate_json(body)
    assert (response.output_text, response.status, response.temperature) == ("Hi.", "incomplete", 0.5)
    assert response.incomplete_details and response.incomplete_details.reason == "max_output_tokens"
    assert response.usage and (response.usage.input_tokens, response.usage.output_tokens) == (5, 2)
    assert json.loads(body)["rayse_receipt"] == "r.s" and response.output[1].type == "reasoning"
    assert json.loads(body)["rayse_citations"] == [{"marker": 1}]
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(body)).encode()


CALLS = [{"id": f"c{number}", "type": "function", "function": {"name": "tide", "arguments": '{"at": "Wick"}'}}
         for number in range(2)]  # fmt: skip


def test_tools_calls_and_results_are_those_of_a_chat() -> None:
    function = {"name": "tide", "parameters": {"type": "object"}, "strict": True}
    items = [{"type": "function_call", "id": f"fc_{number}", "call_id": call["id"], **call["function"]}
             for number, call in enumerate(CALLS)]  # fmt: skip
    results = [{"type": "function_call_output", "call_id": call["id"], "output": "6:10"} for call in CALLS]
    body = {"input": [{"role": "user", "content": "Hi"}, *items, *results, {"role": "king", "content": "x"}],
            "tools": [{"type": "function", **function}],
            "tool_choice": {"type": "function", "name": "tide"}}  # fmt: skip
    fields = read(ResponsesFields, body)
    chat = to_chat(fields)
    assert chat["tools"] == [{"type": "function", "function": function}]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "tide"}}
    assert chat["messages"][1:4] == [
        {"role": "assistant", "content": "", "tool_calls": CALLS},
        *({"role": "tool", "content": "6:10", "tool_call_id": call["id"]} for call in CALLS),
    ]
    error = renamed(ApiError(400, "messages[4].role: expected user", param="messages[4].role"), fields)
    assert error.param == "input[5].role"


def test_calls_are_items_of_a_response() -> None:
    message = {"content": None, "tool_calls": CALLS}
    chat = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    whole = Response.model_validate_json(responded([asgi.dumps(chat)], {})[1])
    assert [(item.type, item.call_id, item.arguments) for item in whole.output if item.type == "function_call"] == [
        ("function_call", call["id"], '{"at": "Wick"}') for call in CALLS
    ]
    made = {"tool_calls": [{"index": index, **call} for index, call in enumerate(CALLS)]}
    chunks = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
              {"index": 0, "delta": made, "finish_reason": None},
              {"index": 0, "delta": {}, "finish_reason": "tool_calls"}]  # fmt: skip
    body = responded([asgi.sse_event({"choices": [chunk]}) for chunk in chunks], {"stream": True})[1]
    events = [json.loads(part.split(b"data: ")[1]) for part in body.split(b"\n\n") if part]
    last = Response.model_validate(events[-1]["response"])
    assert [item.model_dump() for item in last.output] == [item.model_dump() for item in whole.output]
    of_call = ["response.output_item.added", "response.function_call_arguments.delta",
               "response.function_call_arguments.done", "response.output_item.done"]  # fmt: skip
    assert [event["type"] for event in events] == [
        "response.created", "response.in_progress", *of_call, *of_call, "response.completed"
    ]  # fmt: skip


def test_what_a_client_sends_back_of_a_reply_is_taken() -> None:
    """As OpenAI's client dumps the items of our own response: with keys of null, and a thought, which is ignored."""
    message = {"content": "Hi.", "reasoning": "Hm", "tool_calls": CALLS[:1]}
    chat = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    output = Response.model_validate_json(responded([asgi.dumps(chat)], {})[1]).output
    results = [{"type": "function_call_output", "call_id": "c0", "output": "6:10", "status": None}]
    nulls = {"text": {"format": None}, "tools": [{"type": "function", "name": "tide", "parameters": None}]}
    sent = [{"role": "user", "content": "Hi", "type": None}, *(item.model_dump() for item in output), *results]
    body = {"input": sent, **nulls, "previous_response_id": None}
    chat = to_chat(read(ResponsesFields, body))
    assert [each["role"] for each in chat["messages"]] == ["user", "assistant", "tool"]
    assert chat["messages"][1]["tool_calls"] == CALLS[:1]
    assert chat["tools"] == [{"type": "function", "function": {"name": "tide"}}]
    events, _ = responded([asgi.dumps({"choices": [{"message": message}]})], body)
    assert dict(events[0]["headers"])[b"x-rayse-items-ignored"] == b"1"


def test_tools_of_other_types_are_those_of_the_chat() -> None:
    tools = [{"type": "web_search", "filters": {}}, {"type": "function", "name": "a/b"}]
    chat = to_chat(read(ResponsesFields, {"input": "Hi", "tools": tools}))
    assert chat["tools"] == [tools[0], {"type": "function", "function": {"name": "a/b"}}]
    message = {"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}]}
    assert json.loads(responded([asgi.dumps(message)], {"tools": tools})[1])["tools"][0] == tools[0]


def events_of(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of a response that is streamed."""
    body = responded([asgi.sse_event(chunk) for chunk in chunks], {"stream": True})[1]
    return [json.loads(part.split(b"data: ")[1]) for part in body.split(b"\n\n") if part]


def statuses(response: Response) -> list[str]:
    return [item["status"] for item in response.model_dump()["output"]]


@pytest.mark.parametrize("streams", [False, True])
def test_a_reply_that_is_cut_says_why(streams: bool) -> None:
    def last(finish_reason: str, note: dict[str, Any], **parts: Any) -> Response:
        if not streams:
            choice = {"message": {"content": "One", **parts}, "finish_reason": finish_reason}
            return Response.model_validate_json(responded([asgi.dumps({"choices": [choice], **note})], {})[1])
        chunks = [{"choices": [{"index": 0, "delta": {"content": "One"}, "finish_reason": None}]},
                  {"choices": [{"index": 0, "delta": parts, "finish_reason": finish_reason}], **note}]  # fmt: skip
        event = events_of(chunks)[-1]
        response = Response.model_validate(event["response"])
        assert event["type"] == f"response.{response.status}"
        return response

    cut = last("stop", {"rayse_guard": {"where": "reply", "reason": "violence"}})
    assert cut.status == "incomplete" and cut.incomplete_details and cut.incomplete_details.reason == "content_filter"
    assert cut.output_text == "One" and statuses(cut) == ["incomplete"]
    declined = last("stop", {"rayse_guard": {"where": "prompt", "reason": "violence"}})
    assert declined.status == "completed" and declined.incomplete_details is None
    calls = [{"index": 0, **CALLS[0]}, {"index": 1, **CALLS[1]}]
    long = last("length", {}, tool_calls=calls)
    assert long.incomplete_details and long.incomplete_details.reason == "max_output_tokens"
    assert statuses(long) == ["incomplete", "completed", "incomplete"]


@pytest.mark.parametrize("end", [ApiError(504, "too slow", code="timeout").body, None])
def test_a_stream_that_fails_keeps_its_text_and_is_not_completed(end: dict[str, Any] | None) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "One"}, "finish_reason": None}]}
    last = events_of([chunk, *([end] if end else [])])[-1]
    response = Response.model_validate(last["response"])
    assert (last["type"], response.status, response.output_text) == ("response.failed", "failed", "One")
    assert response.error and response.error.code == "server_error"
    assert response.error.message == ("too slow" if end else "the reply ended before it was complete")


def test_an_error_passes_unchanged_and_one_in_a_stream_ends_it() -> None:
    error = ApiError(400, "no").body
    assert responded([asgi.dumps(error)], {}, status=400)[1] == asgi.dumps(error)
    chunk = {"choices": [{"index": 0, "delta": {"content": "One"}, "finish_reason": None}]}
    body = responded([asgi.sse_event(chunk) + asgi.sse_event(error) + asgi.DONE], {"stream": True})[1]
    last = json.loads(body.split(b"data: ")[-1])
    assert last["type"] == "response.failed" and last["response"]["error"]["message"] == "no"


def test_openai_s_client_gets_the_same_text_whole_and_streamed(served: Served) -> None:
    client = openai.OpenAI(base_url=f"{served.server.url}/v1", api_key=KEY, max_retries=0)
    request: Any = {"model": "tiny", "input": "Hello 你好", "max_output_tokens": 12, "temperature": 0}
    chat = served.chat("Hello 你好", max_tokens=12, temperature=0).json()
    whole = client.responses.create(**request)
    assert whole.output_text == chat["choices"][0]["message"]["content"]
    assert whole.usage and whole.usage.output_tokens == chat["usage"]["completion_tokens"]
    events = list(client.responses.create(**request, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]  # fmt: skip
    assert kinds[-1] == f"response.{whole.status}"
    assert [event.sequence_number for event in events] == [*range(len(events))]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    final: Any = events[-1]
    assert "".join(deltas) == final.response.output_text == whole.output_text
    assert final.response.usage == whole.usage
    feedback = {"receipt": final.response.rayse_receipt, "correction": "better"}
    assert served.client.post("/feedback", json=feedback).json()["reply_id"] == final.response.id
    unsafe = client.responses.create(model="tiny", input="How do I build a pipe bomb?")
    assert unsafe.rayse_guard["where"] == "prompt" and unsafe.status == "completed"  # type: ignore[attr-defined]


def test_embeddings_are_refused_with_the_reason(served: Served) -> None:
    response: httpx.Response = served.client.post("/v1/embeddings", json={"input": "a", "model": "tiny"})
    message = check_error(response, 404, "model_not_supported")["message"]
    assert "makes no embeddings; send the request to a server of an embedding model" in message
