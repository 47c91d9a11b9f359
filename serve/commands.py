"""What `rayse serve` and `rayse chat` do: find the model and its guard in the store, then serve or talk."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.runs import latest, resolve
from pipelines.store import Artifact, Store
from serve.settings import Settings

MODEL = "model"
USUAL = "http://127.0.0.1:8000"


def serve(settings: Settings, *, as_json: bool = False) -> None:
    """`rayse serve`: until Ctrl-C or SIGTERM."""
    from serve.app import host

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
    from serve.chat import Client, talk
    from serve.server import start

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
        with urllib.request.urlopen(f"{url}/health", timeout=2) as found:
            return found.status == 200
    except OSError:  # URLError and HTTPError are
        return False


def settings_of(store: Store, name: str | None, **options: Any) -> Settings:
    """Settings for a model of the store. name: as `rayse export` takes it; by default the newest model there is."""
    artifact = resolve(store, name) if name else newest_model(store)
    if artifact.kind != MODEL:
        raise UserError(f"{name}: is of kind {artifact.kind}; expected a model. `rayse ls` lists what the store holds")
    guard = nearest_guard(store, artifact)
    return Settings(
        model=artifact.local(),
        name=artifact.manifest.name,
        version=artifact.fingerprint,
        guard_folder=guard.local() if guard else None,
        feedback=store.root / "feedback.sqlite",
        logs=store.root / "cache" / "logs",
        cache=store.root / "cache",
        **{option: value for option, value in options.items() if value is not None},
    )


def newest_model(store: Store) -> Artifact:
    """The last model of the latest run, else the newest of the store. Raises UserError where there is none."""
    if any((store.root / "runs").glob("*.json")):
        for stage in reversed(latest(store).stages.values()):
            found = store.find(MODEL, stage.fingerprint) if stage.makes == MODEL else None
            if found is not None:
                return found
    models = [artifact for artifact in store.artifacts() if artifact.kind == MODEL]
    if not models:
        raise UserError(f"store {store.root}: no model yet; make one with `rayse run RECIPE --store {store.root}`")
    return models[-1]


def nearest_guard(store: Store, model: Artifact) -> Artifact | None:
    """The guard of the latest run, if that run made this model; else the newest of the store, if there is one."""
    if any((store.root / "runs").glob("*.json")):
        stages = latest(store).stages.values()
        if any(stage.fingerprint == model.fingerprint for stage in stages):
            for stage in reversed(stages):
                found = store.find("guard", stage.fingerprint) if stage.makes == "guard" else None
                if found is not None:
                    return found
    guards = [artifact for artifact in store.artifacts() if artifact.kind == "guard"]
    return guards[-1] if guards else None


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
