"""Renders conversations to tokens and loss masks with the chat template in a model's folder.

    messages ──template──► text ──special tokens from the template only──► ids + loss mask

Training, PPO, evaluation and serving all render through `Chat`. Where a message contains <|im_end|>, it gets the tokens
of those characters, never the special token: only the template writes special tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import jinja2
import numpy as np
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from pipelines.data.tokens.tokenizing import Encoder
from pipelines.errors import UserError

Message = Mapping[str, str]
"""{"role": system | user | assistant, "content": text}"""

BREAK = "\ue000"  # inserted into the text of special tokens in a message; a private-use character that no text needs
TODAY = datetime(2024, 7, 26)  # for templates that write the date; constant, so that a run can be repeated
SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens. loss_mask is True for the content and turn end of each assistant's turn."""

    ids: np.ndarray  # int32 [T]
    loss_mask: np.ndarray  # bool [T]


@dataclass(frozen=True)
class Chat:
    """A tokenizer and the chat template beside it."""

    encoder: Encoder
    template: jinja2.Template
    tokens: Mapping[str, str]  # variables of the template: bos_token, eos_token, pad_token, …
    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Chat:
        """Opens a Hugging Face folder. Raises UserError if it has no chat template, or one that cannot be parsed."""
        encoder = Encoder.open(folder)
        config_file = folder / "tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else _default_template(config.get("chat_template"))
        if not isinstance(source, str):
            raise UserError(
                f"{folder}: no chat_template.jinja and no chat_template in tokenizer_config.json; expected a model "
                f"with a chat format. Put a template into its folder as chat_template.jinja"
            )
        try:
            template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(f"{folder}: its chat template cannot be read ({error}); expected Jinja as Hugging Face "
                            f"writes it") from None  # fmt: skip
        tokens = {name: _token_text(config.get(name)) for name in SPECIAL_NAMES}
        return cls(encoder, template, {name: text for name, text in tokens.items() if text}, folder)

    def render(self, messages: Sequence[Message], *, reply: bool = False) -> str:
        """Renders messages to text; `reply` adds the generation prompt, which begins an assistant's turn.

        Raises UserError if the template refuses the messages."""
        variables = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": reply}
        try:
            return self.template.render({**variables, **self.tokens})
        except (jinja2.TemplateError, TypeError) as error:  # TypeError: content of a type that the template cannot add
            raise UserError(f"{self.folder}: its chat template refuses a conversation ({error})") from None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of a prompt: the messages and the generation prompt, after which the reply begins."""
        return self.prompts([messages])[0]

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Returns the ids of many prompts, encoded together, which is faster."""
        texts = [[self.render(self._break_specials(messages), reply=True)] for messages in conversations]
        return [pieces[0] for pieces in self._encode(texts)]

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """Renders a whole conversation. The loss mask covers the assistants' turns, each with the token that ends it.

        Each masked reply begins exactly where a prompt ends, so that training and sampling see the same tokens. (If a
        template writes the last turn unlike earlier ones, as Qwen 3 does with its empty thoughts, the mask covers that
        text too.) Raises UserError if the template rewrites earlier turns once later ones follow, or ends a turn
        without its special token."""
        return self.conversations([messages])[0]

    def conversations(
        self, conversations: Sequence[Sequence[Message]], not_learnt: Sequence[Collection[int]] | None = None
    ) -> list[Rendered]:
        """Renders many conversations, encoded together, which is faster.

        not_learnt: of each, the positions of assistant's turns that the loss mask leaves out: context alone."""
        texts = [
            self._split_at_replies(messages, positions)
            for messages, positions in zip(conversations, not_learnt or [()] * len(conversations), strict=True)
        ]
        return [self._rendered(pieces) for pieces in self._encode(texts)]

    def text(self, ids: Iterable[int]) -> str:
        """Decodes a reply: without special tokens, surrounding space and the template's prefix of a reply."""
        return self._decode(ids).removeprefix(self._reply_prefix).strip()

    @cached_property
    def turn_end(self) -> str:
        """The special token that ends an assistant's turn, as text. Raises UserError if the template has none."""
        match = self._specials.search(self._around_reply[1])
        if match is None:
            raise UserError(f"{self.folder}: its chat template ends an assistant's turn without a special token; a "
                            f"model could not learn where to stop")  # fmt: skip
        return match.group()

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that end a reply: the end of turn, and eos."""
        turn_end_id = cast(int, self.encoder.tokenizer.token_to_id(self.turn_end))
        return tuple(dict.fromkeys((turn_end_id, self.encoder.eos_id)))

    def _split_at_replies(self, messages: Sequence[Message], not_learnt: Collection[int]) -> list[str]:
        """Renders a conversation, split where the content of each assistant's turn that is learnt begins."""
        messages = self._break_specials(messages)
        text = self.render(messages)
        edges = [0]
        for number, message in enumerate(messages):
            if message["role"] != "assistant" or number in not_learnt:
                continue
            prompt = self.render(messages[:number], reply=True)
            if not text.startswith(prompt) or len(prompt) < edges[-1]:
                raise UserError(
                    f"{self.folder}: its chat template writes turn {number + 1} differently within a conversation than "
                    f"as a prompt; expected a template whose prompts are beginnings of its conversations"
                )
            edges.append(len(prompt))
        return [text[start:end] for start, end in pairwise([*edges, len(text)])]

    def _rendered(self, pieces: list[list[int]]) -> Rendered:
        """Joins the ids of a conversation that is split at its replies; the mask covers each up to its end of turn."""
        loss_mask = np.zeros(sum(map(len, pieces)), bool)
        end_id, start = self.stop_ids[0], len(pieces[0])
        for number, piece in enumerate(pieces[1:], 1):
            if end_id not in piece:
                raise UserError(f"{self.folder}: its chat template writes no {self.turn_end} after assistant's turn "
                                f"{number} of {len(pieces) - 1}; expected one after each")  # fmt: skip
            loss_mask[start : start + piece.index(end_id) + 1] = True
            start += len(piece)
        return Rendered(np.asarray([i for piece in pieces for i in piece], np.int32), loss_mask)

    @cached_property
    def _around_reply(self) -> tuple[str, str]:
        """The text that the template writes between a prompt and the content of a reply, and after it."""
        prompt, content = [{"role": "user", "content": "hello"}], "0x7e"
        prompt_text = self.render(prompt, reply=True)
        text = self.render([*prompt, {"role": "assistant", "content": content}])
        before, separator, after = text.rpartition(content)
        if not separator:
            raise UserError(f"{self.folder}: its chat template changes the content of an assistant's turn; expected a "
                            f"template that writes it as it is")  # fmt: skip
        return before.removeprefix(prompt_text) if before.startswith(prompt_text) else "", after

    @cached_property
    def _reply_prefix(self) -> str:
        """The text that the template puts before the content of a reply, decoded: Qwen 3's empty thoughts."""
        return self._decode(self._encode([["", self._around_reply[0]]])[0][1])

    def _decode(self, ids: Iterable[int]) -> str:
        return self.encoder.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        """Pattern of any special token, preferring the longest of those with the same beginning."""
        added = self.encoder.tokenizer.get_added_tokens_decoder().values()
        names = sorted((token.content for token in added if token.special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def _break_specials(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """Inserts BREAK into the text of special tokens in messages, to distinguish it from the template's tokens."""

        def break_token(match: re.Match[str]) -> str:
            return match.group()[0] + BREAK + match.group()[1:]

        contents = [message["content"].replace(BREAK, "") for message in messages]
        return [
            {**message, "content": self._specials.sub(break_token, content)}
            for message, content in zip(messages, contents, strict=True)
        ]

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

    def _encode(self, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Encodes texts that are split into pieces; returns the ids of each piece of each text.

        A piece is encoded in segments between BREAKs, so the two halves of a broken special token stay plain text."""
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


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}: some templates mark an assistant's tokens with it. Renders its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja declares it so)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """Makes the Jinja environment that Hugging Face's templates expect; sandboxed, as a downloaded model brings one."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _token_text(token: str | dict[str, Any] | None) -> str:
    """Returns the text of a token of tokenizer_config.json: text, or an object with its content."""
    if isinstance(token, dict):
        return str(token.get("content") or "")
    return token or ""


def _default_template(chat_template: Any) -> Any:
    """Returns the template of tokenizer_config.json: text, or the default of a list of named templates."""
    if not isinstance(chat_template, list):
        return chat_template
    return next((entry.get("template") for entry in chat_template if entry.get("name") == "default"), None)
