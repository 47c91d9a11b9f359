"""Generation requests: from the JSON that a client sent to the JSON that vLLM gets.

    body ──prepare──► GenerationRequest(body for vLLM, prompt, user_text) ──► relay.py, vLLM

A conversation becomes token ids through the model's chat template, so that no text of a user can write a special
token. Parameters that would step around the template, the guard or another client's reply are refused; tools are
ignored where a reply in text will do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.data.text.languages import language_of
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.chat_thoughts import ALL_VISIBLE, Concealment
from pipelines.errors import UserError
from serve.gateway import conversation
from serve.gateway.asgi import ApiError
from serve.gateway.conversation import InvalidPrompt
from serve.settings import Settings

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
# vLLM takes many more fields than OpenAI's API. These would step around the template, the guard or another's reply.
UNSUPPORTED_PARAMETERS = (
    "kv_transfer_params", "ec_transfer_params", "prompt_embeds", "request_id", "chat_template", "chat_template_kwargs",
    "documents", "echo", "mm_processor_kwargs", "media_io_kwargs", "priority", "vllm_xargs", "cache_salt",
    "use_beam_search", "truncate_prompt_tokens", "prompt_logprobs", "return_token_ids",
)  # fmt: skip
# Read here, and not passed on.
TOOL_PARAMETERS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")
TURN_PARAMETERS = ("add_generation_prompt", "continue_final_message")
LENGTH_PARAMETERS = ("max_tokens", "max_completion_tokens")
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
SAMPLING_PARAMETERS = (
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "max_tokens", "max_completion_tokens",
    "repetition_penalty", "frequency_penalty", "presence_penalty",
)  # fmt: skip


@dataclass(frozen=True)
class GenerationRequest:
    """A request that may go to vLLM.

    body: as vLLM gets it; prompt: as the user knows it, for feedback; user_text: what the guard checks; turns_left_out:
    number of the oldest turns that did not fit into the context; begun_reply: text that the reply goes on with;
    concealment: what its reader does not see of it; tools_ignored: number of tools that the request offers; created:
    seconds since 1970."""

    path: str
    body: dict[str, Any]
    reply_id: str
    prompt: Any
    user_text: str
    prompt_tokens: int
    turns_left_out: int = 0
    begun_reply: str = ""
    concealment: Concealment = ALL_VISIBLE
    tools_ignored: int = 0
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
        return (self.body.get("n") or 1) * num_prompts

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters, for feedback."""
        return {name: self.body[name] for name in SAMPLING_PARAMETERS if self.body.get(name) is not None}

    @property
    def language(self) -> str:
        """The language of the user's text."""
        return language_of(self.user_text)


def prepare(
    path: str, body: dict[str, Any], settings: Settings, chat: Chat, *, context_tokens: int, request_id: str
) -> GenerationRequest:
    """Checks a client's request and makes vLLM's of it. Raises ApiError.

    path: CHAT or COMPLETIONS. context_tokens: maximum of a prompt with its reply."""
    for name in UNSUPPORTED_PARAMETERS:
        if body.get(name) not in (None, False, [], {}):
            raise ApiError(400, f"{name}: not supported by this server", param=name, code="unsupported_parameter")
    model = body.get("model")
    if model is not None and model != settings.name:
        raise ApiError(404, f"The model {model!r} does not exist; this server has {settings.name!r}", param="model",
                       code="model_not_found")  # fmt: skip
    _check_count(body, "n", settings.limits.replies_per_request, "which is this server's limit of replies to a request")
    _check_logprobs(body, settings)
    max_reply_tokens, tools_ignored = _max_reply_tokens(body, settings), _check_tools(body)
    prepare_body = _prepare_chat if path == CHAT else _prepare_completion
    try:
        request = prepare_body(body, settings, chat, context_tokens, max_reply_tokens, request_id)
    except InvalidPrompt as error:
        raise ApiError(400, str(error), param=error.param, code=error.code) from None
    except UserError as error:  # the model's template refuses these messages
        raise ApiError(400, f"messages: {error}".replace(f"{chat.name}: ", ""), param="messages") from None
    not_passed_on = (*UNSUPPORTED_PARAMETERS, *TOOL_PARAMETERS, *TURN_PARAMETERS, *LENGTH_PARAMETERS)
    passed_on = {name: value for name, value in body.items() if name not in not_passed_on}
    prepared = passed_on | request.body | {"model": settings.name}
    return replace(request, body=_with_possible_minimum(prepared), tools_ignored=tools_ignored)


