"""Routes of OpenAI's API."""

from __future__ import annotations

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, EMBEDDINGS = "/v1/responses", "/v1/embeddings"
GENERATION = (CHAT, COMPLETIONS, RESPONSES)
"""The routes that a model writes replies for."""
