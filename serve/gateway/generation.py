"""A request for a reply, from what the client sent to what vLLM is asked, and back.

    body ──prepare──► Asked(body for vLLM, prompt, question) ──vLLM──► whole(…) or Stream.feed(…) ──► the client

On the way in a conversation becomes token ids through the model's own template, so that no text of a user can end a
turn. On the way out a reply is watched by the guard and remembered for feedback; bytes that are sent are vLLM's own.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.data.text.languages import language_of
from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from serve.gateway import conversation
from serve.gateway.asgi import DONE, Refused, dumps, event
from serve.gateway.conversation import BadConversation
from serve.gateway.guard import Judge, Watch
from serve.settings import Settings

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
# vLLM knows many more fields than OpenAI's API. These would step around the template, the guard or another's reply.
NOT_OURS = (
    "kv_transfer_params", "ec_transfer_params", "prompt_embeds", "request_id", "chat_template", "chat_template_kwargs",
    "documents", "echo", "add_generation_prompt", "continue_final_message", "mm_processor_kwargs", "media_io_kwargs",
    "priority", "vllm_xargs", "cache_salt", "use_beam_search", "truncate_prompt_tokens", "prompt_logprobs",
    "return_token_ids",
)  # fmt: skip
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "max_tokens", "max_completion_tokens",
            "repetition_penalty", "frequency_penalty", "presence_penalty")  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request that may go to vLLM. question: what the guard looks at; prompt: for feedback, as its user knows it."""

    path: str
    body: dict[str, Any]
    reply_id: str
    prompt: Any
    question: str
    prompt_tokens: int
    left_out: int = 0
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def chat(self) -> bool:
        return self.path == CHAT

    @property
    def language(self) -> str:
        return language_of(self.question)

    @property
    def sampling(self) -> dict[str, Any]:
        return {name: self.body[name] for name in SAMPLING if self.body.get(name) is not None}


def prepare(path: str, body: dict[str, Any], settings: Settings, chat: Chat, context: int, request: str) -> Asked:
    """What vLLM is asked. context: tokens of a prompt with its reply. Raises Refused."""
    for name in NOT_OURS:
        if body.get(name) not in (None, False, [], {}):
            raise Refused(400, f"{name}: not supported by this server", param=name, code="unsupported_parameter")
    model = body.get("model")
    if model is not None and model != settings.name:
        raise Refused(404, f"The model {model!r} does not exist; this server has {settings.name!r}", param="model",
                      code="model_not_found")  # fmt: skip
    _check_count(body, "n", settings.limits.replies)
    _check_logprobs(body, settings)
    body = {name: value for name, value in body.items() if name not in NOT_OURS} | {"model": settings.name}
    limit = _reply_limit(body, settings, context)
    build = _chat if path == CHAT else _completion
    try:
        return build(path, body, settings, chat, context, limit, request)
    except BadConversation as error:
        raise Refused(400, str(error), param=error.param, code=error.code) from None
    except UserError as error:  # the model's template refuses these messages
        raise Refused(400, f"messages: {error}".replace(f"{chat.folder}: ", ""), param="messages") from None


