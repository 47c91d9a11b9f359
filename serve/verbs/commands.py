"""What `rayse serve` and `rayse chat` do: find the model and its guard in the store, then serve or talk."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.store.artifacts import Store
from pipelines.store.runs import resolve
from serve.gateway import asgi
from serve.hosting import artifacts
from serve.settings import Settings

USUAL = "http://127.0.0.1:8000"


def serve(settings: Settings, *, as_json: bool = False) -> None:
    """`rayse serve`: until Ctrl-C or SIGTERM."""
    from serve.hosting.app import host

    def ready(url: str, ready_s: float) -> None:
        if as_json:
            print(json.dumps({"url": url, "ready_s": round(ready_s, 1), "model": settings.name}), flush=True)
            return
        print(
            f"{settings.name} answers after {ready_s:.0f} s\n  chat page    {url}\n  OpenAI API   {url}/v1", flush=True
        )
        print("Ctrl-C stops it", flush=True)

    settings = settings.check()
    print(f"starting {settings.name} ({settings.model})", file=sys.stderr)
    host(settings, ready=ready, say=lambda text: print(text, file=sys.stderr, flush=True))
    print("stopped", file=sys.stderr)


def chat(settings: Callable[[], Settings] | None, url: str | None, key: str | None, **options: Any) -> None:
    """`rayse chat`: with the server at `url`; else with one of its own, which `settings` describe; where these are
    None, with the one that answers at the usual place."""
    from serve.client import Client
    from serve.hosting.server import start
    from serve.verbs.chat import talk

    if url is not None or settings is None:
        talk(Client(url or USUAL, key), **options)
        return
    own = settings()
    print(f"starting {own.name}; about half a minute", file=sys.stderr, flush=True)
    with start(own) as server:
        talk(Client(server.url, own.key), **options)


def answers(url: str = USUAL) -> bool:
    """Whether a server of ours is ready there."""
    try:
        with asgi.open_here(f"{url}/health", 2) as found:
            return json.loads(found.read())["status"] == "ready"
    except (OSError, HTTPException, ValueError, KeyError, TypeError):  # nobody, or somebody else
        return False


def settings_of(store: Store, name: str | None, **options: Any) -> Settings:
    """Settings for a model or a trial of the store. name: as `rayse export` takes it; by default the newest there is.

    options: what was asked for on the command line; None leaves it to the trial, or to its default."""
    asked = resolve(store, name) if name else artifacts.newest(store)
    serving = artifacts.serving_of(store, asked)
    model = artifacts.held(store, artifacts.MODEL, serving.model)
    if asked.kind == artifacts.MODEL and model.fingerprint != asked.fingerprint:
        told = f"{asked.manifest.name}: the model it was made of is the better one to serve here, {model.manifest.name}"
        print(told, file=sys.stderr)
    guard = artifacts.held(store, artifacts.GUARD, serving.guard) if serving.guard else None
    given = {option: value for option, value in options.items() if value is not None}
    return artifacts.settings(
        model, guard, store.root / "cache", feedback=store.root / "feedback.sqlite", **{**serving.told, **given}
    )


def read_key(key: str | None, file: Path | None) -> str | None:
    """The key, from a flag or the first line of a file. Raises UserError."""
    if file is None:
        return key
    if key is not None:
        raise UserError("--key and --key-file: give one of them")
    try:
        found = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--key-file {file}: cannot be read ({error})") from None
    if not found or not found[0].strip():
        raise UserError(f"--key-file {file}: empty; expected the key in its first line")
    return found[0].strip()
