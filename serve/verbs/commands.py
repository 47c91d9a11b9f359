"""The verbs `rayse serve` and `rayse chat`: load settings from the store, then host the model or talk to it."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.store import aliases
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.runs import resolve
from serve.client import Client
from serve.gateway import asgi
from serve.gateway.database import DatabaseError, open_database
from serve.hosting import artifacts, emit
from serve.settings import FEEDBACK_FILE, GuardEndpoint, NamedKey, Replicas, Settings
from serve.verbs.chat import talk
from serve.verbs.promote import parse_canary

NAME_AND_DIGEST = re.compile(r"[^\s:]*:[0-9a-fA-F]{64}")  # with a colon, as other programs write them
DEFAULT_URL = "http://127.0.0.1:8000"


def serve(
    store: Store,
    names: list[str],
    *,
    canary: str | None = None,
    replicas: str = "1",
    file: Path | None = None,
    as_json: bool = False,
    **options: Any,
) -> None:
    """`rayse serve`: hosts models until Ctrl-C or SIGTERM, or writes their Serve config to a file.

    names, canary, options: as load_service takes them. Where the first name is an alias and is moved, settings are
    loaded anew and take over. as_json: report readiness as one line of JSON."""
    scale = Replicas.parse(replicas)
    _check_shared_feedback("--emit" if file is not None else "--address" if options.get("address") else None, options)

    def load() -> Settings:
        return load_service(store, names, canary, replicas=scale, **options)

    follow = Follower(store, names[0] if names else "", load)
    settings = load().check()
    if file is not None:
        emit.write(settings, file)
        print(f"{file}: deploy it with `serve deploy {file}`, or as serveConfigV2 of a RayService", file=sys.stderr)
        return
    _check_database(settings)
    for model in settings.models:
        print(f"starting {model.name} ({model.model})", file=sys.stderr)
    _host(store, settings, follow, as_json)


def _host(store: Store, settings: Settings, follow: Callable[[], Settings | None], as_json: bool) -> None:
    from serve.hosting.app import host

    def report_ready(url: str, ready_s: float) -> None:
        if as_json:
            print(json.dumps({"url": url, "ready_s": round(ready_s, 1), "model": settings.name}), flush=True)
            return
        print(f"{settings.name} is ready after {ready_s:.0f} s\n  chat page    {url}\n  OpenAI API   {url}/v1")
        print("Ctrl-C stops it", flush=True)

    def record(action: str, evidence: dict[str, Any]) -> None:
        aliases.keep(store, settings.name, action, fingerprint=evidence["version"], before=evidence["serving"],
                     reason=evidence["reason"], evidence=evidence)  # fmt: skip

    log = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    host(settings, on_ready=report_ready, log=log, follow=follow, record=record)
    print("stopped", file=sys.stderr)


class Follower:
    """Called without arguments: the settings that `load` makes, where an alias was moved since it last did.

    UserError of `load`: what the alias names now cannot be served, and is not tried again. Of any other error, such as
    of the store, the next call tries again."""

    def __init__(self, store: Store, alias: str, load: Callable[[], Settings]):
        self._store, self._alias, self._load = store, alias, load
        self._fingerprint = self._current()

    def __call__(self) -> Settings | None:
        current = self._current()
        if current == self._fingerprint:
            return None
        try:
            settings = self._load()
        except UserError:
            self._fingerprint = current
            raise
        self._fingerprint = current
        return settings

    def _current(self) -> str:
        alias = aliases.read(self._store, self._alias)
        return alias.fingerprint if alias else ""


def _check_shared_feedback(cluster_option: str | None, options: dict[str, Any]) -> None:
    """Raises UserError for a server on a cluster whose nodes would each store feedback in a file."""
    if cluster_option is not None and options.get("feedback_url") is None:
        raise UserError(f"{cluster_option}: without --feedback each node would store feedback, and count requests of "
                        f"keys, in a SQLite file that the others do not see; expected --feedback "
                        f"postgresql://USER@HOST:PORT/DATABASE, a database that all nodes reach")  # fmt: skip


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


def watch(url: str | None, key: str | None, *, interval_s: float, once: bool, as_json: bool) -> None:
    """`rayse top`: watches the server at `url`, by default DEFAULT_URL, until Ctrl-C."""
    from serve.verbs.top import top

    top(Client(url or DEFAULT_URL, key), interval_s=interval_s, once=once, as_json=as_json)


def is_ready(url: str = DEFAULT_URL) -> bool:
    """Whether one of our servers is ready at a URL of this machine."""
    try:
        with asgi.open_local(f"{url}/health", timeout_s=2) as response:
            return json.loads(response.read())["status"] == "ready"
    except (OSError, HTTPException, ValueError, KeyError, TypeError):  # no server, or another program
        return False


def load_settings(
    store: Store, name: str | None, *, knowledge: str | None = None, no_knowledge: bool = False, **options: Any
) -> Settings:
    """Settings of a server for a model or a trial of the store.

    name: as `rayse export` takes it; default: the newest. knowledge: name of the documents to answer from, by default
    those of the model's run; no_knowledge: none. options: settings from the command line; None leaves a
    setting to the trial, or to its default."""
    requested = resolve(store, name) if name else artifacts.newest(store)
    spec = artifacts.serving_spec(store, requested)
    model = artifacts.require(store, artifacts.MODEL, spec.model)
    if requested.kind == artifacts.MODEL and model.fingerprint != requested.fingerprint:
        print(f"{requested.manifest.name}: serving its original, {model.manifest.name}, which was the better one when "
              f"it was quantised", file=sys.stderr)  # fmt: skip
    guard = artifacts.require(store, artifacts.GUARD, spec.guard) if spec.guard else None
    documents = artifacts.knowledge_settings(_knowledge(store, knowledge, spec.knowledge, leave_out=no_knowledge))
    requested_options = {option: value for option, value in options.items() if value is not None}
    if name and aliases.read(store, name) is not None:  # clients keep one name for all versions
        requested_options.setdefault("name", name)
    return artifacts.settings(
        model, guard, store.root / "cache", feedback=store.root / FEEDBACK_FILE, store=store.location,
        **{**spec.settings, **documents, **requested_options},
    )  # fmt: skip


def _knowledge(store: Store, name: str | None, of_model: str | None, *, leave_out: bool) -> Artifact | None:
    """The documents that a server answers from. of_model: those of the trial or of the model's run."""
    if leave_out and name is not None:
        raise UserError(f"--knowledge {name}: not together with --no-knowledge; leave one of them out")
    if name is not None:
        artifact = resolve(store, name)
        if artifact.kind != artifacts.KNOWLEDGE:
            raise UserError(f"--knowledge {name}: is of kind {artifact.kind}; expected documents that the stage "
                            f"knowledge made. `rayse ls` lists the artifacts of the store")  # fmt: skip
        return artifact
    return artifacts.require(store, artifacts.KNOWLEDGE, of_model) if of_model and not leave_out else None


def load_service(store: Store, names: list[str], canary: str | None, **options: Any) -> Settings:
    """Settings of a server for several models, the first of which answers requests that name none.

    names: as load_settings takes one; canary: `NAME:SHARE`, another version of the first model. options: of all."""
    first, *others = [load_settings(store, name, **options) for name in names or [None]]
    if canary is not None:
        name, share = parse_canary(canary)
        others.append(load_settings(store, name, **options).model_copy(update={"name": first.name, "canary": share}))
    return first.model_copy(update={"others": tuple(others)})


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


def read_guard_endpoint(url: str | None, model: str | None, failure: str, *, guard: bool) -> GuardEndpoint | None:
    """The setting `guard_endpoint` of a server, with the key of the environment variable RAYSE_GUARD_KEY, if it is set.

    Raises UserError for one option without the other, a value that is none, and a model of no known family."""
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise UserError("--guard-endpoint and --guard-model: expected both, got one; they name a model and where it is")
    if not guard:
        raise UserError("--guard-endpoint: not together with --no-guard, which checks nothing; leave one out")
    from serve.gateway.guard_model import GUARD_KEY_ENV, family_of

    family_of(model)
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
