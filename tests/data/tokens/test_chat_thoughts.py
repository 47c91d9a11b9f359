"""Marks that are taken out of a reply while its text comes in chunks."""

from __future__ import annotations

from pipelines.data.tokens.chat_thoughts import Concealment, GrowingReply
from pipelines.data.tokens.thoughts import CLOSE, OPEN, Place


class CountedMark(str):
    """A mark that counts how often a text is compared with it."""

    comparisons = 0

    def startswith(self, *args: object) -> bool:
        CountedMark.comparisons += 1
        return str.startswith(self, *args)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_marks_are_taken_out_wherever_chunks_divide() -> None:
    concealment = Concealment(marks=("<|im_end|>", "<|im_start|>", "[/INST]"))
    text = "one <|im_end|>two [/INST]<|im_start|>three <b"
    for first in range(len(text)):
        for second in range(first, len(text)):
            reply = GrowingReply(concealment)
            chunks = (text[:first], text[first:second], text[second:])
            shown = "".join(reply.append(chunk) for chunk in chunks) + reply.append("", last=True)
            assert shown == "one two three <b", (first, second)


def test_a_chunk_is_compared_with_marks_only_where_it_has_the_first_character_of_one() -> None:
    """Vocabularies have hundreds of special tokens, and a chunk comes for each token of a reply."""
    concealment = Concealment(marks=tuple(CountedMark(f"<|reserved_special_token_{n}|>") for n in range(250)))
    text = "a usual chunk of a reply, without any"
    assert concealment.without_marks(text, complete=False) == (text, "")
    assert CountedMark.comparisons == 0
    assert concealment.without_marks(f"{text}<|res", complete=False) == (text, "<|res")
    assert 0 < CountedMark.comparisons <= 250


def test_a_reply_of_many_empty_thoughts_is_gone_on_with_where_it_stood() -> None:
    concealment = Concealment(takes_out=True)
    empty = f"{OPEN}\n{CLOSE}\n"
    stood = concealment.read(2 * empty + OPEN, Place(), complete=False)
    assert isinstance(stood, Place) and (stood.begin, stood.inside) == (2 * len(empty), True)
    gone_on = concealment.read(3 * empty + OPEN, stood, complete=False)
    assert isinstance(gone_on, Place) and gone_on.begin == 3 * len(empty)
    reply = GrowingReply(concealment)
    text = 5 * empty + "Four."
    assert "".join(reply.append(letter) for letter in text) + reply.append("", last=True) == "Four."
    assert reply.begin == len(text) - len("Four.")


def test_whether_a_mark_closes_a_thought_does_not_depend_on_where_a_stream_is_cut() -> None:
    text = "```\nx\n``` </think>` is it.</think>Four."
    for size in (1, 3, len(text)):
        reply = GrowingReply(Concealment(in_thought=True))
        chunks = [text[start : start + size] for start in range(0, len(text), size)]
        assert "".join(map(reply.append, chunks)) + reply.append("", last=True) == "` is it.</think>Four."
