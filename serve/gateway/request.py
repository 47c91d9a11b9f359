"""Generation requests: from the JSON that a client sent to the JSON that vLLM gets.

    body ──prepare──► GenerationRequest(body for vLLM, prompt, user_text) ──► relay.py, vLLM

A conversation becomes token ids through the model's chat template, so that no text of a user can write a special
token. Fields that are not listed in fields.py are refused; tools are ignored where the model calls none and a reply
in text will do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pipelines.data.text.languages import language_of
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.chat_thoughts import ALL_VISIBLE, Concealment
from pipelines.data.tokens.thoughts import CLOSE, OPEN
from pipelines.errors import UserError
from serve.gateway import conversation
from serve.gateway.asgi import ApiError
from serve.gateway.conversation import Encode, InvalidPrompt, Message, Prompt
from serve.gateway.fields import MAX_LOGPROBS, ChatFields, CompletionFields
from serve.gateway.guard import Guard
from serve.gateway.knowledge import Knowledge, with_passages
from serve.gateway.reading import read
from serve.gateway.receipts import digest
from serve.gateway.refused import without_refused
from serve.gateway.routes import CHAT, COMPLETIONS
from serve.gateway.tools import Tools, as_openai, call_parser, checked, neutral_results, offered
from serve.settings import Limits, Settings

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
# Tokens in each of vLLM's events of a stream under a guard, which sends text by sentences: an event costs more than its
# guard. Not where tools may be called, as vLLM's parsers of calls are made for one token at a time.
GUARDED_TOKENS = 4
SAMPLING_PARAMETERS = (  # and all else of a request that changes its reply
    "temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "min_tokens", "repetition_penalty",
    "frequency_penalty", "presence_penalty", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output",
)  # fmt: skip
DIGESTED_PARAMETERS = ("stop", "stop_token_ids", "bad_words", "logit_bias", "response_format", "structured_outputs")
"""Those that can be long, or hold texts of a user, of which digests are kept."""


@dataclass(frozen=True)
class GenerationRequest:
    """A request that may go to vLLM.

    body: as vLLM gets it; prompt: for feedback; user_text: the user's last words; client_prompt: the prompt without the
    server's persona, for a receipt; checked: the conversations that the guard checks; turns_left_out: number of turns
    that the model does not get whole: the oldest, which did not fit into the context (turns_cut), and those that were
    refused;
    begun_reply: text that the reply goes on with; concealment: what its reader does not see of it; tools: those that
    the reply may call, as JSON text; empty for none; tools_ignored: number of tools that the request offers and the
    model does not get; orders_removed: number of orders to the model in results of tools, which it does not get;
    only_scores: whether the reply is the prompt's log-probabilities, which no
    guard checks; citations: of the passages of documents that the prompt holds; user: whom the client says that it is
    for; created: seconds since 1970."""

    path: str
    body: dict[str, Any]
    reply_id: str
    prompt: Any
    user_text: str
    prompt_tokens: int
    client_prompt: Any = None
    checked: Sequence[Sequence[Message]] = ()
    turns_left_out: int = 0
    turns_cut: int = 0
    begun_reply: str = ""
    concealment: Concealment = ALL_VISIBLE
    tools: str = ""
    tools_ignored: int = 0
    orders_removed: int = 0
    only_scores: bool = False
    citations: Sequence[dict[str, Any]] = ()
    user: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def is_chat(self) -> bool:
        """Whether it came through the chat completions API, not the completions API."""
        return self.path == CHAT

    @property
    def streams(self) -> bool:
        """Whether the reply is streamed."""
        return self.body.get("stream") is True

    @property
    def num_replies(self) -> int:
        """Number of replies: `n` for each prompt."""
        num_prompts = len(self.prompt) if isinstance(self.prompt, list) and not self.is_chat else 1
        return self.body.get("n", 1) * num_prompts

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters as vLLM gets them, for receipts and feedback."""
        short = {name: self.body[name] for name in SAMPLING_PARAMETERS if name in self.body}
        return short | {name: digest(self.body[name]) for name in DIGESTED_PARAMETERS if self.body.get(name)}

    @property
    def language(self) -> str:
        """The language of the user's text."""
        return language_of(self.user_text)


