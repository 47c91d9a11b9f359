"""The choice of held-out documents and conversations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipelines.data.dialogues.conversations import Conversation
from pipelines.metrics import held_out
from pipelines.metrics.metric import Document
from tests import tiny_models
from tests.metrics.dialogues import dialogue


def sizes(documents: list[Document]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for document in documents:
        totals[document.language] = totals.get(document.language, 0) + len(document.text.encode())
    return totals


def test_so_many_bytes_of_each_language_cut_at_a_character(tmp_path: Path) -> None:
    texts = {"en": [f"document {n} " * 20 for n in range(200)], "zh": [f"第{n}篇文章，" * 20 for n in range(3)]}
    corpus = tiny_models.write_corpus(tmp_path / "corpus", texts)
    chosen = held_out.choose_documents(corpus, bytes_per_language=10_000, seed=1)
    assert sizes(chosen)["en"] == 10_000
    assert sizes(chosen)["zh"] == sum(len(text.encode()) for text in texts["zh"])  # all there is
    cut = held_out.choose_documents(corpus, bytes_per_language=500, seed=1)
    assert 497 < sizes(cut)["zh"] <= 500 and sizes(cut)["en"] == 500
    assert all(any(document.text in text for text in texts[document.language]) for document in cut)


def test_the_choice_depends_on_the_seed_and_not_on_how_files_are_cut(tmp_path: Path) -> None:
    texts = {"en": [f"document {n} " * (1 + n % 7) for n in range(300)], "zh": [f"第{n}篇" * 30 for n in range(50)]}
    first = tiny_models.write_corpus(tmp_path / "one", texts, parts=1)
    second = tiny_models.write_corpus(tmp_path / "many", texts, parts=7)
    chosen = held_out.choose_documents(first, bytes_per_language=2_000, seed=1)
    assert chosen == held_out.choose_documents(second, bytes_per_language=2_000, seed=1)
    assert chosen != held_out.choose_documents(first, bytes_per_language=2_000, seed=2)
    more = held_out.choose_documents(first, bytes_per_language=4_000, seed=1)
    assert {document.id for document in chosen} < {document.id for document in more}


def test_a_corpus_without_held_out_text_gives_no_documents(tmp_path: Path) -> None:
    assert held_out.choose_documents(tmp_path, bytes_per_language=1_000, seed=1) == []


def dialogues() -> list[Conversation]:
    cells = {("sums", "en"): 50, ("sums", "zh"): 40, ("open", "en"): 500, ("names", "zh"): 3}
    return [dialogue(f"{task}/{language}/{n}", task, language) for (task, language), count in cells.items()
            for n in range(count)]  # fmt: skip


def test_conversations_come_from_each_task_and_language_by_turns() -> None:
    chosen = held_out.choose_conversations(dialogues(), max_conversations=103, seed=1)
    assert len(chosen) == 103 == len({one.id for one in chosen})
    counts = Counter((one.task, one.language) for one in chosen)
    assert counts == {("names", "zh"): 3, ("open", "en"): 34, ("sums", "en"): 33, ("sums", "zh"): 33}
    assert len(held_out.choose_conversations(dialogues(), max_conversations=10_000, seed=1)) == 593


def test_conversations_are_drawn_by_the_seed_whatever_their_order() -> None:
    chosen = held_out.choose_conversations(dialogues(), max_conversations=50, seed=1)
    assert chosen == held_out.choose_conversations(reversed(dialogues()), max_conversations=50, seed=1)
    assert chosen != held_out.choose_conversations(dialogues(), max_conversations=50, seed=2)
    assert chosen == held_out.choose_conversations(dialogues(), max_conversations=80, seed=1)[:50]


def test_a_conversation_without_a_prompt_is_not_chosen() -> None:
    alone = Conversation("a", "en", "s", "open", [{"role": "assistant", "content": "Hello"}])
    assert held_out.choose_conversations([alone], max_conversations=5, seed=1) == []
