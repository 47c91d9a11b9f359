"""Encodes rendered conversations, in which special tokens are real where the template writes them, and decodes replies.

    message ──broken: a mark within the text of each special token──► template ──encode──► ids, cut at the marks

<think> and </think> may be special tokens too. They are a reply's own: an assistant's message writes them where they
open its thought, and decoding keeps them, while it leaves out all other special tokens. Where a message writes about
them they are text: templates, many of which divide a message at any such mark, do not see them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from tokenizers import AddedToken, Tokenizer

from pipelines.data.text.normalise import BREAK
from pipelines.data.tokens.thoughts import CLOSE, OPEN, divide
from pipelines.data.tokens.tokenizing import Encoder


@dataclass(frozen=True)
class RenderedEncoder:
    """The encoder of a model, for text that its chat template rendered."""

    encoder: Encoder

    def broken(self, text: str, *, is_reply: bool = False) -> str:
        """Text of a message with a BREAK in the text of each special token, to distinguish it from the template's.

        is_reply: whether it is the assistant's, whose marks are broken too, but for those that open its thought."""
        text = text.replace(BREAK, "")
        if not is_reply:
            return _broken(self.specials, text)
        reply = divide(text)
        opening, closing = (_broken(self._specials_beside_marks, part) for part in (reply.opening, reply.closing))
        thought, rest = (_broken(self._specials_and_marks, part) for part in (reply.thought, reply.text))
        return opening + thought + closing + rest

    def encode(self, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Encodes texts that are split into pieces; returns the ids of each piece of each text.

        A piece is encoded in segments between BREAKs, so the two halves of a broken special token stay plain text."""
        texts = [[self._with_marks(piece) for piece in pieces] for pieces in texts]
        segments: list[str] = []
        for pieces in texts:
            first, *rest = [segment for piece in pieces for segment in piece.split(BREAK)]
            segments += [first, *(self._anchor + segment for segment in rest)]
        encodings = iter(self._tokenizer.encode_batch_fast(segments, add_special_tokens=False))
        anchor_length = 1 if self._anchor else 0
        encoded = []
        for pieces in texts:
            encoded_pieces: list[list[int]] = []
            for number, piece in enumerate(pieces):
                ids: list[int] = []
                for segment_number in range(piece.count(BREAK) + 1):
                    is_first = number == 0 and segment_number == 0  # of the text: encoded without the anchor
                    ids += next(encodings).ids[0 if is_first else anchor_length :]
                encoded_pieces.append(ids)
            encoded.append(encoded_pieces)
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a reply, without the template's special tokens and the space around it."""
        kept = [i for i in ids if i not in self.of_template]
        return self.encoder.tokenizer.decode(kept, skip_special_tokens=False).strip()

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens, as text."""
        return tuple(token.content for token in self._added.values() if token.special)

    @cached_property
    def specials(self) -> re.Pattern[str]:
        """Pattern of any special token, preferring the longest of those with the same beginning."""
        return _pattern(self.special_tokens)

    @cached_property
    def _specials_and_marks(self) -> re.Pattern[str]:
        return _pattern((*self.special_tokens, OPEN, CLOSE))

    @cached_property
    def _specials_beside_marks(self) -> re.Pattern[str]:
        return _pattern([token for token in self.special_tokens if token not in (OPEN, CLOSE)])

    def _with_marks(self, text: str) -> str:
        """Rendered text in which marks are whole again that are no special tokens."""
        for mark in (OPEN, CLOSE):
            if mark not in self.special_tokens:
                text = text.replace(mark[0] + BREAK + mark[1:], mark)
        return text

    @cached_property
    def of_template(self) -> Mapping[int, str]:
        """The special tokens that only the template writes, by id."""
        special = {i: token.content for i, token in self._added.items() if token.special}
        return {i: content for i, content in special.items() if content not in (OPEN, CLOSE)}

    @cached_property
    def thoughts_are_special(self) -> bool:
        """Whether <think> or </think> is a special token."""
        return OPEN in self.special_tokens or CLOSE in self.special_tokens

    @cached_property
    def _added(self) -> Mapping[int, AddedToken]:
        return self.encoder.tokenizer.get_added_tokens_decoder()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """A copy of the encoder's tokenizer that encodes special tokens: for rendered text, where they are real."""
        tokenizer = Tokenizer.from_str(self.encoder.tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return tokenizer

    @cached_property
    def _anchor(self) -> str:
        """A token to encode before a piece that continues a text, for tokenizers that mark the beginning of a text (as
        Llama 2's does with a space); empty for others."""
        eos = cast(str, self._tokenizer.id_to_token(self.encoder.eos_id))
        at_start = self._tokenizer.encode("x", add_special_tokens=False).ids
        after_eos = self._tokenizer.encode(f"{eos}x", add_special_tokens=False).ids[1:]
        return "" if after_eos == at_start else eos


def _pattern(tokens: Collection[str]) -> re.Pattern[str]:
    """Pattern of any of these texts, preferring the longest of those with the same beginning."""
    return re.compile("|".join(map(re.escape, sorted(set(tokens), key=len, reverse=True))) or r"(?!)")


def _broken(tokens: re.Pattern[str], text: str) -> str:
    return tokens.sub(lambda match: match.group()[0] + BREAK + match.group()[1:], text)