def prepare(
    path: str,
    body: dict[str, Any],
    settings: Settings,
    chat: Chat,
    guard: Guard,
    *,
    context_tokens: int,
    request_id: str,
    knowledge: Knowledge | None = None,
) -> GenerationRequest:
    """Checks a client's request and makes vLLM's of it. Raises ApiError.

    path: CHAT or COMPLETIONS. guard: decides which earlier turns are left out, as they were refused. context_tokens:
    maximum of a prompt with its reply. knowledge: documents, passages of which go with a chat's last question."""
    fields = read(ChatFields if path == CHAT else CompletionFields, body)
    if fields.model is not None and fields.model != settings.name:
        raise ApiError(404, f"The model {fields.model!r} does not exist; this server has {settings.name!r}",
                       param="model", code="model_not_found")  # fmt: skip
    _check_limits(fields, settings)
    try:
        if isinstance(fields, ChatFields):
            request = _prepare_chat(fields, settings, chat, guard, knowledge, context_tokens, request_id)
        else:
            request = _prepare_completion(fields, settings, chat, context_tokens, request_id)
    except InvalidPrompt as error:
        raise ApiError(400, str(error), param=error.param, code=error.code) from None
    except UserError as error:  # the model's template refuses these messages
        raise ApiError(400, f"messages: {error}".replace(f"{chat.name}: ", ""), param="messages") from None
    prepared = fields.passed_on | request.body | {"model": settings.name}
    if settings.guard and fields.stream and not request.tools:
        prepared["stream_interval"] = GUARDED_TOKENS
    if fields.min_tokens is not None:  # max_tokens may be less than the client's
        prepared["min_tokens"] = min(fields.min_tokens, prepared["max_tokens"])
    return replace(request, body=prepared, user=fields.user or fields.safety_identifier or "")


def _check_limits(fields: ChatFields | CompletionFields, settings: Settings) -> None:
    """Raises ApiError for more replies than the server's limit, and for `logprobs` beside `stream` and `stop` where
    there is a guard: vLLM holds back text that may become a stop string, but sends the log-probabilities of its tokens
    at once, before the guard sees their text."""
    maximum = settings.limits.replies_per_request
    if fields.n and fields.n > maximum:
        raise ApiError(400, f"n: expected a whole number from 1 to {maximum}, which is this server's limit of replies "
                       f"to a request, got {fields.n}", param="n")  # fmt: skip
    if settings.adapter_slots and isinstance(fields, CompletionFields) and fields.scores_prompt:
        param = "echo" if fields.echo else "prompt_logprobs"
        raise ApiError(400, f"{param}: a server with adapters gives no log-probabilities of prompts; leave it out, or "
                       f"send the request to a server of the model alone", param=param,
                       code="unsupported_parameter")  # fmt: skip
    has_logprobs = fields.logprobs is not None and fields.logprobs is not False  # 0 means those of the sampled tokens
    if settings.guard and has_logprobs and fields.stream and fields.stop:
        raise ApiError(400, "logprobs: not together with `stream` and `stop` on a server with a guard; leave one out",
                       param="logprobs", code="unsupported_parameter")  # fmt: skip


