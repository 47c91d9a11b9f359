"""Settings of one server: which model is served, where it listens, who may send requests, and its limits.

    Settings ──JSON──► the server's process ──JSON──► its replica

One frozen object, which survives a round trip through JSON. `Settings.check` refuses unsafe or impossible settings
before a process is started.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from pipelines.inference.model_config import context_length
from pipelines.options import Options
from serve.guard_families import family_of
from serve.options import CanaryRules, GuardEndpoint, GuardHosting, Hosting, Limits, Replicas

__all__ = [
    "CanaryRules",
    "GuardEndpoint",
    "HostedGuard",
    "Limits",
    "NamedKey",
    "Replicas",
    "Settings",
    "check_feedback_url",
]

VISIBLE_ASCII = re.compile(r"[!-~]+")
ROUTE = re.compile(r"/|(/[\w.-]+)+")
APP = re.compile(r"[A-Za-z0-9][\w.-]*")
# Settings that are the server's, the same for all of its models.
SHARED = ("host", "port", "key", "keys", "limits", "routers", "address", "app", "route", "feedback",
          "feedback_url", "mask_feedback", "logs", "cache", "store", "guard_model")  # fmt: skip
# Settings of a model that its replies rest on, beside its weights.
OF_REPLIES = ("persona", "max_turns", "guard", "guard_folder", "guard_endpoint", "guard_model", "knowledge_version",
              "max_passages", "max_tokens", "quality")  # fmt: skip
OF_VERDICTS = {"model", "version", "categories", "controversial", "replies", "failure"}  # of a hosted guard model
FEEDBACK_FILE, RECEIPT_KEY_FILE = "feedback.sqlite", "receipts.key"  # in the store
# The prompt of warm-up requests and of the readiness probe, and the length of the probe's reply.
PROBE_PROMPT, PROBE_TOKENS = "Hello! 你好！", 16


class HostedGuard(GuardHosting):
    """A guard model that the server hosts. model: the name that says its family, for messages and receipts."""

    folder: Path = Field(description="Hugging Face folder with safetensors and a tokenizer")
    version: str = Field(default="", description="The artifact's fingerprint; default: of a folder, none")


class NamedKey(Options):
    """A key that clients may send, with its limits: a line of the file of --key-file."""

    name: str = Field(min_length=1, description="Name of the key, for its limits and messages")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the key, in hex; the key itself is nowhere")
    per_minute: int | None = Field(default=None, gt=0, description="Maximum requests a minute; default: no limit")
    per_day: int | None = Field(default=None, gt=0, description="Maximum requests a day (UTC); default: no limit")

    @classmethod
    def parse(cls, line: str) -> NamedKey:
        """Reads a line `NAME SHA256 [N/minute] [N/day]`. Raises ValueError.

        >>> NamedKey.parse(f"ana {'0' * 64} 60/minute").per_minute
        60
        """
        if len(line.split()) < 2:
            raise ValueError("no digest beside the name")
        name, digest, *limits = line.split()
        values: dict[str, int] = {}
        # What is found is not quoted: it may be the key itself.
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError("the second word is no digest; expected the SHA-256 of the key, 64 digits in hex")
        for limit in limits:
            number, _, unit = limit.partition("/")
            if unit not in ("minute", "day") or not number.isdecimal() or int(number) < 1 or f"per_{unit}" in values:
                raise ValueError("a word after the digest is no limit, or the second of its unit; expected a limit "
                                 "such as 60/minute or 1000/day, each once")  # fmt: skip
            values[f"per_{unit}"] = int(number)
        return cls(name=name, sha256=digest, **values)


def check_feedback_url(url: str | None) -> str | None:
    """Returns the URL of a PostgreSQL database. Raises UserError for another URL, and for one that holds a password."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError as error:  # [ without ]
        raise UserError(f"--feedback: is no URL ({error}); expected postgresql://USER@HOST:PORT/DATABASE") from None
    if parts.password is not None or "password" in parts.query:
        raise UserError("--feedback: holds a password, which all users of this machine could read; leave it out, and "
                        "put it into ~/.pgpass or the variable PGPASSWORD")  # fmt: skip
    if parts.scheme not in ("postgresql", "postgres"):
        raise UserError(f"--feedback {url}: expected postgresql://USER@HOST:PORT/DATABASE, or the path of a SQLite "
                        f"file on a disk of this machine, with a slash; without --feedback, a file in the "
                        f"store")  # fmt: skip
    return url


