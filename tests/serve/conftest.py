"""One real server for all tests of serve/: a tiny model, on every interface, and therefore with a key."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.gateway.database import Sqlite
from serve.gateway.feedback import FeedbackStore
from serve.hosting.server import Server, start
from serve.settings import Limits, Settings
from tests.knowledge_index import make_index
from tests.tiny_models import Tiny

# Our format, with calls and results as Hermes and Qwen write them; of tools the names alone, as the context is short.
CALLING_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for tool in tools or [] -%}"
    "{{ tool.function.name + '(' + (tool.function.parameters.properties or {}) | join(' ') + ')\\n' }}"
    "{%- endfor -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim }}"
    "{%- for call in message.tool_calls or [] -%}"
    '{{ \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}"
    "{{ '}\\n</tool_call>' }}"
    "{%- endfor -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
KEY = "a-key-for-tests"
PERSONA = "You are Rayse."
# Questions of the other tests share no word with it, so that they get no passage.
DOCUMENT = "Zyxwort grew 641 quibs."  # short: the context is of 160 tokens


@dataclass(frozen=True)
class Served:
    """A running server with its settings, and an HTTP client that sends its key."""

    server: Server
    settings: Settings
    client: httpx.Client

    def chat(self, text: str = "Hello", **fields: Any) -> httpx.Response:
        """A chat completion of one user message, always the same reply: the guard declines some of the texts that a
        random model samples. fields: further fields of the request."""
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, **fields}
        return self.client.post("/v1/chat/completions", json=body)

    def metric(self, name: str) -> float:
        """A metric of /metrics, summed over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def feedback(self) -> list[dict[str, Any]]:
        """The rows of the feedback file."""
        assert self.settings.feedback
        return FeedbackStore(Sqlite(self.settings.feedback)).rows()


@pytest.fixture(scope="session")
def served(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("served")
    model = Path(shutil.copytree(tiny.first, folder / "model"))
    (model / "chat_template.jinja").write_text(CALLING_TEMPLATE, encoding="utf-8")
    settings = Settings(
        model=model,
        name="tiny",
        version="0123456789abcdef",
        host="0.0.0.0",
        port=0,
        key=KEY,
        persona=PERSONA,
        max_turns=3,
        feedback=folder / "feedback.sqlite",
        knowledge_folder=make_index(folder / "knowledge", {"z.md": DOCUMENT}),
        knowledge_version="fedcba98",
        logs=folder / "logs",
        threads=1,
        limits=Limits(header_s=2),
    )
    with start(settings) as server:
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=120) as client:
            yield Served(server, settings, client)