def _prepare_chat(
    fields: ChatFields,
    settings: Settings,
    chat: Chat,
    guard: Guard,
    knowledge: Knowledge | None,
    context_tokens: int,
    request_id: str,
) -> GenerationRequest:
    """A chat request whose body holds only what the gateway sets."""
    tools = offered(fields, chat)
    messages = conversation.parse_messages(fields.messages, calls_tools=call_parser(chat) is not None)
    goes_on = _goes_on(fields, messages)
    if goes_on and not messages[-1]["content"].strip():  # an empty beginning of a reply
        messages, goes_on = messages[:-1], False
    client_prompt = messages[:-1] if goes_on else messages
    user_text = next(message["content"] for message in reversed(messages) if message["role"] == "user")
    num_brought = len(messages)
    messages = conversation.with_persona(messages, settings.persona)
    num_persona = len(messages) - num_brought  # 1 where there is the server's, which needs no check
    # For the reply as much is kept free as it may take, but not more than half of the context; without max_tokens a
    # quarter. The last turn may take that room too.
    max_reply_tokens = min(fields.max_reply_tokens or context_tokens, settings.limits.reply_tokens)
    reserved_tokens = (
        min(max_reply_tokens, context_tokens // 2) if fields.max_reply_tokens else max(1, context_tokens // 4)
    )
    encode = partial(chat.continued if goes_on else chat.prompt, tools=tools.text)
    max_prompt_tokens = context_tokens - reserved_tokens
    hits = knowledge.search(user_text) if knowledge else []
    safe_messages, orders_removed = neutral_results(messages, chat.marks)
    prompt = conversation.fit_prompt(
        safe_messages, encode=encode, max_turns=settings.max_turns, context_tokens=context_tokens,
        max_prompt_tokens=max_prompt_tokens // 2 if hits else max_prompt_tokens,  # the other half is for passages
    )  # fmt: skip
    turns_cut = prompt.turns_left_out
    prompt = _without_refused(prompt, guard, encode, num_persona, has_guard_model=settings.judging is not None)
    conversation_checked = checked(prompt.messages[num_persona : -1 if goes_on else None], tools)
    prompt, citations = with_passages(
        prompt, user_text, hits, encode, max_prompt_tokens=max_prompt_tokens, marks=chat.marks
    )
    prepared = {
        "messages": [as_openai(message) for message in prompt.messages],
        "max_tokens": min(max_reply_tokens, context_tokens - len(prompt.token_ids)),
        "kv_transfer_params": {"prompt_token_ids": prompt.token_ids},  # vLLM takes these for the prompt, as they are
        "stop_token_ids": [*chat.stop_ids, *(fields.stop_token_ids or [])],
        **(tools.body or {}),
    }
    if chat.thoughts_are_special:  # vLLM leaves special tokens out, so that a thought would be taken for the reply
        prepared["skip_special_tokens"] = False
    return GenerationRequest(
        CHAT, prepared, f"chatcmpl-{request_id}", messages[:-1] if goes_on else messages, user_text,
        len(prompt.token_ids), client_prompt,
        [conversation_checked], prompt.turns_left_out, turns_cut,
        begun_reply=messages[-1]["content"] if goes_on else "",
        concealment=_concealment(chat, tools, goes_on=goes_on),
        tools=tools.text, tools_ignored=tools.ignored, orders_removed=orders_removed, citations=citations,
    )  # fmt: skip


def _concealment(chat: Chat, tools: Tools, *, goes_on: bool) -> Concealment:
    """What the reader of a reply does not see: special tokens too where tools may be called, as vLLM's parsers have
    them written. goes_on: with the client's beginning, after which thoughts are text."""
    hidden = Concealment(marks=chat.concealment.marks) if goes_on else chat.concealment
    special = [token for token in chat.special_tokens if token not in (OPEN, CLOSE)]
    return replace(hidden, marks=(*hidden.marks, *special)) if tools.text else hidden


def _without_refused(
    prompt: Prompt, guard: Guard, encode: Encode, num_persona: int, *, has_guard_model: bool
) -> Prompt:
    """The prompt without what was refused. num_persona: messages at its beginning that are the server's."""
    kept, num_refused = without_refused(guard, prompt.messages[num_persona:], has_guard_model=has_guard_model)
    kept = prompt.messages[:num_persona] + kept
    return Prompt(kept, encode(kept), prompt.turns_left_out + num_refused) if num_refused else prompt


def _as_conversations(texts: Sequence[str]) -> list[list[Message]]:
    return [[{"role": "user", "content": text}] for text in texts]


def _goes_on(fields: ChatFields, messages: list[Message]) -> bool:
    """Whether the model goes on with the last message, and does not reply to it: where that is the assistant's, unless
    the client requests a new turn; the flags are vLLM's."""
    new_turn, goes_on = fields.add_generation_prompt, fields.continue_final_message
    is_reply = messages[-1]["role"] == "assistant"
    if goes_on and new_turn:
        raise ApiError(400, "continue_final_message: not together with add_generation_prompt, which begins a new turn; "
                       "send one of them", param="continue_final_message")  # fmt: skip
    if not is_reply and (goes_on or new_turn is False):
        name = "continue_final_message" if goes_on else "add_generation_prompt"
        raise ApiError(400, f"{name}: goes on with the assistant's message at the end, but the last message is the "
                       f"{messages[-1]['role']}'s; expected the begun reply after it", param=name)  # fmt: skip
    return is_reply and not new_turn and goes_on is not False


def _prepare_completion(
    fields: CompletionFields, settings: Settings, chat: Chat, context_tokens: int, request_id: str
) -> GenerationRequest:
    """A completion request whose body holds only what the gateway sets."""
    prompts, limits = _prompts(fields.prompt), settings.limits
    num_replies = len(prompts) * (fields.n or 1)
    if num_replies > max(limits.prompts_per_request, limits.replies_per_request):
        raise ApiError(400, f"prompt: {len(prompts)} prompts with {fields.n} replies each; expected at most "
                       f"{limits.prompts_per_request} replies a request", param="prompt")  # fmt: skip
    if fields.max_tokens == 0 and not fields.echo:
        raise ApiError(400, "max_tokens: expected a whole number of at least 1 without echo", param="max_tokens")
    texts = [_prompt_text(item, chat) for item in prompts]
    encodings = chat.encoder.tokenizer.encode_batch_fast(texts)  # with the tokens that vLLM adds to a text
    prompt_tokens = [len(item if isinstance(item, list) else encoding.ids)
                     for item, encoding in zip(prompts, encodings, strict=True)]  # fmt: skip
    if max(prompt_tokens) >= context_tokens:
        raise InvalidPrompt(f"prompt: has {max(prompt_tokens)} tokens; expected at most {context_tokens - 1}, which "
                            f"leaves room for a reply in the context of {context_tokens} tokens (max_model_len of "
                            f"/v1/models)", "prompt", "context_length_exceeded")  # fmt: skip
    max_tokens = DEFAULT_COMPLETION_TOKENS if fields.max_reply_tokens is None else fields.max_reply_tokens
    max_tokens = min(max_tokens, context_tokens - max(prompt_tokens), limits.reply_tokens)
    if num_replies * max_tokens > limits.tokens_per_request:
        raise ApiError(400, f"max_tokens: {num_replies} replies of {max_tokens} tokens; expected at most "
                       f"{limits.tokens_per_request} tokens a request, so fewer prompts or a max_tokens of "
                       f"{limits.tokens_per_request // num_replies}", param="max_tokens")  # fmt: skip
    _check_scores(fields, sum(prompt_tokens), limits.replies_per_request * context_tokens)
    checked = [] if fields.only_scores else _as_conversations(texts)
    known = texts[0] if len(texts) == 1 else texts
    return GenerationRequest(
        COMPLETIONS, {"max_tokens": max_tokens}, f"cmpl-{request_id}", known, "\n".join(texts), sum(prompt_tokens),
        known, checked, only_scores=fields.only_scores,
    )  # fmt: skip


def _check_scores(fields: CompletionFields, prompt_tokens: int, most_tokens: int) -> None:
    """Raises ApiError for more log-probabilities of prompts than so many tokens have with the largest number of them:
    each takes some 100 bytes, twice."""
    number, num_replies = fields.num_scores, fields.n or 1
    if prompt_tokens * number * num_replies > most_tokens * (MAX_LOGPROBS + 1):
        param = "prompt_logprobs" if fields.prompt_logprobs is not None else "logprobs"
        fitting = most_tokens * (MAX_LOGPROBS + 1) // (number * num_replies)
        raise ApiError(400, f"{param}: {number - 1}, of {prompt_tokens} tokens of prompts; expected at most {fitting} "
                       f"tokens a request with so many, so fewer prompts or less {param}", param=param)  # fmt: skip


def count_prompts(body: dict[str, Any], limits: Limits) -> int:
    """The number of prompts in the body of a completion request, whose fields need not be checked yet. Raises ApiError
    for more than one request may have, or than may be in flight."""
    number, maximum = len(_prompts(body.get("prompt"))), min(limits.prompts_per_request, limits.requests_in_flight)
    if number > maximum:
        raise ApiError(400, f"prompt: has {number} prompts; expected at most {maximum}, which is this server's limit",
                       param="prompt")  # fmt: skip
    return number


def _prompts(prompt: Any) -> list[Any]:
    """The prompts in a completion's `prompt`: a list of token ids is one, any other list is several."""
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return list(prompt) if several else [prompt]


def parse_prompt(prompt: Any, chat: Chat) -> Any:
    """A prompt that a client sends with feedback, as its request's `client_prompt` is. Raises ApiError."""
    try:
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
            return conversation.parse_messages(prompt, calls_tools=call_parser(chat) is not None)
        texts = [_prompt_text(item, chat) for item in _prompts(prompt)]
    except InvalidPrompt as error:
        raise ApiError(400, str(error), param="prompt") from None
    return texts[0] if len(texts) == 1 else texts


def _prompt_text(prompt: str | list[int], chat: Chat) -> str:
    """A completion's prompt as text; it is text, or token ids."""
    if not prompt:
        raise InvalidPrompt("prompt: expected text, token ids, or a list of either, got nothing", "prompt")
    if isinstance(prompt, str):
        return conversation.check_characters(prompt, "prompt")
    if max(prompt) >= chat.encoder.num_ids:
        raise InvalidPrompt(f"prompt: expected token ids below {chat.encoder.num_ids}, got {max(prompt)}", "prompt")
    return chat.encoder.tokenizer.decode(prompt, skip_special_tokens=False)
