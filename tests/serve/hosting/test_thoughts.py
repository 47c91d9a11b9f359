"""A server of a model whose tokenizer has <think> and </think> as special tokens: what its reader gets of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.data.tokens.thoughts import CLOSE, OPEN
from serve.hosting.server import start
from serve.settings import Settings
from tests import tiny_models
from tests.data.tokens.test_chat_templates import published, with_special_thoughts
from tests.tiny_models import Tiny

TOKENS = 6


@pytest.mark.slow
def test_special_tokens_of_thoughts_are_text_and_others_are_not(tiny: Tiny, tmp_path: Path) -> None:
    chat = with_special_thoughts(tiny, tmp_path, published("qwen3"))
    tiny_models.write_model(tmp_path, hidden_size=64, tie_word_embeddings=True, seed=1)
    ids = [int(chat.encoder.tokenizer.token_to_id(token) or 0) for token in (OPEN, CLOSE, "<|bos|>")]
    with start(Settings(model=tmp_path, name="tiny", port=0, threads=1, logs=tmp_path / "logs")) as server:
        thought, closings, specials = (replies(f"{server.url}/v1/chat/completions", token) for token in ids)
    assert thought == closings == specials == [("", "")] * 2  # a thought opened so often has nothing in it


def replies(url: str, token: int) -> list[tuple[str, str]]:
    """The content and the reasoning of a reply of this token alone, whole and streamed."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "When?"}], "logit_bias": {str(token): 100},
                            "max_tokens": TOKENS, "min_tokens": TOKENS, "temperature": 0}  # fmt: skip
    message = httpx.post(url, json=body, timeout=120).raise_for_status().json()["choices"][0]["message"]
    lines = httpx.post(url, json=body | {"stream": True}, timeout=120).raise_for_status().text.splitlines()
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
    streamed = ["".join(delta.get(key) or "" for delta in deltas) for key in ("content", "reasoning")]
    return [(message["content"], message.get("reasoning") or ""), (streamed[0], streamed[1])]
