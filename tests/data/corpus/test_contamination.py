"""Overlaps with evaluation sets equal those of a plain search, in both languages; templates and short rows are not."""

from __future__ import annotations

import random
import re

import pyarrow as pa

from pipelines.data.corpus import contamination
from pipelines.data.corpus.checks import Candidates
from pipelines.data.corpus.contamination import EvaluationRow, EvaluationSets, Quotes, ngram_index, ngram_text, texts_of
from pipelines.data.text.document_stats import document_stats
from pipelines.data.text.measures import hash_texts

QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
POEM = "床前明月光，疑是地上霜。举头望明月，低头思故乡。这首诗写的是秋夜里的思念。"
PROSE = "The weather of the coast is mild, and the harbour stays open through the winter of most years."


def overlaps(rows: list[EvaluationRow], texts: list[str], ngram_words: int = 13) -> dict[int, list[tuple]]:
    index, _ = ngram_index(rows, ngram_words)
    found = EvaluationSets(index).find(texts, hash_texts(pa.array(texts, pa.string())))
    return {text: [(o.set, o.row, o.num_ngrams, o.ngram) for o in entries] for text, entries in found.items()}


def test_runs_of_words_are_found_however_they_are_spelled() -> None:
    rows = [EvaluationRow("maths", "a.jsonl", 4, [QUESTION, "72"]), EvaluationRow("poems", "b.csv", 9, [POEM])]
    texts = [
        PROSE,
        f"{PROSE} natalia SOLD clips - to 48 of her friends (in April) and then; she walked on.",
        "抄本：床前明月光 疑是地上霜！举头望明月 低头思故乡。这里没有别的。",
        "床前明月光，疑是地上霜。 " + PROSE,  # 10 characters: fewer than 21
    ]
    assert overlaps(rows, texts) == {
        1: [("maths", 4, 1, "natalia SOLD clips - to 48 of her friends (in April) and then; she")],
        2: [("poems", 9, 1, "床前明月光 疑是地上霜！举头望明月 低头思故乡。这")],
    }


def test_overlaps_are_those_of_a_search_of_all_runs() -> None:
    rng = random.Random(0)
    words = [f"w{number}" for number in range(12)]
    rows = [EvaluationRow("set", "f", n, [" ".join(rng.choices(words, k=rng.randint(3, 30)))]) for n in range(40)]
    texts = [" ".join(rng.choices(words, k=400)) for _ in range(20)] + [f"a {row.texts[0]} b" for row in rows[:10]]
    found = {(text, row): number for text, entries in overlaps(rows, texts, 8).items() for _, row, number, _ in entries}
    expected: dict[tuple[int, int], int] = {}
    for number, text in enumerate(texts):
        of_text = text.split()
        runs = [" ".join(of_text[first : first + 8]) for first in range(len(of_text) - 7)]
        owner = {}
        for row in rows:
            of_row = row.texts[0].split()
            for first in range(len(of_row) - 7):
                owner.setdefault(" ".join(of_row[first : first + 8]), row.row)
        for run in runs:
            if run in owner:
                expected[number, owner[run]] = expected.get((number, owner[run]), 0) + 1
    assert found == expected and len(expected) > 5


def test_what_a_prompt_template_says_is_no_overlap() -> None:
    template = "Below is an instruction that describes a task, write a response that appropriately completes it."
    rng = random.Random(1)
    rows = [
        EvaluationRow("set", "f", n, [f"{template} {' '.join(rng.choices(PROSE.split(), k=20))}"]) for n in range(11)
    ]
    index, counts = ngram_index(rows, 13)
    assert counts == {"rows_set": 11, "short_rows_set": 0, "template_ngrams_set": 3}  # 15 words: three runs of 13
    assert not overlaps(rows, [template])
    assert overlaps(rows[:10], [template])  # ten rows are no template
    assert index.column("hash").to_pylist() == sorted(index.column("hash").to_pylist())


def test_a_passage_that_a_sets_rows_share_is_an_overlap() -> None:
    """15 documents with 18 questions each, which repeat the document after the words of the template."""
    template = "Read the passage below with care, and then answer the question about it in one short sentence."
    rng = random.Random(2)
    words = [f"word{number}" for number in range(500)]
    passages = [" ".join(rng.choices(words, k=60)) for _ in range(15)]
    rows = [
        EvaluationRow("set", "f", 18 * number + question, [f"{template}\n{passage}\nQuestion: what is {question}?"])
        for number, passage in enumerate(passages)
        for question in range(18)
    ]
    for number, found in overlaps(rows[1:], passages).items():  # 269 rows
        assert [entry[:3] for entry in found] == [("set", max(1, 18 * number), 48)]
    assert len(overlaps(rows[1:], passages)) == 15
    assert not overlaps(rows[1:], [template])
    half = [EvaluationRow("set", "f", n, [f"{PROSE} {passages[n % 15]}" if n % 2 else f"{n}"]) for n in range(40)]
    assert overlaps(half, [PROSE])  # half of them is not most


