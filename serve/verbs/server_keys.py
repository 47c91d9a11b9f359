"""The keys of a server, and of the guard model that it asks: from files and the environment, never from arguments."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from pipelines.errors import UserError
from serve.settings import GuardEndpoint, NamedKey

NAME_AND_DIGEST = re.compile(r"[^\s:]*:[0-9a-fA-F]{64}")  # with a colon, as other programs write them


def read_server_keys(file: Path | None) -> dict[str, Any]:
    """The settings `key` and `keys` of a server: from --key-file, which holds one key, or a line `NAME SHA256
    [N/minute] [N/day]` for each of several. Raises UserError that names the line."""
    lines = _key_lines(file) if file is not None else []
    if file is None or all(len(line.split()) == 1 for _, line in lines):
        return {"key": read_key(file)}
    keys: list[NamedKey] = []
    for number, line in lines:
        try:
            keys.append(NamedKey.parse(line))
        except ValueError as error:
            raise UserError(
                f"--key-file {file}: line {number}: {error}; expected NAME SHA256 [N/minute] [N/day]"
            ) from None
    names, digests = [each.name for each in keys], [each.sha256 for each in keys]
    for name, digest in zip(names, digests, strict=True):
        if names.count(name) > 1:
            raise UserError(f"--key-file {file}: two keys are named {name}; expected each name once")
        if digests.count(digest) > 1:
            same = " and ".join(each.name for each in keys if each.sha256 == digest)
            raise UserError(f"--key-file {file}: {same} have the same key; expected a key for each name")
    # The server's own requests need a key too: one that nobody else knows.
    return {"key": secrets.token_urlsafe(24), "keys": tuple(keys)}


def read_guard_endpoint(
    url: str | None, model: str | None, failure: str, *, model_option: str = "--guard-model"
) -> GuardEndpoint | None:
    """The setting `guard_endpoint` of a server, with the key of the environment variable RAYSE_GUARD_KEY, if it is set.

    model_option: what the user wrote the model's name with. Raises UserError for one option without the other, a value
    that is none, and a model of no known family."""
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise UserError("--guard-endpoint and --guard-model: expected both, got one; they name a model and where it is")
    from serve.gateway.guard_model import GUARD_KEY_ENV
    from serve.guard_families import family_of

    family_of(model, option=model_option)
    key = os.environ.get(GUARD_KEY_ENV) or None
    try:
        return GuardEndpoint.model_validate({"url": url, "model": model, "failure": failure, "key": key})
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        option, expected = {
            "url": ("--guard-endpoint", "an address such as http://127.0.0.1:8001/v1"),
            "failure": ("--guard-failure", "decline or pass"),
        }.get(field, ("--guard-model", "the name of a model"))
        raise UserError(f"{option}: got {failure if field == 'failure' else url}; expected {expected}") from None


def _key_lines(file: Path) -> list[tuple[int, str]]:
    """The lines of a file of keys that are neither empty nor comments, with their numbers."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--key-file {file}: cannot be read ({error})") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("# ")]


def read_key(file: Path | None) -> str | None:
    """The key in --key-file. Raises UserError where the file holds none, or more than one."""
    if file is None:
        return None
    lines = _key_lines(file)
    if not lines:
        raise UserError(f"--key-file {file}: empty; expected the key in its first line")
    first = lines[0][1].strip()
    if all(len(line.split()) == 1 for _, line in lines) and (len(lines) > 1 or NAME_AND_DIGEST.fullmatch(first)):
        raise UserError(f"--key-file {file}: {len(lines)} lines, each one word; expected one key alone, or lines NAME "
                        f"SHA256 [N/minute] [N/day] with spaces between the words")  # fmt: skip
    if len(first.split()) > 1:
        raise UserError(f"--key-file {file}: holds the digests of a server's keys; expected the key itself, alone")
    return first


def read_client_key(file: Path | None, url: str | None, *, plain_http: bool) -> str | None:
    """The key in --key-file that a client sends to the server at `url`; None: at a port of this machine.

    plain_http: whether http:// to another host may carry it. Raises UserError where it may not, or as read_key does."""
    key = read_key(file)
    if key is None or url is None or plain_http:
        return key
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise UserError(f"--key-file {file}: would be sent to {parts.hostname} over http://, where others can read it "
                        f"on its way; expected https://, or --plain-http where the network is safe")  # fmt: skip
    return key


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
