"""What decides how a model is served. One frozen object, plain enough to cross processes as JSON."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from pipelines.inference.model_config import context_length
from pipelines.options import Options

VISIBLE = re.compile(r"[!-~]+")  # characters of ASCII that show
GREETING, GREETING_TOKENS = "Hello! 你好！", 16  # what is asked before anybody is told that it is ready, and the reply


class Limits(Options):
    """What one request may take. Beyond it: an error in OpenAI's form, and the server goes on."""

    body_bytes: PositiveInt = 1_000_000
    body_s: PositiveFloat = 20.0  # to send the body: a slow client holds no place for longer
    request_s: PositiveFloat = 300.0  # from the first byte to the last
    reply_tokens: PositiveInt = 4096  # of one reply; the model's context is a limit of its own
    replies: PositiveInt = 8  # `n`, and prompts of one request
    concurrent: PositiveInt = 256  # requests at work; the next one is told to come again


class Settings(Options):
    """A model, where it listens, who may ask, and what it is told before every conversation."""

    model: Path  # a Hugging Face folder with safetensors, a tokenizer and a chat template
    name: str = "rayse"  # what clients call the model
    version: str = ""  # of the model, for feedback: the artifact's fingerprint
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)  # 0: a free one
    key: str | None = Field(
        default=None, repr=False
    )  # what clients must send; needed wherever others can reach the port
    persona: str | None = None  # the system message of conversations that bring none
    max_turns: PositiveInt = 16  # of a conversation, the newest, that the model is shown
    guard: bool = True
    guard_folder: Path | None = None  # an artifact of kind `guard`; without one the guard knows its rules alone
    feedback: Path | None = None  # an SQLite file; without one nothing of what users say is kept
    max_tokens: PositiveInt | None = None  # of a prompt with its reply; by default the model's context
    threads: PositiveInt | None = None  # of the engine on a CPU; by default every core
    gpus: int = Field(default=0, ge=0)
    kv_cache_bytes: PositiveInt | None = None
    logs: Path | None = None  # a folder that keeps the logs; without it they go with the server
    cache: Path | None = None  # a folder for what is compiled on a GPU
    limits: Limits = Limits()

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the port."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> Settings:
        """These settings. Raises UserError for what would be unsafe or cannot work, before anything is started."""
        if not self.loopback and not self.key:
            raise UserError(
                f"--host {self.host}: others could reach this port, and no key is set. Give one with --key-file FILE "
                f"or --key KEY (clients send it as `Authorization: Bearer KEY`), or listen on 127.0.0.1"
            )
        if self.key is not None and not VISIBLE.fullmatch(self.key):
            raise UserError("--key: expected visible ASCII characters without spaces, as an HTTP header carries them")
        if not (self.model / "config.json").is_file():
            raise UserError(f"{self.model}: no config.json; expected a Hugging Face folder of a language model")
        self._check_room(Chat.open(self.model))
        return self

    def _check_room(self, chat: Chat) -> None:
        most = self.max_tokens or context_length(self.model)
        persona = [{"role": "system", "content": self.persona}] if self.persona else []
        taken = len(chat.prompt([*persona, {"role": "user", "content": GREETING}]))
        if taken + GREETING_TOKENS > most:
            raise UserError(
                f"max_tokens: prompt and reply have {most} tokens, and a greeting takes {taken} (persona included); "
                f"expected room for {GREETING_TOKENS} more at least. Raise --max-tokens, or shorten the persona"
            )
