"""The examples in the docstrings of the data crafts are right."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "pipelines.data.dialogues.answer_match",
    "pipelines.data.dialogues.preference_records",
    "pipelines.data.dialogues.conversation_records",
    "pipelines.data.corpus.filters",
    "pipelines.data.corpus.filters.verdict",
    "pipelines.data.corpus.filters.quality",
    "pipelines.data.text.normalise",
    "pipelines.data.text.privacy",
    "pipelines.data.text.web_words",
    "pipelines.data.text.postal_addresses",
    "pipelines.data.text.languages",
    "pipelines.data.corpus.minhash",
    "pipelines.data.corpus.semantic",
    "pipelines.stages.corpus.ratings",
    "pipelines.data.dialogues.prompt_splits",
    "pipelines.data.dialogues.refusals",
    "pipelines.data.dialogues.turns",
    "pipelines.data.tokens.chat_messages",
    "pipelines.data.tokens.chat_system",
    "pipelines.data.dialogues.rated_replies",
    "pipelines.data.dialogues.outliers",
    "pipelines.data.dialogues.similar_texts",
    "pipelines.data.sources.record_formats",
    "pipelines.data.sources.conversation_formats",
    "pipelines.data.sources.moss",
    "pipelines.data.sources.task_files",
    "pipelines.data.sources.cells",
    "pipelines.data.sources.docstrings",
    "pipelines.data.corpus.splitting",
    "pipelines.data.dialogues.tasks.numerals",
    "pipelines.data.images.hashing",
    "pipelines.data.images.transforms",
    "pipelines.data.sources.captions",
    "pipelines.data.sources.image_archives",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_right(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