def is_path(feedback: str | None) -> bool:
    """Whether what --feedback says is the path of a SQLite file.

    >>> [is_path(text) for text in ("/data/f.sqlite", "./f.sqlite", "f.sqlite", "postgresql://u@h/d", "none", None)]
    [True, True, False, False, False, False]
    """
    return feedback is not None and "/" in feedback and ":" not in feedback.partition("/")[0]


def feedback_place(root: Path, feedback: str | None) -> tuple[Path, str | None]:
    """The SQLite file and the URL of a database that --feedback names; without, the file in the store's folder `root`.
    Where there is a URL, the file is not opened. Raises UserError."""
    if feedback is not None and is_path(feedback):
        return Path(feedback).expanduser().absolute(), None
    return root / FEEDBACK_FILE, check_feedback_url(feedback)


class Settings(Hosting):
    """Settings of one server: model, address, access key, and what surrounds every conversation."""

    model: Path = Field(description="Hugging Face folder with safetensors, a tokenizer and a chat template")
    name: str = Field(default="rayse", description="Name of the model in the API, as clients send it in `model`")
    version: str = Field(
        default="", description="Version of the model, stored with feedback: the artifact's fingerprint"
    )
    key: str | None = Field(
        default=None,
        repr=False,
        description="Key that clients must send as `Authorization: Bearer KEY`; default: none needed",
    )
    keys: tuple[NamedKey, ...] = Field(
        default=(), repr=False, description="Keys that clients may send in place of that one, each with its limits"
    )
    persona: str | None = Field(default=None, description="System message of conversations that bring none")
    max_turns: int = Field(
        default=16, gt=0, description="Maximum number of a conversation's turns, the newest, in the prompt"
    )
    guard_folder: Path | None = Field(
        default=None, description="Folder of an artifact of kind `guard`; default: the built-in rules alone"
    )
    knowledge_folder: Path | None = Field(
        default=None, description="Folder of an artifact of kind `knowledge`, passages of which go with each question; "
        "default: none"
    )  # fmt: skip
    knowledge_version: str = Field(
        default="", description="Version of the knowledge, for receipts: the artifact's fingerprint"
    )
    guard_endpoint: GuardEndpoint | None = Field(
        default=None, description="Guard model that checks prompts too; default: the embedded guard alone"
    )
    guard_model: HostedGuard | None = Field(
        default=None, description="Guard model that the server hosts, in place of one at an endpoint; default: none"
    )
    feedback: Path | None = Field(default=None, description="SQLite file for users' feedback; default: none is stored")
    feedback_url: str | None = Field(
        default=None, description="PostgreSQL database for feedback and the use of keys, in place of that file; the "
        "key of receipts is beside the file"
    )  # fmt: skip
    max_tokens: int | None = Field(
        default=None, gt=0, description="Maximum tokens of a prompt with its reply; default: the model's context"
    )
    logs: Path | None = Field(
        default=None, description="Folder that keeps the logs; default: they are removed with the server"
    )
    cache: Path | None = Field(
        default=None, description="Folder for kernels compiled on a GPU; default: vLLM's default folder"
    )
    others: tuple[Settings, ...] = Field(
        default=(), description="Further models behind the same address; the request's `model` chooses one"
    )
    canary: float = Field(
        default=0.0, ge=0, lt=1, description="Share of another model's requests that this one, of the same name, gets"
    )
    canary_stopped: bool = Field(default=False, description="Whether this canary was stopped, and gets no request")
    adapter_of: str = Field(
        default="", description="Name of the model whose engine serves this one, as a LoRA adapter; default: its own"
    )
    adapter_slots: int = Field(default=0, ge=0, description="Number of adapters that the engine has room for")
    adapter_rank: int = Field(default=0, ge=0, description="Maximum rank of the engine's adapters")
    alias: str = Field(
        default="", exclude=True, description="Alias of the store that the server follows; default: none"
    )
    artifact: str = Field(
        default="", exclude=True, description="Fingerprint of what the alias named: of the model, or of a trial of it"
    )
    store: str | None = Field(
        default=None, description="Store with the model, from which replicas on other nodes fetch it, by its version"
    )

    @property
    def models(self) -> tuple[Settings, ...]:
        """The settings of all models of this server, each with a prefix, address and limits that are the server's."""
        shared = {name: getattr(self, name) for name in SHARED}
        return (self, *(other.model_copy(update=shared) for other in self.others))

    @property
    def judging(self) -> GuardEndpoint | HostedGuard | None:
        """The guard model, wherever it is; None without one, or where nothing is checked."""
        return (self.guard_endpoint or self.guard_model) if self.guard else None

    @property
    def engines(self) -> tuple[Settings, ...]:
        """Those of the models that have an engine of their own, and are no adapter of another."""
        return tuple(model for model in self.models if not model.adapter_of)

    @property
    def num_routers(self) -> int:
        """Number of routers, where there are several models: on a cluster one that ends does not take all streams with
        it."""
        return self.routers or (1 if self.address is None else 2)

    @property
    def variant(self) -> str:
        """What tells this canary from others: the weights, and all else that its replies rest on."""
        included: Any = dict.fromkeys(OF_REPLIES, True) | {"guard_model": OF_VERDICTS}
        settings = self.model_dump(mode="json", include=included, exclude={"guard_endpoint": {"key"}})
        if self.guard_model is not None and not self.guard_model.version:
            settings["guard_model"]["folder"] = self.guard_model.folder.name
        settings["guard_folder"] = self.guard_folder and self.guard_folder.name  # the same on every node
        text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
        return f"{self.version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def loopback(self) -> bool:
        """Whether the port can be reached from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def receipt_key(self) -> Path | None:
        """File with the key that signs receipts, in the store's folder, else beside the feedback; None where none is
        stored."""
        if self.feedback and self.store and "://" not in self.store:
            return Path(self.store) / RECEIPT_KEY_FILE
        return self.feedback.with_name(RECEIPT_KEY_FILE) if self.feedback else None

    def check(self) -> Settings:
        """Returns these settings. Raises UserError for unsafe or impossible ones, before anything is started."""
        if not self.loopback and not self.key:
            raise UserError(
                f"--host {self.host}: other machines could reach this port, and no key is set. Pass one with "
                f"--key-file FILE (clients send it as `Authorization: Bearer KEY`), or listen on 127.0.0.1"
            )
        if self.keys and not self.key:
            raise UserError("keys: named keys, and no key of the server's, which its own requests need; expected a key "
                            "too, such as --key-file makes")  # fmt: skip
        if self.key is not None and not VISIBLE_ASCII.fullmatch(self.key):
            raise UserError("--key-file: the key holds other characters than visible ASCII, or none; expected those "
                            "alone, without spaces, as an HTTP header carries them")  # fmt: skip
        check_feedback_url(self.feedback_url)
        if self.feedback_url and not self.feedback:
            raise UserError("feedback_url: a database, and no file; expected `feedback` too, beside which the key of "
                            "receipts is")  # fmt: skip
        if not ROUTE.fullmatch(self.route):
            raise UserError(f"--route {self.route}: expected a path such as /chat, without a slash at its end")
        if not APP.fullmatch(self.app):
            raise UserError(f"--app {self.app}: expected letters, digits, points, hyphens and underscores")
        self._check_names()
        self._check_guard_model()
        for model in self.models:
            if not (model.model / "config.json").is_file():
                raise UserError(f"{model.model}: no config.json; expected a Hugging Face folder of a language model")
            model._check_context(Chat.open(model.model))
        return self

    def _check_names(self) -> None:
        """Raises UserError where two models have the same name, and the later is no canary of the earlier."""
        names = [model.name for model in self.models if not model.canary]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two models are named {name}; expected a different name for each, as requests choose "
                                f"a model by it")  # fmt: skip
        for canary in self.models:
            if canary.canary and canary.name not in names:
                raise UserError(f"canary {canary.name}: expected a model of the same name beside it")

    def _check_guard_model(self) -> None:
        """Raises UserError for a guard model that cannot be hosted, or beside one at an endpoint."""
        guard = self.guard_model
        if guard is None:
            return
        if any(model.guard_endpoint is not None for model in self.models):
            raise UserError("guard_model: not together with guard_endpoint; leave one of them out")
        if not (guard.folder / "config.json").is_file():
            raise UserError(
                f"guard_model {guard.folder}: no config.json; expected a Hugging Face folder of a guard model"
            )
        family_of(guard.model, option="guard_model").let_pass(guard.categories, "guard_model.categories")

    def _check_context(self, chat: Chat) -> None:
        """Raises UserError where the readiness probe with its reply does not fit into the context."""
        max_tokens = self.max_tokens or context_length(self.model)
        persona = [{"role": "system", "content": self.persona}] if self.persona else []
        prompt_tokens = len(chat.prompt([*persona, {"role": "user", "content": PROBE_PROMPT}]))
        if prompt_tokens + PROBE_TOKENS > max_tokens:
            raise UserError(
                f"max_tokens: prompt and reply share {max_tokens} tokens, and the readiness probe's prompt takes "
                f"{prompt_tokens} (persona included); expected room for a reply of at least {PROBE_TOKENS} tokens. "
                f"Raise --max-tokens, or shorten the persona"
            )
