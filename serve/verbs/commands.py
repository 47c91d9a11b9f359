"""The verbs `rayse serve` and `rayse chat`: load settings from the store, then host the model or talk to it."""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.store.artifacts import Store
from pipelines.store.runs import resolve
from serve.client import Client
from serve.gateway import asgi
from serve.gateway.database import DatabaseError, open_database
from serve.hosting import artifacts
from serve.settings import FEEDBACK_FILE, NamedKey, Settings
from serve.verbs.chat import talk

NAME_AND_DIGEST = re.compile(r"[^\s:]*:[0-9a-fA-F]{64}")  # with a colon, as other programs write them
DEFAULT_URL = "http://127.0.0.1:8000"


def serve(settings: Settings, *, as_json: bool = False) -> None:
    """`rayse serve`: hosts a model until Ctrl-C or SIGTERM. as_json: report readiness as one line of JSON."""
    from serve.hosting.app import host

    def report_ready(url: str, ready_s: float) -> None:
        if as_json:
            print(json.dumps({"url": url, "ready_s": round(ready_s, 1), "model": settings.name}), flush=True)
            return
        print(f"{settings.name} is ready after {ready_s:.0f} s\n  chat page    {url}\n  OpenAI API   {url}/v1")
        print("Ctrl-C stops it", flush=True)

    settings = settings.check()
    _check_database(settings)
    print(f"starting {settings.name} ({settings.model})", file=sys.stderr)
    host(settings, on_ready=report_ready, log=lambda text: print(text, file=sys.stderr, flush=True))
    print("stopped", file=sys.stderr)


def _check_database(settings: Settings) -> None:
    """Raises ClusterError where the database of feedback cannot be reached: before a model is loaded."""
    try:
        open_database(settings.feedback, settings.feedback_url).close()
    except DatabaseError as error:
        raise ClusterError(f"--feedback {error}") from None


def chat(load: Callable[[], Settings] | None, url: str | None, key: str | None, **options: Any) -> None:
    """`rayse chat`: talks to the server at `url`, or to one started for this chat.

    load: makes the settings of a server to start; None: talk to the server at `url`, by default DEFAULT_URL.
    options: as `talk` takes them."""
    if url is not None or load is None:
        talk(Client(url or DEFAULT_URL, key), **options)
        return
    from serve.hosting.server import start

    settings = load()
    print(f"starting {settings.name}; about half a minute", file=sys.stderr, flush=True)
    with start(settings) as server:
        talk(Client(server.url, settings.key), **options)


def is_ready(url: str = DEFAULT_URL) -> bool:
    """Whether one of our servers is ready at a URL of this machine."""
    try:
        with asgi.open_local(f"{url}/health", timeout_s=2) as response:
            return json.loads(response.read())["status"] == "ready"
    except (OSError, HTTPException, ValueError, KeyError, TypeError):  # no server, or another program
        return False


def load_settings(store: Store, name: str | None, **options: Any) -> Settings:
    """Settings of a server for a model or a trial of the store.

    name: as `rayse export` takes it; default: the newest. options: settings from the command line; None leaves a
    setting to the trial, or to its default."""
    requested = resolve(store, name) if name else artifacts.newest(store)
    spec = artifacts.serving_spec(store, requested)
    model = artifacts.require(store, artifacts.MODEL, spec.model)
    if requested.kind == artifacts.MODEL and model.fingerprint != requested.fingerprint:
        print(f"{requested.manifest.name}: serving its original, {model.manifest.name}, which was the better one when "
              f"it was quantised", file=sys.stderr)  # fmt: skip
    guard = artifacts.require(store, artifacts.GUARD, spec.guard) if spec.guard else None
    requested_options = {option: value for option, value in options.items() if value is not None}
    return artifacts.settings(
        model, guard, store.root / "cache", feedback=store.root / FEEDBACK_FILE,
        **{**spec.settings, **requested_options},
    )  # fmt: skip


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
