"""The verbs `rayse serve`, `rayse chat` and `rayse top`: load settings from the store, then host the model, talk to it
or watch it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.store import aliases
from pipelines.store.aliases import DamagedRecord
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.runs import resolve
from serve.client import Client
from serve.gateway import asgi
from serve.gateway.database import DatabaseError, open_database
from serve.hosting import adapters, artifacts, emit
from serve.options import NONE, ServeCluster
from serve.settings import Settings, feedback_place, is_path
from serve.verbs.chat import talk
from serve.verbs.promote import parse_canary, take_back
from serve.verbs.service import combined, load_options

DEFAULT_URL = "http://127.0.0.1:8000"


def serve(store: Store, flags: Mapping[str, Any], *, recipe: ServeCluster | None = None, folder: Path = Path()) -> None:
    """`rayse serve`: hosts models until Ctrl-C or SIGTERM, or writes their Serve config to a file.

    flags, recipe, folder: as service.combined takes them. Where a name that it hosts is an alias and is moved, settings
    are loaded anew and take over."""
    options, file = combined(flags, recipe, folder), flags.get("emit")
    _check_shared_feedback("--emit" if file is not None else "--address" if options.address else None, options)

    loaded = load_options(options, flags)  # once: keys stay what they are while aliases move

    def load() -> Settings:
        return load_service(store, options.models, options.canary, options.adapters, **loaded)

    canary = [parse_canary(options.canary)[0]] if options.canary else []
    guard = [loaded["guard_model"].model] if loaded.get("guard_model") else []
    follow = Follower(store, [*options.models, *canary, *options.adapters.values(), *guard], load)
    settings = load().check()
    if file is not None:
        emit.write(settings, file)
        print(f"{file}: deploy it with `serve deploy {file}`, or as serveConfigV2 of a RayService", file=sys.stderr)
        if reach := emit.reach(settings):
            print(f"{file}: {reach}", file=sys.stderr)
        return
    _check_database(settings)
    if flags.get("resume_canary"):
        settings = resume_canary(store, settings, options.canary)
    for model in settings.models:
        of = f", an adapter of {model.adapter_of}" if model.adapter_of else ""
        print(f"starting {model.name} ({model.model}){of}", file=sys.stderr)
        if model.adapter_of and (note := adapters.note(store, model)):
            print(note, file=sys.stderr)
        if model.canary_stopped:
            print(f"{model.name}: its canary {model.version} was stopped, and gets no request; expected another "
                  f"version in --canary, none, or --resume-canary", file=sys.stderr)  # fmt: skip
    _host(store, settings, follow, bool(flags.get("as_json")))


def resume_canary(store: Store, settings: Settings, canary: str | None) -> Settings:
    """The settings with a share for the canary again, where it was stopped; keeps the decision."""
    if canary is None:
        raise UserError("--resume-canary: no canary to resume; expected --canary NAME:SHARE too")
    others = list(settings.others)
    for index, model in enumerate(others):
        if model.canary_stopped:
            aliases.keep(store, model.name, "canary_resumed", fingerprint=model.version, before=settings.version,
                         reason="--resume-canary", evidence={"variant": model.variant})  # fmt: skip
            others[index] = model.model_copy(update={"canary_stopped": False})
    return settings.model_copy(update={"others": tuple(others)})


def _host(store: Store, settings: Settings, follow: Callable[[], Settings | None], as_json: bool) -> None:
    from serve.hosting.app import host

    def report_ready(url: str, ready_s: float) -> None:
        if as_json:
            print(json.dumps({"url": url, "ready_s": round(ready_s, 1), "model": settings.name}), flush=True)
            return
        print(f"{settings.name} is ready after {ready_s:.0f} s\n  chat page    {url}\n  OpenAI API   {url}/v1")
        print("Ctrl-C stops it", flush=True)

    def record(action: str, evidence: dict[str, Any]) -> None:
        aliases.keep(store, evidence["model"], action, fingerprint=evidence["version"], before=evidence["serving"],
                     reason=evidence["reason"], evidence=evidence)  # fmt: skip

    log = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    host(settings, on_ready=report_ready, log=log, follow=follow, record=record, roll_back=partial(take_back, store))
    print("stopped", file=sys.stderr)


class Follower:
    """Called without arguments: the settings that `load` makes, where one of the aliases was moved since it last did.

    names: those that may be aliases.

    UserError of `load`: what the alias names now cannot be served: kept as a decision, and not tried again. Of any
    other error, such as of the store or of a damaged record in it, the next call tries again."""

    def __init__(self, store: Store, names: Sequence[str], load: Callable[[], Settings]):
        self._store, self._names, self._load = store, list(names), load
        self._fingerprints = self._current()

    def __call__(self) -> Settings | None:
        current = self._current()
        if current == self._fingerprints:
            return None
        try:
            settings = self._load()
        except DamagedRecord:  # of the canary's decisions, for instance
            raise
        except UserError as error:
            self._keep(current, str(error))
            self._fingerprints = current
            raise
        self._fingerprints = current
        return settings

    def _keep(self, current: Sequence[str], reason: str) -> None:
        """Keeps the decision that what aliases name now is not served."""
        for name, before, now in zip(self._names, self._fingerprints, current, strict=True):
            if before != now:
                evidence = {"model": name, "version": now, "serving": before, "reason": reason}
                aliases.keep(self._store, name, "not_started", fingerprint=now, before=before, reason=reason,
                             evidence=evidence)  # fmt: skip

    def _current(self) -> list[str]:
        """The fingerprints of the names; empty ones for those that are no alias."""
        read = (aliases.read(self._store, name) for name in self._names)
        return [alias.fingerprint if alias else "" for alias in read]


def _check_shared_feedback(cluster_option: str | None, options: ServeCluster) -> None:
    """Raises UserError for a server on a cluster whose nodes would each store feedback in a file."""
    if cluster_option is not None and (options.feedback is None or is_path(options.feedback)):
        raise UserError(f"{cluster_option}: without a database in --feedback each node would store feedback, and count "
                        f"requests of keys, in a SQLite file that the others do not see; expected --feedback "
                        f"postgresql://USER@HOST:PORT/DATABASE, a database that all nodes reach, or --feedback none, "
                        f"which stores none")  # fmt: skip


def _check_database(settings: Settings) -> None:
    """Raises ClusterError where the database of feedback cannot be reached: before a model is loaded."""
    if settings.feedback is None:
        return
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
    setting to the trial, or to its default; `feedback_url` is what --feedback says: a URL, a path, or `none`."""
    requested = resolve(store, name) if name else artifacts.newest(store)
    spec = artifacts.serving_spec(store, requested)
    model = artifacts.require(store, artifacts.MODEL, spec.model)
    if requested.kind == artifacts.MODEL and model.fingerprint != requested.fingerprint:
        print(f"{requested.manifest.name}: serving its original, {model.manifest.name}, which was the better one when "
              f"it was quantised", file=sys.stderr)  # fmt: skip
    guard = artifacts.require(store, artifacts.GUARD, spec.guard) if spec.guard else None
    hosting = options.pop("guard_model", None)
    if hosting is not None:
        options["guard_model"] = artifacts.hosted_guard(store, hosting)
    documents = artifacts.knowledge_settings(_knowledge(store, knowledge, spec.knowledge, leave_out=no_knowledge))
    requested_options = {option: value for option, value in options.items() if value is not None}
    feedback, url = None, None
    if (said := requested_options.pop("feedback_url", None)) != NONE:
        feedback, url = feedback_place(store.root, said)
    if name and aliases.read(store, name) is not None:  # clients keep one name for all versions
        requested_options = {"name": name, **requested_options, "alias": name, "artifact": requested.fingerprint}
    return artifacts.settings(
        model, guard, store.root / "cache", store=store.location,
        feedback=feedback, feedback_url=url,
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


def load_service(
    store: Store, names: Sequence[str], canary: str | None, adapter_names: Mapping[str, str], **options: Any
) -> Settings:
    """Settings of a server for several models, the first of which answers requests that name none.

    names: as load_settings takes one; canary: `NAME:SHARE`, another version of the first model, which gets no request
    where the store's decisions say that it was stopped; adapter_names: those of the first model, by their names in the
    API. options: of all."""
    first, *others = [load_settings(store, name, **options) for name in names or [None]]
    if canary is not None:
        name, share = parse_canary(canary)
        loaded = load_settings(store, name, **options)
        is_stopped = aliases.stopped_canary(store, first.name, loaded.version, loaded.variant) is not None
        placed = {"name": first.name, "canary": share, "canary_stopped": is_stopped}
        others.append(loaded.model_copy(update=placed))
    for name, artifact in adapter_names.items():
        adapter = load_settings(store, artifact, **options).model_copy(update={"name": name})
        others.append(adapters.adapted(store, first, adapter))
    return first.model_copy(update={"others": tuple(others)})