def test_a_short_row_is_compared_as_a_whole_and_shorter_ones_are_counted() -> None:
    rows = [
        EvaluationRow("set", "f", 1, ["Why do cats land on their feet so well?"]),
        EvaluationRow("set", "f", 2, ["Why do cats purr?", "yes"]),
        EvaluationRow("set", "f", 3, ["猫为什么总是用脚先着地呢，请说明"]),
    ]
    _, counts = ngram_index(rows, 13)
    assert (counts["rows_set"], counts["short_rows_set"]) == (3, 1)
    texts = ["He knew why do cats land on their feet so well, of course.", "Why do cats purr? Yes.",
             "问：猫为什么总是用脚先着地呢？请说明。", "Why do cats land on their feet"]  # fmt: skip
    assert sorted(overlaps(rows, texts)) == [0, 2]


def test_texts_of_a_record_are_those_at_any_depth() -> None:
    record = {"messages": [{"role": "user", "content": "a"}], "answer": "b", "label": 3, "none": None}
    assert list(texts_of(record)) == ["user", "a", "b"]


def test_the_quoted_run_is_cut_at_its_words() -> None:
    text = "- One, two… 三四五 (six) seven-eight."
    words = re.findall(r"[三四五]|[a-zA-Z-]+[a-z]", text)
    for first in range(len(words)):
        for stop in range(first + 1, len(words) + 1):
            quoted = ngram_text(text, first, stop - first)
            assert re.findall(r"[三四五]|[a-zA-Z-]+[a-z]", quoted) == words[first:stop]


def test_a_run_is_quoted_from_pieces_of_a_text_as_from_all_of_it() -> None:
    rng = random.Random(2)
    units = [
        "One",
        "-",
        "two,",
        " ",
        "\n\n",
        "\u3000",
        "三",
        "四五六",
        "。",
        "(六",
        "七)",
        "x3",
        "かな",
        "한글",
        "—",
        "\x1c",
        "é",
    ]
    for _ in range(40):
        text = "".join(rng.choices(units, k=rng.randint(1, 30))) + rng.choice(["", "字" * 150])
        num_words = len(hash_texts(pa.array([text])).words)
        quotes = Quotes(text)
        assert "".join(quotes.pieces) == text and max(map(len, quotes.pieces)) <= 100
        for first in range(num_words):
            length = rng.randint(1, min(num_words - first, 25))
            assert quotes.of(first, length) == ngram_text(text, first, length)


def test_only_texts_at_the_positions_are_looked_at() -> None:
    index, _ = ngram_index([EvaluationRow("maths", "a.jsonl", 4, [QUESTION])], 13)
    texts = [QUESTION, PROSE, QUESTION]
    assert list(EvaluationSets(index).find(texts, hash_texts(pa.array(texts)), {1, 2})) == [2]


def test_a_verdict_names_set_file_row_and_words() -> None:
    index, _ = ngram_index([EvaluationRow("maths", "a.jsonl", 4, [QUESTION])], 13)
    texts = [QUESTION]
    (overlap,) = EvaluationSets(index).find(texts, hash_texts(pa.array(texts)))[0]
    assert overlap.num_ngrams == len(QUESTION.split()) - 12
    assert overlap.verdict.reason == contamination.CONTAMINATED
    assert overlap.verdict.problem == (
        "has 13 words of maths a.jsonl:4: 'Natalia sold clips to 48 of her friends in April, and then she'"
    )


def test_documents_are_counted_by_set_in_the_order_of_their_text() -> None:
    """Not in that of a set of Python's, which differs from run to run: the counts are in the blocks' files."""
    names = [f"set {number}" for number in range(8)]
    index, _ = ngram_index([EvaluationRow(name, "a", 1, [QUESTION]) for name in names], 13)
    texts = pa.array([QUESTION, PROSE, f"{PROSE} {QUESTION}"], pa.string())
    documents = document_stats(texts, ["en"] * 3)
    result = EvaluationSets(index).apply(Candidates("web", ["a", "b", "c"], documents, documents.hashed, range(3)))
    assert list(result.counts.items()) == [(f"decontamination/documents_{name}", 2) for name in names]
    assert sorted(result.dropped) == [0, 2]
