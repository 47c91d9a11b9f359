"""Passages: headings, lengths, overlap, and that no text is lost."""

import itertools
import time
from random import Random

import pytest

from pipelines.data.knowledge.passages import num_words, split

DOCUMENT = """Before any heading.

# Kettle

It boils water.

## Descaling

Press the red button.

```
# a comment in code
```

## Guarantee

Two years.

# 水壶

烧开水。
"""


def test_a_passage_knows_the_headings_above_it_and_ends_with_its_section() -> None:
    passages = list(split(DOCUMENT, max_words=100, overlap_words=10))
    assert [(passage.heading, passage.text) for passage in passages] == [
        ("", "Before any heading."),
        ("Kettle", "It boils water."),
        ("Kettle > Descaling", "Press the red button.\n\n```\n# a comment in code\n```"),
        ("Kettle > Guarantee", "Two years."),
        ("水壶", "烧开水。"),
    ]
    for passage in passages:
        assert DOCUMENT[passage.begin :].lstrip().startswith(passage.text)


def test_the_end_of_a_passage_is_repeated_in_whole_sentences() -> None:
    text = " ".join(f"Sentence number {number} is here." for number in range(40))  # 5 words each
    passages = list(split(text, max_words=50, overlap_words=10))
    sentences = [passage.text.replace("here. ", "here.|").split("|") for passage in passages]
    assert [len(each) for each in sentences[:-1]] == [10] * (len(sentences) - 1)
    for earlier, later in itertools.pairwise(sentences):
        assert later[:2] == earlier[-2:]


def test_an_overlap_gives_way_to_a_sentence_that_fills_a_passage() -> None:
    text = "One two three. Four five six. " + "long " * 28 + "end. Seven eight."
    passages = list(split(text, max_words=30, overlap_words=10))
    assert all(num_words(passage.text) <= 30 for passage in passages)
    assert [passage.text.split()[0] for passage in passages] == ["One", "long", "Seven"]


def test_every_character_outside_headings_is_in_a_passage_whatever_the_text() -> None:
    random = Random(0)
    pieces = ["word ", "a. ", "\n", "\n\n", "汉字", "。", "# heading\n", "x" * 200, "！", "\u3000", "```\n", "? "]
    for _ in range(200):
        text = "".join(random.choices(pieces, k=60))
        passages = list(split(text, max_words=20, overlap_words=random.choice((0, 5, 10))))
        assert all(passage.text in text and passage.text.strip() for passage in passages)
        assert all(num_words(passage.text) <= 20 for passage in passages)
        covered = bytearray(len(text))
        for passage in passages:
            begin = text.index(passage.text, passage.begin)
            covered[begin : begin + len(passage.text)] = b"\1" * len(passage.text)
        left = "".join(character for character, seen in zip(text, covered, strict=True) if not seen)
        assert set("".join(left.replace("# heading", "").split())) == set()


def test_chinese_passages_hold_as_much_text_as_english_ones() -> None:
    chinese = "".join(f"这是第{number}句话，共有若干个字。" for number in range(100))
    lengths = [len(passage.text) for passage in split(chinese, max_words=100, overlap_words=0)]
    assert 130 <= max(lengths) <= 170  # 1.6 characters a word, punctuation included


@pytest.mark.parametrize("piece", ["word ", "汉", "x" * 40])
def test_a_line_without_sentences_takes_as_long_for_each_word_as_a_short_one(piece: str) -> None:
    def seconds(repeats: int) -> float:
        start = time.process_time()
        list(split(piece * repeats, max_words=50, overlap_words=5))
        return time.process_time() - start

    # 16 times the text: squared, it would be 256 times the time.
    assert min(seconds(32_000) for _ in range(2)) < 64 * min(seconds(2_000) for _ in range(3))