def _prepare_chat(
    body: dict[str, Any], settings: Settings, chat: Chat, context_tokens: int, max_reply_tokens: int | None,
    request_id: str,
) -> GenerationRequest:  # fmt: skip
    """A chat request whose body holds only what the gateway sets."""
    messages = conversation.parse_messages(body.get("messages"))
    goes_on = _goes_on(body, messages)
    if goes_on and not messages[-1]["content"].strip():  # an empty beginning of a reply
        messages, goes_on = messages[:-1], False
    user_text = next(message["content"] for message in reversed(messages) if message["role"] == "user")
    messages = conversation.with_persona(messages, settings.persona)
    # For the reply as much is kept free as it may take, but not more than half of the context; without max_tokens a
    # quarter. The last turn may take that room too.
    reserved_tokens = min(max_reply_tokens, context_tokens // 2) if max_reply_tokens else max(1, context_tokens // 4)
    prompt = conversation.fit_prompt(
        messages, encode=chat.continued if goes_on else chat.prompt, max_turns=settings.max_turns,
        max_prompt_tokens=context_tokens - reserved_tokens, context_tokens=context_tokens,
    )  # fmt: skip
    free_tokens = context_tokens - len(prompt.token_ids)
    prepared = {
        "messages": prompt.messages,
        "max_tokens": min(max_reply_tokens or free_tokens, free_tokens, settings.limits.reply_tokens),
        "kv_transfer_params": {"prompt_token_ids": prompt.token_ids},  # vLLM takes these for the prompt, as they are
        "stop_token_ids": [*chat.stop_ids, *_stop_token_ids(body)],
    }
    if chat.thoughts_are_special:  # vLLM leaves special tokens out, so that a thought would be taken for the reply
        prepared["skip_special_tokens"] = False
    return GenerationRequest(
        CHAT, prepared, f"chatcmpl-{request_id}", messages[:-1] if goes_on else messages, user_text,
        len(prompt.token_ids), prompt.turns_left_out, begun_reply=messages[-1]["content"] if goes_on else "",
        concealment=Concealment(marks=chat.concealment.marks) if goes_on else chat.concealment,
    )  # fmt: skip


def _goes_on(body: dict[str, Any], messages: list[conversation.Message]) -> bool:
    """Whether the model goes on with the last message, and does not reply to it: where that is the assistant's, unless
    the client requests a new turn; the flags are vLLM's."""
    for name in TURN_PARAMETERS:
        if not isinstance(body.get(name), bool | None):
            raise ApiError(400, f"{name}: expected true or false", param=name)
    new_turn, goes_on = body.get("add_generation_prompt"), body.get("continue_final_message")
    is_reply = messages[-1]["role"] == "assistant"
    if goes_on and new_turn:
        raise ApiError(400, "continue_final_message: not together with add_generation_prompt, which begins a new turn; "
                       "send one of them", param="continue_final_message")  # fmt: skip
    if not is_reply and (goes_on or new_turn is False):
        name = "continue_final_message" if goes_on else "add_generation_prompt"
        raise ApiError(400, f"{name}: goes on with the assistant's message at the end, but the last message is the "
                       f"user's; expected the begun reply after it", param=name)  # fmt: skip
    return is_reply and not new_turn and goes_on is not False


def _prepare_completion(
    body: dict[str, Any], settings: Settings, chat: Chat, context_tokens: int, max_reply_tokens: int | None,
    request_id: str,
) -> GenerationRequest:  # fmt: skip
    """A completion request whose body holds only what the gateway sets."""
    prompt = body.get("prompt")
    # A list of token ids is one prompt, any other list is several.
    prompts = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    if len(prompts) * (body.get("n") or 1) > settings.limits.replies_per_request:
        raise ApiError(400, f"prompt: expected at most {settings.limits.replies_per_request} replies a request",
                       param="prompt")  # fmt: skip
    texts = [_prompt_text(item, chat) for item in prompts]
    encodings = chat.encoder.tokenizer.encode_batch_fast(texts)  # with the tokens that vLLM adds to a text
    prompt_tokens = [len(item if isinstance(item, list) else encoding.ids)
                     for item, encoding in zip(prompts, encodings, strict=True)]  # fmt: skip
    if max(prompt_tokens) >= context_tokens:
        raise InvalidPrompt(f"prompt: has {max(prompt_tokens)} tokens; expected at most {context_tokens - 1}, which "
                            f"leaves room for a reply in the context of {context_tokens} tokens (max_model_len of "
                            f"/v1/models)", "prompt", "context_length_exceeded")  # fmt: skip
    max_tokens = min(max_reply_tokens or DEFAULT_COMPLETION_TOKENS, context_tokens - max(prompt_tokens))
    return GenerationRequest(COMPLETIONS, {"max_tokens": max_tokens}, f"cmpl-{request_id}",
                             texts[0] if len(texts) == 1 else texts, "\n".join(texts), sum(prompt_tokens))  # fmt: skip


def _prompt_text(prompt: Any, chat: Chat) -> str:
    """A completion's prompt as text; it is text, or token ids."""
    if isinstance(prompt, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
        try:
            return chat.encoder.tokenizer.decode(prompt, skip_special_tokens=False)
        except OverflowError:
            raise InvalidPrompt("prompt: expected token ids within the vocabulary", "prompt") from None
    if not isinstance(prompt, str) or not prompt:
        raise InvalidPrompt("prompt: expected text, token ids, or a list of either", "prompt")
    return conversation.check_characters(prompt, "prompt")


def _stop_token_ids(body: dict[str, Any]) -> list[Any]:
    """The client's stop_token_ids; vLLM checks their values."""
    value = body.get("stop_token_ids")
    if value is not None and not isinstance(value, list):
        raise ApiError(400, "stop_token_ids: expected a list of token ids", param="stop_token_ids")
    return value or []


def _check_count(body: dict[str, Any], name: str, maximum: int | None = None, origin: str = "") -> None:
    """Raises ApiError where a field is no number from 1 to the maximum, if there is one; origin: what sets that."""
    value = body.get(name)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (maximum and value > maximum):
        numbers = f"from 1 to {maximum}, {origin}" if maximum else "of at least 1"
        raise ApiError(400, f"{name}: expected a whole number {numbers}", param=name)


def _check_tools(body: dict[str, Any]) -> int:
    """The number of tools that a request offers, which is answered in text. Raises ApiError where it demands a call.

    A client that lets the model choose (`auto`, the default) expects text as well as calls, and agents offer their
    tools with every request; one that demands a call could do nothing with a text."""
    count = 0
    for name, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        tools, chosen = body.get(name), body.get(choice)
        if tools is not None and not isinstance(tools, list):
            raise ApiError(400, f"{name}: expected a list", param=name)
        if isinstance(chosen, dict) or chosen == "required":
            raise ApiError(400, f"{name}: this model calls no tools, and {choice} demands a call; leave {choice} out, "
                           f"or send \"auto\" or \"none\", and the reply is text", param=name if tools else choice,
                           code="unsupported_parameter")  # fmt: skip
        if chosen not in (None, "none", "auto"):
            raise ApiError(400, f'{choice}: expected "auto" or "none"', param=choice)
        count += len(tools or []) if chosen != "none" else 0
    return count


def _with_possible_minimum(body: dict[str, Any]) -> dict[str, Any]:
    """The body with a min_tokens that its max_tokens, which may be less than the client's, allows."""
    minimum = body.get("min_tokens")
    is_number = isinstance(minimum, int) and not isinstance(minimum, bool)
    return body | {"min_tokens": min(minimum, body["max_tokens"])} if is_number else body


def _check_logprobs(body: dict[str, Any], settings: Settings) -> None:
    """Refuses logprobs beside `stream` and `stop` where there is a guard: vLLM holds back text that may become a stop
    string, but sends the log-probabilities of its tokens at once, before the guard sees their text."""
    logprobs = body.get("logprobs")
    has_logprobs = logprobs is not None and logprobs is not False  # 0 asks for those of the sampled tokens
    if settings.guard and has_logprobs and body.get("stream") is True and body.get("stop"):
        raise ApiError(400, "logprobs: not together with `stream` and `stop` on a server with a guard; leave one out",
                       param="logprobs", code="unsupported_parameter")  # fmt: skip


def _max_reply_tokens(body: dict[str, Any], settings: Settings) -> int | None:
    """The longest reply that the client requests, within the server's limit; None where it leaves that open. More than
    the context has room for is no error: the reply takes what there is."""
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    _check_count(body, name)
    value = body.get(name)
    return None if value is None else min(value, settings.limits.reply_tokens)