def _chat(path: str, body: dict[str, Any], settings: Settings, chat: Chat, context: int, limit: int | None,
          request: str) -> Asked:  # fmt: skip
    messages = conversation.messages_of(body.get("messages"))
    question = messages[-1]["content"]
    messages = conversation.with_persona(messages, settings.persona)
    # Without max_tokens a quarter of the context is kept free for the reply, which may use all that is left.
    budget = context - (limit or max(1, context // 4))
    found = conversation.shown(messages, encode=chat.prompt, max_turns=settings.max_turns, budget_tokens=budget)
    room = context - len(found.ids)
    asked = {name: value for name, value in body.items() if name not in ("max_tokens", "max_completion_tokens")}
    asked |= {
        "messages": found.messages,
        "max_tokens": min(limit or room, room, settings.limits.reply_tokens),
        "kv_transfer_params": {"prompt_token_ids": found.ids},  # vLLM takes these for the prompt, as they are
        "stop_token_ids": [*chat.stop_ids, *_own_stops(body)],
    }
    return Asked(path, asked, f"chatcmpl-{request}", messages, question, len(found.ids), found.left_out)


def _completion(path: str, body: dict[str, Any], settings: Settings, chat: Chat, context: int, limit: int | None,
                request: str) -> Asked:  # fmt: skip
    given = body.get("prompt")
    prompts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if len(prompts) * (body.get("n") or 1) > settings.limits.replies:
        raise Refused(400, f"prompt: at most {settings.limits.replies} replies a request", param="prompt")
    texts = [_text(prompt, chat) for prompt in prompts]
    tokens = [len(ids) for ids in chat.encoder.encode(texts)]
    if max(tokens) + 1 > context:
        raise BadConversation(f"prompt: {max(tokens)} tokens; this model has room for {context - 1} beside the reply",
                              "prompt", "context_length_exceeded")  # fmt: skip
    if limit is not None:
        body = body | {"max_tokens": min(limit, context - max(tokens))}
    return Asked(path, body, f"cmpl-{request}", texts[0] if len(texts) == 1 else texts, "\n".join(texts), sum(tokens))


def _text(prompt: Any, chat: Chat) -> str:
    if isinstance(prompt, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in prompt):
        try:
            return chat.encoder.tokenizer.decode(prompt, skip_special_tokens=False)
        except OverflowError:
            raise BadConversation("prompt: token ids are not negative, and within the vocabulary", "prompt") from None
    if not isinstance(prompt, str) or not prompt:
        raise BadConversation("prompt: expected text, token ids, or a list of either", "prompt")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise BadConversation("prompt: half of a surrogate pair is no character", "prompt") from None
    return prompt


def _own_stops(body: dict[str, Any]) -> list[Any]:
    given = body.get("stop_token_ids")
    if given is not None and not isinstance(given, list):
        raise Refused(400, "stop_token_ids: expected a list of token ids", param="stop_token_ids")
    return given or []


def _check_count(body: dict[str, Any], name: str, most: int) -> None:
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
        raise Refused(400, f"{name}: expected a whole number from 1 to {most}", param=name)


def _check_logprobs(body: dict[str, Any], settings: Settings) -> None:
    """vLLM holds text back that may become a stop string, but tells its tokens at once: before the guard sees it."""
    asked = body.get("logprobs") is not None and body.get("logprobs") is not False  # 0 asks for those of the tokens
    if settings.guard and asked and body.get("stream") is True and body.get("stop"):
        raise Refused(400, "logprobs: not together with `stream` and `stop` on a server with a guard; leave one out",
                      param="logprobs", code="unsupported_parameter")  # fmt: skip


def _reply_limit(body: dict[str, Any], settings: Settings, context: int) -> int | None:
    """The longest reply that the client asks for."""
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    _check_count(body, name, context - 1)
    value = body.get(name)
    return None if value is None else min(value, settings.limits.reply_tokens)


# ---- replies ---------------------------------------------------------------------------------------------------------


def refusal(asked: Asked, text: str, settings: Settings, tokens: int, reason: str) -> Iterator[bytes]:
    """A whole reply that says no, as vLLM would write it: one JSON object, or the events of a stream."""
    frame: dict[str, Any] = {
        "id": asked.reply_id,
        "object": "chat.completion" if asked.chat else "text_completion",
        "created": asked.created,
        "model": settings.name,
    }
    usage = {
        "prompt_tokens": asked.prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": asked.prompt_tokens + tokens,
    }
    note = {"where": "prompt", "reason": reason}
    end: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop"}
    if asked.body.get("stream") is not True:
        words = {"message": {"role": "assistant", "content": text, "refusal": None}} if asked.chat else {"text": text}
        yield dumps(frame | {"choices": [end | words], "usage": usage, "rayse_guard": note})
        return
    frame |= {"object": "chat.completion.chunk"} if asked.chat else {}
    going = end | {"finish_reason": None}
    if asked.chat:
        yield event(frame | {"choices": [going | {"delta": {"role": "assistant", "content": ""}}]})
    yield event(frame | {"choices": [going | _piece(asked, text)]})
    yield event(frame | {"choices": [end | _piece(asked, "")], "rayse_guard": note})
    options = asked.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        yield event(frame | {"choices": [], "usage": usage})
    yield DONE


def _piece(asked: Asked, text: str) -> dict[str, Any]:
    return {"delta": {"content": text} if text else {}} if asked.chat else {"text": text}


def watched_whole(body: bytes, guard: Judge) -> tuple[bytes, list[str], str]:
    """vLLM's whole answer after the guard: bytes, the replies' texts, and why one was replaced ("" if none was)."""
    found = json.loads(body)
    texts, reason = [], ""
    for choice in found.get("choices", ()):
        holder, name = (choice["message"], "content") if "message" in choice else (choice, "text")
        watch = Watch(guard)
        watch.push(holder.get(name) or "", last=True)
        if watch.verdict is not None:
            reason = watch.verdict.reason
            holder[name] = ended(watch)
            choice |= {"finish_reason": "stop", "logprobs": None}
            found["rayse_guard"] = {"where": "reply", "reason": reason}
        texts.append(holder.get(name) or "")
    return (dumps(found) if reason else body), texts, reason


def ended(watch: Watch) -> str:
    """What stands of a reply that the guard ended, with the refusal."""
    return watch.text[: watch.passed] + _said(watch)


def _said(watch: Watch) -> str:
    """The refusal, apart from what stands before it."""
    before = watch.text[: watch.passed]
    apart = "\n" if before and not before[-1].isspace() else ""
    return apart + watch.guard.refusal(language_of(watch.text))


@dataclass
class _Choice:
    """One reply of a stream. sent: its characters that went on; held: events that wait, and its length after each."""

    watch: Watch
    sent: int = 0
    held: list[tuple[int, bytes]] = field(default_factory=list)


class Stream:
    """A stream of vLLM's events, of which only what was judged goes on. The events that go on are not changed."""

    def __init__(self, asked: Asked, guard: Judge, model: str):
        self._asked, self._guard, self._model = asked, guard, model
        self._rest = b""
        self._choices: dict[int, _Choice] = {}
        self.reason = ""
        self.failed = False

    @property
    def cut(self) -> bool:
        """Whether every reply was ended by the guard, so that nothing of the stream is wanted any more."""
        expected = self._asked.body.get("n") or 1
        ended_ones = sum(choice.watch.verdict is not None for choice in self._choices.values())
        prompts = self._asked.prompt if isinstance(self._asked.prompt, list) and not self._asked.chat else [0]
        return ended_ones >= expected * len(prompts)

    @property
    def texts(self) -> list[str]:
        """The replies as they were sent."""
        watches = [choice.watch for _, choice in sorted(self._choices.items())]
        return [ended(watch) if watch.verdict else watch.text for watch in watches]

    def feed(self, piece: bytes) -> bytes:
        """More of vLLM's bytes; returns what may be sent."""
        *whole, self._rest = (self._rest + piece).split(b"\n\n")
        return b"".join(self._event(one + b"\n\n") for one in whole)

    def _event(self, raw: bytes) -> bytes:
        data = raw.removeprefix(b"data: ").strip()
        if not raw.startswith(b"data: ") or data == b"[DONE]":
            return raw
        found = json.loads(data)
        self.failed = self.failed or "error" in found
        choices = found.get("choices")
        if not choices:
            return raw
        return b"".join(self._of_choice(one, raw) for one in choices[:1])  # vLLM writes one a time

    def _of_choice(self, one: dict[str, Any], raw: bytes) -> bytes:
        choice = self._choices.setdefault(one["index"], _Choice(Watch(self._guard)))
        watch = choice.watch
        if watch.verdict is not None:
            return b""
        text = (one.get("delta", {}).get("content") if self._asked.chat else one.get("text")) or ""
        passed = watch.push(text, last=one.get("finish_reason") is not None)
        choice.held.append((len(watch.text), raw))
        free = [held for end, held in choice.held if end <= passed]
        choice.sent = max([choice.sent, *(end for end, _ in choice.held[: len(free)])])
        choice.held = choice.held[len(free) :]
        if watch.verdict is None:
            return b"".join(free)
        self.reason = watch.verdict.reason
        return b"".join(free) + self._end(one["index"], choice)

    def _end(self, index: int, choice: _Choice) -> bytes:
        """The refusal after what was sent, in place of what was held."""
        watch = choice.watch
        rest = watch.text[choice.sent : watch.passed]  # judged, but in one event with what is not
        said = rest + _said(watch)
        kind = "chat.completion.chunk" if self._asked.chat else "text_completion"
        frame = {"id": self._asked.reply_id, "object": kind, "created": self._asked.created, "model": self._model}
        place: dict[str, Any] = {"index": index, "logprobs": None}
        note = {"where": "reply", "reason": self.reason}
        return event(frame | {"choices": [place | _piece(self._asked, said) | {"finish_reason": None}]}) + event(
            frame | {"choices": [place | _piece(self._asked, "") | {"finish_reason": "stop"}], "rayse_guard": note}
        )


def new_request() -> str:
    return uuid.uuid4().hex
