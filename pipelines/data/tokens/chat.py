"""Renders conversations to tokens and loss masks with the chat template in a model's folder.

    messages ──template──► text ──special tokens from the template only──► ids + loss mask

Training, PPO, evaluation and serving all render through `Chat`. Where a message contains <|im_end|>, it gets the tokens
of those characters, never the special token: only the template writes special tokens. A system turn that the template
does not take where it stands is the user's, everywhere alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import jinja2
import numpy as np

from pipelines.data.tokens import chat_template
from pipelines.data.tokens.chat_calls import MARK, CallStyle, broken_texts, call_style, uses_tools, with_calls
from pipelines.data.tokens.chat_encoding import RenderedEncoder
from pipelines.data.tokens.chat_messages import Message
from pipelines.data.tokens.chat_system import SystemTurns, system_turns
from pipelines.data.tokens.chat_thoughts import Concealment, visible
from pipelines.data.tokens.thoughts import CLOSE, OPEN, after_opening, is_half, opens_thought, thought_of
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.errors import UserError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Tools = Sequence[Mapping[str, Any]]
"""[{"type": "function", "function": {"name": …, "description": …, "parameters": JSON Schema}}]"""


class TemplateRefusal(UserError):
    """A conversation that a chat template refuses, or writes in such a way that its replies cannot be learnt."""


class CallsRefusal(TemplateRefusal):
    """A conversation with calls of tools, which a chat template does not write."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens. loss_mask is True for the content and turn end of each assistant's turn; turns: which
    of the assistant's turns these are, by their number from 0."""

    ids: np.ndarray  # int32 [T]
    loss_mask: np.ndarray  # bool [T]
    turns: tuple[int, ...] = ()
    unlearnt: int = 0  # assistant's turns outside the mask, as the template writes them otherwise than as a reply
    thoughts_left_out: int = 0  # assistant's turns whose thoughts the template takes out


@dataclass(frozen=True)
class _Split:
    """The text of a conversation, split where the replies in the loss mask begin; turns and counts of Rendered."""

    pieces: list[str]
    turns: tuple[int, ...]
    unlearnt: int
    thoughts_left_out: int


