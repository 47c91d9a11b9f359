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
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.data.tokenizing import Encoder
from pipelines.errors import UserError

Message = Mapping[str, str]
"""{"role": system | user | assistant, "content": text}"""

MASK = "\ue000"  # put into what looks like a special token in a message; a private character that no text needs


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
    tokens: Mapping[str, str]  # what templates may name: bos_token, eos_token, pad_token
    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Chat:
        """Opens a Hugging Face folder. Raises UserError where it holds no chat template, or one that fails."""
        encoder = Encoder.open(folder)
        config_file = folder / "tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if not isinstance(source, str):
            raise UserError(
                f"{folder}: no chat_template.jinja and no chat_template in tokenizer_config.json; expected a model "
                f"that knows a chat format"
            )
        names = ("bos_token", "eos_token", "pad_token")
        tokens = {name: _content(config.get(name)) for name in names}
        return cls(encoder, _environment().from_string(source), tokens, folder)

    def render(self, messages: Sequence[Message], *, reply: bool = False) -> str:
        """The template's text; `reply` adds the beginning of an assistant's turn.

        Raises UserError where the template refuses the messages."""
        try:
            return self.template.render(messages=list(messages), add_generation_prompt=reply, **self.tokens)
        except jinja2.TemplateError as error:
            raise UserError(f"{self.folder}: its chat template refuses a conversation ({error})") from None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of everything up to where the assistant's reply begins."""
        return self._encode(self.render(self._masked(messages), reply=True))

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """Ids of a whole conversation. Learnt are the assistants' turns, each with the token that ends it.

        What is learnt begins exactly where a prompt ends, so that a model meets in training what it is asked later.
        Raises UserError where the template writes earlier turns anew once later ones follow."""
        masked = self._masked(messages)
        text = self.render(masked)
        ids: list[int] = []
        learnt: list[bool] = []
        at = 0
        for number, message in enumerate(masked):
            if message["role"] != "assistant":
                continue
            before = self.render(masked[:number], reply=True)
            if not text.startswith(before) or len(before) < at:
                raise UserError(
                    f"{self.folder}: its chat template writes turn {number + 1} differently within a conversation than "
                    f"as a prompt; expected a template whose prompts are beginnings of its conversations"
                )
            rest = text[len(before) :]
            end = rest.find(self.turn_end)
            end = len(text) if end < 0 else len(before) + end + len(self.turn_end)
            for piece, wanted in ((text[at : len(before)], False), (text[len(before) : end], True)):
                found = self._encode(piece)
                ids += found
                learnt += [wanted] * len(found)
            at = end
        rest = self._encode(text[at:])
        return Rendered(np.asarray(ids + rest, np.int32), np.asarray(learnt + [False] * len(rest), bool))

    def text(self, ids: Iterable[int]) -> str:
        """A reply's words: no special tokens, no space around."""
        return self.encoder.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    @cached_property
    def turn_end(self) -> str:
        """The special token that ends an assistant's turn, as text. Raises UserError where the template has none."""
        asked = [{"role": "user", "content": "x"}]
        begin = self.render(asked, reply=True)
        whole = self.render([*asked, {"role": "assistant", "content": "x"}])
        found = self._specials.search(whole, len(begin))
        if found is None:
            raise UserError(f"{self.folder}: its chat template ends an assistant's turn without a special token; a "
                            f"model could not learn where to stop")  # fmt: skip
        return found.group()

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply: the turn's end and the text's."""
        turn = self.encoder.tokenizer.token_to_id(self.turn_end)
        return tuple(dict.fromkeys((turn, self.encoder.eos_id)))

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

    def _encode(self, text: str) -> list[int]:
        """Ids of rendered text: special tokens are those that stand in it unbroken."""
        ids: list[int] = []
        at = 0
        for found in self._specials.finditer(text):
            ids += self._plain(text[at : found.start()])
            ids.append(self.encoder.tokenizer.token_to_id(found.group()))
            at = found.end()
        return ids + self._plain(text[at:])

    def _plain(self, text: str) -> list[int]:
        return self.encoder.encode([text.replace(MASK, "")])[0].tolist() if text else []


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as Hugging Face's templates expect it; sandboxed, since a template comes with a downloaded model."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _content(token: Any) -> str:
    """A token of tokenizer_config.json: text, or an object that holds it."""
    return str(token.get("content") or "") if isinstance(token, dict) else token or ""
