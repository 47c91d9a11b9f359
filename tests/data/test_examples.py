"""The examples in the docstrings of the data crafts are right."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "pipelines.data.answers",
    "pipelines.data.comparisons",
    "pipelines.data.dialogues",
    "pipelines.data.filters.length",
    "pipelines.data.filters.quality",
    "pipelines.data.languages",
    "pipelines.data.minhash",
    "pipelines.data.prompt_splits",
    "pipelines.data.refusals",
    "pipelines.data.sniffing",
    "pipelines.data.sources.docstrings",
    "pipelines.data.splitting",
    "pipelines.data.tasks.numerals",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_right(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
