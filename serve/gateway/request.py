"""Generation requests: from the JSON that a client sent to the JSON that vLLM gets.

    body ──prepare──► GenerationRequest(body for vLLM, prompt, user_text) ──► relay.py, vLLM

A conversation becomes token ids through the model's chat template, so that no text of a user can write a special
token. Parameters that would step around the template, the guard or another client's reply are refused.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from pipelines.data.text.languages import language_of
from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from serve.gateway import conversation
from serve.gateway.asgi import ApiError
from serve.gateway.conversation import InvalidPrompt
from serve.settings import Settings

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
# vLLM takes many more fields than OpenAI's API. These would step around the template, the guard or another's reply.
UNSUPPORTED_PARAMETERS = (
    "kv_transfer_params", "ec_transfer_params", "prompt_embeds", "request_id", "chat_template", "chat_template_kwargs",
    "documents", "echo", "add_generation_prompt", "continue_final_message", "mm_processor_kwargs", "media_io_kwargs",
    "priority", "vllm_xargs", "cache_salt", "use_beam_search", "truncate_prompt_tokens", "prompt_logprobs",
    "return_token_ids",
)  # fmt: skip
SAMPLING_PARAMETERS = (
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "max_tokens", "max_completion_tokens",
    "repetition_penalty", "frequency_penalty", "presence_penalty",
)  # fmt: skip


@dataclass(frozen=True)
class GenerationRequest:
    """A request that may go to vLLM.

    body: as vLLM gets it; prompt: as the user knows it, for feedback; user_text: what the guard checks; turns_left_out:
    number of the oldest turns that did not fit into the context; created: seconds since 1970."""

    path: str
    body: dict[str, Any]
    reply_id: str
    prompt: Any
    user_text: str
    prompt_tokens: int
    turns_left_out: int = 0
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
    _check_count(body, "n", settings.limits.replies_per_request)
    _check_logprobs(body, settings)
    max_reply_tokens = _max_reply_tokens(body, settings, context_tokens)
    body = {name: value for name, value in body.items() if name not in UNSUPPORTED_PARAMETERS}
    body |= {"model": settings.name}
    prepare_body = _prepare_chat if path == CHAT else _prepare_completion
    try:
        return prepare_body(body, settings, chat, context_tokens, max_reply_tokens, request_id)
    except InvalidPrompt as error:
        raise ApiError(400, str(error), param=error.param, code=error.code) from None
    except UserError as error:  # the model's template refuses these messages
        raise ApiError(400, f"messages: {error}".replace(f"{chat.folder}: ", ""), param="messages") from None


def _prepare_chat(
    body: dict[str, Any], settings: Settings, chat: Chat, context_tokens: int, max_reply_tokens: int | None,
    request_id: str,
) -> GenerationRequest:  # fmt: skip
    messages = conversation.parse_messages(body.get("messages"))
    user_text = messages[-1]["content"]
    messages = conversation.with_persona(messages, settings.persona)
    # Without max_tokens a quarter of the context is kept free for the reply, which may use all that is left.
    reserved_tokens = max_reply_tokens or max(1, context_tokens // 4)
    prompt = conversation.fit_prompt(messages, encode=chat.prompt, max_turns=settings.max_turns,
                                     max_prompt_tokens=context_tokens - reserved_tokens)  # fmt: skip
    free_tokens = context_tokens - len(prompt.token_ids)
    body = {name: value for name, value in body.items() if name not in ("max_tokens", "max_completion_tokens")}
    body |= {
        "messages": prompt.messages,
        "max_tokens": min(max_reply_tokens or free_tokens, free_tokens, settings.limits.reply_tokens),
        "kv_transfer_params": {"prompt_token_ids": prompt.token_ids},  # vLLM takes these for the prompt, as they are
        "stop_token_ids": [*chat.stop_ids, *_stop_token_ids(body)],
    }
    return GenerationRequest(CHAT, body, f"chatcmpl-{request_id}", messages, user_text, len(prompt.token_ids),
                             prompt.turns_left_out)  # fmt: skip


def _prepare_completion(
    body: dict[str, Any], settings: Settings, chat: Chat, context_tokens: int, max_reply_tokens: int | None,
    request_id: str,
) -> GenerationRequest:  # fmt: skip
    prompt = body.get("prompt")
    # A list of token ids is one prompt, any other list is several.
    prompts = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    if len(prompts) * (body.get("n") or 1) > settings.limits.replies_per_request:
        raise ApiError(400, f"prompt: expected at most {settings.limits.replies_per_request} replies a request",
                       param="prompt")  # fmt: skip
    texts = [_prompt_text(item, chat) for item in prompts]
    prompt_tokens = [len(ids) for ids in chat.encoder.encode(texts)]
    if max(prompt_tokens) + 1 > context_tokens:
        raise InvalidPrompt(f"prompt: has {max(prompt_tokens)} tokens; expected at most {context_tokens - 1}, which "
                            f"leaves room for the reply", "prompt", "context_length_exceeded")  # fmt: skip
    if max_reply_tokens is not None:
        body = body | {"max_tokens": min(max_reply_tokens, context_tokens - max(prompt_tokens))}
    return GenerationRequest(COMPLETIONS, body, f"cmpl-{request_id}", texts[0] if len(texts) == 1 else texts,
                             "\n".join(texts), sum(prompt_tokens))  # fmt: skip


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


def _check_count(body: dict[str, Any], name: str, maximum: int) -> None:
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum):
        raise ApiError(400, f"{name}: expected a whole number from 1 to {maximum}", param=name)


def _check_logprobs(body: dict[str, Any], settings: Settings) -> None:
    """Refuses logprobs beside `stream` and `stop` where there is a guard: vLLM holds back text that may become a stop
    string, but sends the log-probabilities of its tokens at once, before the guard sees their text."""
    logprobs = body.get("logprobs")
    has_logprobs = logprobs is not None and logprobs is not False  # 0 asks for those of the sampled tokens
    if settings.guard and has_logprobs and body.get("stream") is True and body.get("stop"):
        raise ApiError(400, "logprobs: not together with `stream` and `stop` on a server with a guard; leave one out",
                       param="logprobs", code="unsupported_parameter")  # fmt: skip


def _max_reply_tokens(body: dict[str, Any], settings: Settings, context_tokens: int) -> int | None:
    """The longest reply that the client requests, within the server's limit; None where it leaves that open."""
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    _check_count(body, name, context_tokens - 1)
    value = body.get(name)
    return None if value is None else min(value, settings.limits.reply_tokens)
