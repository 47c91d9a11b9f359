"""Citations over HTTP, as OpenAI's client reads them, and in receipts."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from serve.gateway import receipts
from tests.serve.conftest import KEY, Served


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_cites_the_passages_of_its_prompt(served: Served, stream: bool) -> None:
    client = openai.OpenAI(base_url=f"{served.server.url}/v1", api_key=KEY)
    messages: Any = [{"role": "user", "content": "zyxwort?"}]
    request: Any = {"model": "tiny", "messages": messages, "max_tokens": 4, "temperature": 0}
    if stream:
        chunks = list(client.chat.completions.create(**request, stream=True))
        assert all("rayse_citations" not in (chunk.model_extra or {}) for chunk in chunks[:-1])
        last = chunks[-1]
    else:
        last = client.chat.completions.create(**request)
    assert served.settings.receipt_key and last.model_extra
    (citation,) = last.model_extra["rayse_citations"]
    assert citation == {
        "source": "documents/z.md", "id": "documents/z.md:1#1", "heading": "",
        "passage": "Zyxwort grew 641 quibs.", "score": citation["score"], "orders_removed": 0,
    }  # fmt: skip
    facts = receipts.read(last.model_extra["rayse_receipt"], receipts.open_key(served.settings.receipt_key))
    assert facts["knowledge"] == "fedcba98" and facts["prompt"] == receipts.digest(messages)


def test_the_engine_reads_the_passages(served: Served) -> None:
    with_passage = served.chat("zyxwort?").json()["usage"]["prompt_tokens"]
    without = served.chat("zyxmort?").json()
    assert with_passage > without["usage"]["prompt_tokens"] + 20 and "rayse_citations" not in without
    assert served.client.get("/about").json()["knowledge"] is True
