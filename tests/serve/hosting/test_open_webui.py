"""A chat front end as users run it: the requests that Open WebUI sends to an OpenAI-compatible server.

Its routers drop `metadata` (backend/open_webui/routers/openai.py), turn max_completion_tokens into max_tokens for
servers other than OpenAI's, and ask for titles, tags and follow-ups in whole replies (routers/tasks.py).
"""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from tests.serve.conftest import KEY, Served

TITLE = 'Generate a concise, 3-5 word title. Output: JSON {"title": "…"}. History: USER: Tide? ASSISTANT: At six.'
SAMPLING = {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0, "seed": 4,
            "stop": ["END"], "logit_bias": {"7": -100}}  # fmt: skip


@pytest.fixture
def web(served: Served) -> httpx.Client:
    """Its connection: a base URL that ends in /v1, a key, and the user's name where it forwards them."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json",
               "X-OpenWebUI-User-Name": "Ann", "X-OpenWebUI-Chat-Id": "1"}  # fmt: skip
    return httpx.Client(base_url=f"{served.server.url}/v1", headers=headers, timeout=120)


def chat(**fields: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Tide?"}]},
        {"role": "assistant", "content": "At six."},
        {"role": "user", "content": "And then?"},
    ]
    return {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "messages": messages,
            "max_tokens": 12, **SAMPLING, **fields}  # fmt: skip


def test_it_lists_models_and_streams_a_chat(web: httpx.Client) -> None:
    assert [model["id"] for model in web.get("/models").json()["data"]] == ["tiny"]
    with web.stream("POST", "/chat/completions", json=chat()) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    assert chunks[-1]["usage"]["completion_tokens"] <= 12 and chunks[-1]["choices"] == []
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")


def test_it_gets_a_title_in_a_whole_reply(web: httpx.Client) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": TITLE}], "stream": False, "max_tokens": 1000}
    reply = web.post("/chat/completions", json=body).json()
    assert isinstance(reply["choices"][0]["message"]["content"], str) and reply["usage"]["total_tokens"] <= 160


def test_it_stops_a_reply(web: httpx.Client, served: Served) -> None:
    body = chat(max_tokens=1000, stop=None, min_tokens=100, messages=[{"role": "user", "content": "Go"}])
    with web.stream("POST", "/chat/completions", json=body) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 60
    while served.metric("vllm:num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert served.metric("vllm:num_requests_running") == 0


def test_it_calls_tools_natively_and_goes_on_with_their_results(web: httpx.Client) -> None:
    spec = {"name": "get_time", "description": "The time.", "parameters": {"type": "object", "properties": {}}}
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    first: list[dict[str, Any]] = [{"role": "user", "content": "Time?"}]
    later = [*first, {"role": "assistant", "content": "", "tool_calls": [call]},
             {"role": "tool", "tool_call_id": "call_1", "content": "6:10"}]  # fmt: skip
    for messages in (first, later):
        body = chat(messages=messages, tools=[{"type": "function", "function": spec}])
        response = web.post("/chat/completions", json=body)
        assert response.status_code == 200 and response.text.endswith("data: [DONE]\n\n"), response.text


ERRORS: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": "gpt"}, 404, "model"),
    ({"user": {"name": "Ann", "id": "1"}}, 400, "user"),  # what it sends to pipelines alone
    ({"think": False}, 400, "think"),  # a parameter of its own for Ollama
    ({"files": []}, 400, "files"),
]


@pytest.mark.parametrize(("fields", "status", "param"), ERRORS, ids=[str(param) for _, _, param in ERRORS])
def test_it_shows_errors_with_what_is_wrong(
    web: httpx.Client, fields: dict[str, Any], status: int, param: str | None
) -> None:
    response = web.post("/chat/completions", json=chat(**fields))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param) and error["message"]