@dataclass(frozen=True)
class Chat:
    """A tokenizer and the chat template beside it."""

    encoder: Encoder
    template: jinja2.Template
    tokens: Mapping[str, str]  # variables of the template: bos_token, eos_token, pad_token, …
    name: str  # of the model, in messages

    @classmethod
    def open(cls, folder: Path, *, name: str | None = None) -> Chat:
        """Opens a Hugging Face folder. Raises UserError if it has no chat template, or one that cannot be parsed.

        name: what messages call the model; default: the folder."""
        encoder = Encoder.open(folder)
        template, tokens = chat_template.read(folder, name or str(folder))
        return cls(encoder, template, tokens, name or str(folder))

    def render(self, messages: Sequence[Mapping[str, Any]], *, reply: bool = False, tools: Tools = ()) -> str:
        """Renders messages to text; `reply` adds the generation prompt, which begins an assistant's turn.

        tools: those that the assistant may call. Raises TemplateRefusal if the template refuses the messages."""
        variables = {"messages": list(messages), "documents": None, "add_generation_prompt": reply}
        variables["tools"] = list(tools) or None
        try:
            return self.template.render({**variables, **self.tokens})
        except (jinja2.TemplateError, TypeError) as error:  # TypeError: content of a type that the template cannot add
            raise TemplateRefusal(f"the model's chat template refuses a conversation ({error})") from None

    def prompt(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        """Returns the ids of a prompt: the messages and the generation prompt, after which the reply begins.

        tools: as `prompts` takes them, of this one. Raises TemplateRefusal if the template refuses the messages."""
        return _raised(self.prompts([messages], [tools])[0])

    def prompts(
        self, conversations: Sequence[Sequence[Message]], tools: Sequence[str] | None = None
    ) -> list[list[int] | TemplateRefusal]:
        """Returns the ids of many prompts, encoded together, which is faster; a refusal in place of one that the
        template refuses.

        tools: of each, those that the assistant may call, as a JSON list; empty without any."""

        def text(messages: Sequence[Message], tools: str) -> str:
            return self.render(self._prepared(messages), reply=True, tools=self._prepared_tools(tools))

        all_tools = tools or [""] * len(conversations)
        texts = [_attempt(text, *each) for each in zip(conversations, all_tools, strict=True)]
        encoded = iter(self._encoder.encode([[text] for text in texts if isinstance(text, str)]))
        return [next(encoded)[0] if isinstance(text, str) else text for text in texts]

    def continued(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        """Returns the ids of a prompt that ends within the reply which the last message begins, so that the model goes
        on with it. tools: as `prompt` takes them. Raises TemplateRefusal if the template refuses the messages, or does
        not write that beginning."""
        pieces = self._split_at_replies(messages, tools=tools).pieces
        begun = self._prepared(messages[-1:])[0]["content"].rpartition(CLOSE)[2]
        end_of_turn = pieces[-1].rfind(
            self.turn_end
        )  # the template's; in messages the text of special tokens is broken
        start = pieces[-1].rfind(begun.strip(), 0, max(end_of_turn, 0)) if begun.strip() else -1
        if start < 0:
            raise TemplateRefusal("the model's chat template does not write the beginning of the last message as it "
                                  "is; expected a reply with text that can go on")  # fmt: skip
        as_it_is = begun.lstrip()  # with the space at its end, where the template does not trim that
        end = start + len(as_it_is if pieces[-1].startswith(as_it_is, start) else as_it_is.rstrip())
        return [i for ids in self._encoder.encode([[*pieces[:-1], pieces[-1][:end]]])[0] for i in ids]

    def conversation(self, messages: Sequence[Message], tools: str = "") -> Rendered:
        """Renders a whole conversation. The loss mask covers the assistants' turns, each with the token that ends it.

        Each masked reply begins exactly where a prompt ends, so that training and sampling see the same tokens. (If a
        template writes the last turn unlike earlier ones, as Qwen 3 does with its empty thoughts, the mask covers that
        text too.) Earlier turns that a template writes without the thoughts that they would have as the last one are
        context alone. tools: as `prompts` takes them, of this one. Raises TemplateRefusal if the template rewrites
        earlier turns otherwise once later ones follow; UserError if it ends a turn without its special token."""
        return _raised(self.conversations([messages], tools=[tools])[0])

    def conversations(
        self,
        conversations: Sequence[Sequence[Message]],
        not_learnt: Sequence[Collection[int]] | None = None,
        tools: Sequence[str] | None = None,
    ) -> list[Rendered | TemplateRefusal]:
        """Renders many conversations, encoded together, which is faster; a refusal in place of one that the template
        refuses.

        not_learnt: of each, the positions of assistant's turns that the loss mask leaves out: context alone. tools: as
        `prompts` takes them."""
        number = len(conversations)
        splits = [
            _attempt(self._split_at_replies, *each)
            for each in zip(conversations, not_learnt or [()] * number, tools or [""] * number, strict=True)
        ]
        encoded = iter(self._encoder.encode([split.pieces for split in splits if isinstance(split, _Split)]))
        return [
            _attempt(self._rendered, split, next(encoded)) if isinstance(split, _Split) else split for split in splits
        ]

    def text(self, ids: Iterable[int]) -> str:
        """Decodes a reply: without special tokens, surrounding space and what its reader does not see (concealment)."""
        return visible(self._encoder.decode(ids), self.concealment).strip()

    @cached_property
    def system_turns(self) -> SystemTurns:
        """The system turns that the template takes; the others are folded into the user's."""
        return system_turns(lambda messages: self._text_or_none(messages, reply=True))

    def folds(self, messages: Sequence[Message]) -> bool:
        """Whether a system turn of these messages is folded into a user's turn."""
        return self.system_turns.folded(messages) is not messages

    def leaves_out_text(self, messages: Sequence[Message]) -> bool:
        """Whether the template leaves out the text of a turn of these messages that also calls a tool."""
        beside = any(message["content"].strip() for message in messages if "tool_calls" in message)
        return beside and self.call_style is not None and not self.call_style.writes_beside

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template writes the tools that the assistant may call."""
        return "0x5f" in self._prompt_with_tool

    @cached_property
    def _prompt_with_tool(self) -> str:
        """A prompt with a tool of the name 0x5f; empty where the template refuses it."""
        function = {"name": "0x5f", "description": "", "parameters": {"type": "object", "properties": {}}}
        user, tools = {"role": "user", "content": "hello"}, [{"type": "function", "function": function}]
        text = _attempt(self.render, [user], reply=True, tools=tools)
        return text if isinstance(text, str) else ""

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """The texts, such as <tool_response>, with which the template frames turns, tools, calls and results, and which
        are no special tokens: text of a message could write them too."""
        written = self._prompt_with_tool + (self.call_style.written if self.call_style else "")
        return tuple(sorted(set(MARK.findall(written)) - set(self.special_tokens)))

    @cached_property
    def call_style(self) -> CallStyle | None:
        """How the template takes calls of tools and their results; None where it writes none."""
        return call_style(self._text_or_none, self.turn_end)

    @cached_property
    def concealment(self) -> Concealment:
        """What the reader of a reply does not see: all that the template itself puts before it, and its thoughts where
        the template takes them out of earlier turns.

        Where thoughts are special tokens, which engines then have to write as text, the others are taken out."""
        prompt = _attempt(self.render, [{"role": "user", "content": "hello"}], reply=True)
        in_thought = isinstance(prompt, str) and opens_thought(prompt)
        takes_out = not self._writes_thought_before({"role": "user", "content": "hello"})
        prefix = self._encoder.decode(self._encoder.encode([["", self._around_reply[0]]])[0][1])
        marks = tuple(self._encoder.of_template.values()) if self.thoughts_are_special else ()
        return Concealment(prefix, in_thought, takes_out, marks)

    @cached_property
    def thoughts_are_special(self) -> bool:
        """Whether <think> or </think> is a special token, which decoding leaves out by default."""
        return self._encoder.thoughts_are_special

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens of the tokenizer, as text."""
        return self._encoder.special_tokens

    @cached_property
    def turn_end(self) -> str:
        """The special token that ends an assistant's turn, as text. Raises UserError if the template has none."""
        match = self._encoder.specials.search(self._around_reply[1])
        if match is None:
            raise UserError(f"{self.name}: its chat template ends an assistant's turn without a special token; a "
                            f"model could not learn where to stop")  # fmt: skip
        return match.group()

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that end a reply: the end of turn, and eos."""
        turn_end_id = cast(int, self.encoder.tokenizer.token_to_id(self.turn_end))
        return tuple(dict.fromkeys((turn_end_id, self.encoder.eos_id)))

    def _text_or_none(self, messages: Sequence[Mapping[str, Any]], *, reply: bool = False) -> str | None:
        """Renders messages; None where the template refuses them."""
        text = _attempt(self.render, messages, reply=reply)
        return text if isinstance(text, str) else None

    def _prepared(self, messages: Sequence[Message]) -> list[Mapping[str, Any]]:
        """Messages as the template gets them: system turns folded that it does not take, special tokens broken.

        Raises CallsRefusal where tools are called, and the template does not write that."""
        prepared: list[Message] = [
            {**each, **{key: self._encoder.broken(each[key]) for key in ("tool_call_id", "name") if key in each},
             "content": self._encoder.broken(each["content"], is_reply=each["role"] == "assistant")}
            for each in self.system_turns.folded(messages)
        ]  # fmt: skip
        if not uses_tools(messages):
            return [*prepared]
        style = self.call_style
        if style is None:
            raise CallsRefusal("the model's chat template writes no calls of tools with their results; expected one "
                               "that does, such as Qwen's or Llama 3.1's")  # fmt: skip
        with_lists = [with_calls(each, style, self._encoder.broken) for each in prepared]
        if not style.several and any(len(each.get("tool_calls", ())) > 1 for each in with_lists):
            raise CallsRefusal("the model's chat template writes one call a turn; expected no turn with several calls")
        return with_lists

    def _prepared_tools(self, tools: str) -> Tools:
        """Tools as the template gets them, special tokens broken; none where it does not take any."""
        return broken_texts(json.loads(tools), self._encoder.broken) if tools and self.takes_tools else ()

    @cached_property
    def _encoder(self) -> RenderedEncoder:
        return RenderedEncoder(self.encoder)

    def _split_at_replies(
        self, messages: Sequence[Message], not_learnt: Collection[int] = (), tools: str = ""
    ) -> _Split:
        """Renders a conversation, split where the content of each assistant's turn that is learnt begins."""
        # By the order of the assistant's turns, as folding a system turn moves positions.
        positions = [number for number, each in enumerate(messages) if each["role"] == "assistant"]
        is_context = iter(enumerate(position in not_learnt for position in positions))
        messages, offered = self._prepared(messages), self._prepared_tools(tools)
        text = self._with_last_reply(messages, offered)
        edges, turns, unlearnt, thoughts_left_out = [0], [], 0, 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            turn, leave_out = next(is_context)
            if leave_out:
                continue
            prompt, is_last = self.render(messages[:number], reply=True, tools=offered), number == len(messages) - 1
            thought, agrees = thought_of(message["content"]), text.startswith(prompt) and len(prompt) >= edges[-1]
            if not agrees and (is_last or not opens_thought(prompt)):
                raise TemplateRefusal(
                    f"the model's chat template writes turn {number + 1} differently within a conversation than as a "
                    f"prompt; expected a template whose prompts are beginnings of its conversations"
                )
            is_left_out = thought != "" and (not agrees or thought not in self._turn(text, len(prompt)))
            thoughts_left_out += is_left_out
            if not agrees or (is_left_out and not is_last and self._writes_thought_before()):
                unlearnt += 1
            else:
                edges.append(len(prompt))
                turns.append(turn)
        pieces = [text[a:b] for a, b in pairwise([*edges, len(text)])]
        return _Split(pieces, tuple(turns), unlearnt, thoughts_left_out)

    def _with_last_reply(self, messages: Sequence[Mapping[str, Any]], tools: Tools) -> str:
        """Renders a conversation. Where prompts open a thought that the template leaves out of the last turn, that turn
        is written as the model has to write it: after the prompt, with its thought or an empty one."""
        text = self.render(messages, tools=tools)
        hides_thoughts = self.concealment.in_thought or self.concealment.takes_out
        for number, message in enumerate(messages, 1):
            if hides_thoughts and message["role"] == "assistant" and is_half(message["content"]):
                raise TemplateRefusal(f"turn {number} opens a thought ({OPEN}) and does not close it, which the "
                                      f"model's chat template cannot write; expected {CLOSE} after it")  # fmt: skip
        if not messages or messages[-1]["role"] != "assistant" or not self.concealment.in_thought:
            return text
        prompt = self.render(messages[:-1], reply=True, tools=tools)
        if text.startswith(prompt) or not opens_thought(prompt) or "tool_calls" in messages[-1]:
            return text
        return prompt + after_opening(messages[-1]["content"]) + self._around_reply[1]

    def _turn(self, text: str, start: int) -> str:
        """The part of a rendered text up to the end of the turn."""
        end = text.find(self.turn_end, start)
        return text[start:] if end < 0 else text[start:end]

    def _writes_thought_before(self, *later: Message) -> bool:
        """Whether the template writes the thought of an assistant's turn that these messages follow."""
        thought, user = "0x7f", {"role": "user", "content": "hello"}
        reply = {"role": "assistant", "content": f"{OPEN}\n{thought}\n{CLOSE}\n\n0x7e"}
        text = _attempt(self.render, [user, reply, *later])
        return not isinstance(text, str) or thought in text

    def _rendered(self, split: _Split, pieces: list[list[int]]) -> Rendered:
        """Joins the ids of a conversation that is split at its replies; the mask covers each up to its end of turn."""
        loss_mask = np.zeros(sum(map(len, pieces)), bool)
        end_id, start = self.stop_ids[0], len(pieces[0])
        for number, piece in enumerate(pieces[1:], 1):
            if end_id not in piece:
                raise TemplateRefusal(f"the model's chat template writes no {self.turn_end} after assistant's turn "
                                      f"{number} of {len(pieces) - 1}; expected one after each")  # fmt: skip
            loss_mask[start : start + piece.index(end_id) + 1] = True
            start += len(piece)
        ids = np.asarray([i for piece in pieces for i in piece], np.int32)
        return Rendered(ids, loss_mask, split.turns, split.unlearnt, split.thoughts_left_out)

    @cached_property
    def _around_reply(self) -> tuple[str, str]:
        """The text that the template writes between a prompt and the content of a reply, and after it."""
        prompt, content = [{"role": "user", "content": "hello"}], "0x7e"
        prompt_text = self.render(prompt, reply=True)
        text = self.render([*prompt, {"role": "assistant", "content": content}])
        before, separator, after = text.rpartition(content)
        if not separator:
            raise UserError(f"{self.name}: its chat template changes the content of an assistant's turn; expected a "
                            f"template that writes it as it is")  # fmt: skip
        return before.removeprefix(prompt_text) if before.startswith(prompt_text) else "", after


def _attempt(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result | TemplateRefusal:
    """What a function returns, or the refusal that it raises."""
    try:
        return function(*arguments, **options)
    except TemplateRefusal as refusal:
        return refusal


def _raised(result: Result | TemplateRefusal) -> Result:
    """A result; raises a refusal."""
    if isinstance(result, TemplateRefusal):
        raise result
    return result
