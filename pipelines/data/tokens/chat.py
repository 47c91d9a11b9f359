"""Conversations as tokens: the chat template that lives in a model's folder, and which of its tokens are learnt.

    messages ──template──► text ──special tokens from the template only──► ids + whether each is learnt

Training, PPO, evaluation and serving render through `Chat` and nothing else. A message that speaks of <|im_end|> gets
the tokens of those characters, never the special one: only the template may write these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
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

MASK = "\ue000"  # put into what looks like a special token in a message; a private character that no text needs
TODAY = datetime(2024, 7, 26)  # for templates that write the date; the same every day, so that a run can be repeated
SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens. ids: int32 [T]; learnt: bool [T], True for the assistants' words and turn ends."""

    ids: np.ndarray
    learnt: np.ndarray


@dataclass(frozen=True)
class Chat:
    """A tokenizer and the chat template beside it."""

    encoder: Encoder
    template: jinja2.Template
    tokens: Mapping[str, str]  # what templates may name: bos_token, eos_token, pad_token, …
    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Chat:
        """Opens a Hugging Face folder. Raises UserError where it holds no chat template, or one that fails."""
        encoder = Encoder.open(folder)
        config_file = folder / "tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else _default(config.get("chat_template"))
        if not isinstance(source, str):
            raise UserError(
                f"{folder}: no chat_template.jinja and no chat_template in tokenizer_config.json; expected a model "
                f"that knows a chat format. Put a template into its folder as chat_template.jinja"
            )
        try:
            template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(f"{folder}: its chat template cannot be read ({error}); expected Jinja as Hugging Face "
                            f"writes it") from None  # fmt: skip
        tokens = {name: content for name in SPECIAL_NAMES if (content := _content(config.get(name)))}
        return cls(encoder, template, tokens, folder)

    def render(self, messages: Sequence[Message], *, reply: bool = False) -> str:
        """The template's text; `reply` adds the beginning of an assistant's turn.

        Raises UserError where the template refuses the messages."""
        given = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": reply}
        try:
            return self.template.render({**given, **self.tokens})
        except (jinja2.TemplateError, TypeError) as error:  # TypeError: content of a kind that the template can't add
            raise UserError(f"{self.folder}: its chat template refuses a conversation ({error})") from None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of everything up to where the assistant's reply begins."""
        return self.prompts([messages])[0]

    def prompts(self, many: Sequence[Sequence[Message]]) -> list[list[int]]:
        """The same of many at once, which is faster."""
        encoded = self._encode([[self.render(self._masked(messages), reply=True)] for messages in many])
        return [pieces[0] for pieces in encoded]

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """Ids of a whole conversation. Learnt are the assistants' turns, each with the token that ends it.

        What is learnt begins exactly where a prompt ends, so that a model meets in training what it is asked later.
        (A template that writes a last turn otherwise than earlier ones, as Qwen 3 does with its empty thoughts, is
        learnt as it writes them.) Raises UserError where the template writes earlier turns anew once later ones
        follow, or ends a turn without its special token."""
        return self.conversations([messages])[0]

    def conversations(self, many: Sequence[Sequence[Message]]) -> list[Rendered]:
        """The same of many at once, which is faster."""
        return [self._learnt(pieces) for pieces in self._encode([self._pieces(messages) for messages in many])]

    def text(self, ids: Iterable[int]) -> str:
        """A reply's words: no special tokens, no space around, nothing that the template itself puts before them."""
        return self._decode(ids).removeprefix(self._before_words).strip()

    @cached_property
    def turn_end(self) -> str:
        """The special token that ends an assistant's turn, as text. Raises UserError where the template has none."""
        found = self._specials.search(self._example[1])
        if found is None:
            raise UserError(f"{self.folder}: its chat template ends an assistant's turn without a special token; a "
                            f"model could not learn where to stop")  # fmt: skip
        return found.group()

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply: the turn's end and the text's."""
        turn = cast(int, self.encoder.tokenizer.token_to_id(self.turn_end))
        return tuple(dict.fromkeys((turn, self.encoder.eos_id)))

    def _pieces(self, messages: Sequence[Message]) -> list[str]:
        """A conversation's text, cut where each assistant's words begin."""
        masked = self._masked(messages)
        text = self.render(masked)
        edges = [0]
        for number, message in enumerate(masked):
            if message["role"] != "assistant":
                continue
            before = self.render(masked[:number], reply=True)
            if not text.startswith(before) or len(before) < edges[-1]:
                raise UserError(
                    f"{self.folder}: its chat template writes turn {number + 1} differently within a conversation than "
                    f"as a prompt; expected a template whose prompts are beginnings of its conversations"
                )
            edges.append(len(before))
        return [text[start:end] for start, end in pairwise([*edges, len(text)])]

    def _learnt(self, pieces: list[list[int]]) -> Rendered:
        """Of every piece but the first, what comes up to the turn's end is learnt."""
        learnt = np.zeros(sum(map(len, pieces)), bool)
        end_id, at = self.stop_ids[0], len(pieces[0])
        for number, piece in enumerate(pieces[1:], 1):
            if end_id not in piece:
                raise UserError(f"{self.folder}: its chat template writes no {self.turn_end} after assistant's turn "
                                f"{number} of {len(pieces) - 1}; expected one after each")  # fmt: skip
            learnt[at : at + piece.index(end_id) + 1] = True
            at += len(piece)
        return Rendered(np.asarray([i for piece in pieces for i in piece], np.int32), learnt)

    @cached_property
    def _example(self) -> tuple[str, str]:
        """What the template writes between a prompt and an assistant's words, and after these."""
        asked, words = [{"role": "user", "content": "hello"}], "0x7e"
        begin = self.render(asked, reply=True)
        whole = self.render([*asked, {"role": "assistant", "content": words}])
        before, found, after = whole.rpartition(words)
        if not found:
            raise UserError(f"{self.folder}: its chat template does not write an assistant's words as they are")
        return before.removeprefix(begin) if before.startswith(begin) else "", after

    @cached_property
    def _before_words(self) -> str:
        """What the template puts before a reply's words, decoded: Qwen 3's empty thoughts."""
        return self._decode(self._encode([["", self._example[0]]])[0][1])

    def _decode(self, ids: Iterable[int]) -> str:
        return self.encoder.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        """Matches any special token; the longest of those that begin alike."""
        added = self.encoder.tokenizer.get_added_tokens_decoder().values()
        names = sorted((token.content for token in added if token.special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def _masked(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """The messages with what looks like a special token broken up, for the template's text to be told from it."""
        hide = lambda found: found.group()[0] + MASK + found.group()[1:]  # noqa: E731
        clean = [{**message, "content": message["content"].replace(MASK, "")} for message in messages]
        return [{**message, "content": self._specials.sub(hide, message["content"])} for message in clean]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """The encoder's, but one that knows special tokens: for rendered text, where only the template writes them."""
        tokenizer = Tokenizer.from_str(self.encoder.tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return tokenizer

    @cached_property
    def _anchor(self) -> str:
        """A token to put before what continues a text, where a tokenizer marks a text's beginning (as Llama 2's does
        with a space); empty where it does not."""
        eos = cast(str, self._tokenizer.id_to_token(self.encoder.eos_id))
        alone, within = (self._tokenizer.encode(text, add_special_tokens=False).ids for text in ("x", f"{eos}x"))
        return "" if within[1:] == alone else eos

    def _encode(self, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Ids of texts that come in pieces, each piece by itself. A broken-up special token is encoded in two halves,
        which are never special."""
        halves: list[str] = []
        for pieces in texts:
            cut = [half for piece in pieces for half in piece.split(MASK)]
            halves += [cut[0], *(self._anchor + half for half in cut[1:])]
        encoded = iter(self._tokenizer.encode_batch_fast(halves, add_special_tokens=False))
        skip, found = (1 if self._anchor else 0), []
        for pieces in texts:
            of_text = []
            for number, piece in enumerate(pieces):
                parts = [next(encoded).ids for _ in range(piece.count(MASK) + 1)]
                first = parts[0][skip if number else 0 :]
                of_text.append([*first, *(i for part in parts[1:] for i in part[skip:])])
            found.append(of_text)
        return found


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}: where some templates say what is an assistant's. Its body counts here."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own form)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as Hugging Face's templates expect it; sandboxed, since a template comes with a downloaded model."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _content(token: Any) -> str:
    """A token of tokenizer_config.json: text, or an object that holds it."""
    return str(token.get("content") or "") if isinstance(token, dict) else token or ""


def _default(template: Any) -> Any:
    """The template of tokenizer_config.json: text, or a list of named ones."""
    if not isinstance(template, list):
        return template
    return next((one.get("template") for one in template if one.get("name") == "default"), None)
