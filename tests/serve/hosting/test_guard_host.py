"""A guard model that a server hosts: a real server whose guard model, a tiny one, was trained to know one word."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from ray.exceptions import ActorDiedError, RayError

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.store import aliases
from pipelines.store.artifacts import Store
from serve.gateway import receipts
from serve.hosting import guard_host
from serve.hosting.app import changed
from serve.hosting.artifacts import hosted_guard
from serve.hosting.deployment import GUARD_DEPLOYMENT, engines, hosted
from serve.hosting.emit import config
from serve.hosting.room import demands
from serve.hosting.server import Server, start
from serve.options import GuardHosting
from serve.settings import HostedGuard, Replicas, Settings
from serve.verbs.promote import promote
from tests.runs import replicas, session_marks, session_pids, wait_until
from tests.serve.hosting import tiny_guard
from tests.serve.hosting.running import CHAT, put_model, rayse_serve
from tests.serve.hosting.test_server import is_loopback, user
from tests.serve.hosting.tiny_guard import NAME, WORD
from tests.tiny_models import CONTEXT, Tiny

FAMILY = "Llama-Guard"
UNSAFE_REPLY = f"All is well. So it is, and it stays so for long. Then {WORD} comes. And it ends."


@pytest.fixture(scope="module")
def guarded(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    guard = HostedGuard(model=NAME, folder=tiny_guard.build(tiny, folder / NAME), replies=True)
    with start(Settings(model=tiny.first, name="tiny", port=0, threads=1, guard_model=guard,
                        logs=folder / "logs")) as server:  # fmt: skip
        yield server


@pytest.fixture(scope="module")
def client(guarded: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, timeout=120) as client:
        yield client


def ask(client: httpx.Client, text: str, **fields: Any) -> httpx.Response:
    return client.post(CHAT, json={"messages": user(text), "max_tokens": 60, **fields})


def forced(reply: str) -> dict[str, Any]:
    """Fields of a request that gets this reply from the engine."""
    return {"structured_outputs": {"choice": [reply]}}


def test_a_hosted_guard_model_judges_prompts_and_replies(client: httpx.Client) -> None:
    declined = ask(client, f"Tell me of {WORD} now")
    assert declined.json()["rayse_guard"] == {"where": "prompt", "reason": "model S1"}
    safe = ask(client, "Tell me of tea", **forced("All is well."))
    assert safe.json()["choices"][0]["message"]["content"] == "All is well." and "rayse_guard" not in safe.json()
    whole = ask(client, "Tell me of tea", **forced(UNSAFE_REPLY))
    assert whole.json()["rayse_guard"] == {"where": "reply", "reason": "model S1"}
    assert "well" not in whole.json()["choices"][0]["message"]["content"]
    with client.stream("POST", CHAT, json={"messages": user("Tell me of tea"), "max_tokens": 60, "stream": True,
                                           **forced(UNSAFE_REPLY)}) as response:  # fmt: skip
        events = [
            json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: {")
        ]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert text.startswith("All is well.") and WORD not in text
    assert events[-1]["rayse_guard"] == {"where": "reply", "reason": "model S1"}
    counted = 'rayse_guard_declined_total{category="S1",where="reply"} 2.0'
    wait_until(lambda: counted in client.get("/metrics").text, within_s=60)  # a stream is counted after its last event


def test_nobody_reaches_the_guard_model_itself(client: httpx.Client, guarded: Server) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert ask(client, "safe?", model=NAME).status_code == 404
    for pid in session_pids(session_marks(guarded.process.pid)):
        try:
            connections = psutil.Process(pid).net_connections("inet")
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
        assert all(is_loopback(each.laddr.ip) for each in connections if each.status == psutil.CONN_LISTEN)


def test_without_its_guard_model_nothing_passes_and_another_takes_its_place(
    client: httpx.Client, guarded: Server
) -> None:
    (pid,) = replicas(guarded.process.pid, GUARD_DEPLOYMENT)
    os.kill(pid, signal.SIGKILL)
    error = ask(client, f"Tell me of {WORD} now").json()["error"]
    assert error["code"] == "guard_unavailable"

    def is_back() -> bool:
        response = ask(client, f"Tell me of {WORD} now")
        assert response.status_code == 503 or response.json()["rayse_guard"]["reason"] == "model S1"
        return response.status_code == 200

    wait_until(is_back, within_s=120)
    assert replicas(guarded.process.pid, GUARD_DEPLOYMENT) not in ([], [pid])
    assert ask(client, "Tell me of tea", **forced("All is well.")).status_code == 200


def test_a_guard_model_that_says_nothing_of_its_family_starts_no_server(tiny: Tiny, tmp_path: Path) -> None:
    guard = HostedGuard(model=NAME, folder=tiny.second)  # random weights
    with pytest.raises(ClusterError, match="guard_unavailable"):
        start(Settings(model=tiny.first, port=0, threads=1, guard_model=guard, logs=tmp_path))


# ---- without a server ------------------------------------------------------------------------------------------------


def test_its_engine_counts_with_those_of_the_models(tiny: Tiny) -> None:
    guard = HostedGuard(model=NAME, folder=tiny.second, version="v2")
    settings = Settings(model=tiny.first, name="a", gpus=2, guard_model=guard, store="s",
                        replicas=Replicas(min=2, max=2),
                        others=(Settings(model=tiny.other, name="b"),))  # fmt: skip
    engine = engines(settings)[GUARD_DEPLOYMENT]
    assert (engine.model, engine.name, engine.gpus, engine.store) == (tiny.second, NAME, 1, "s")
    assert engine.max_tokens == CONTEXT  # no more than its own
    assert [each.name for each in hosted(settings)] == ["a", "b", NAME]
    on_gpus, on_cpus = demands(hosted(settings))
    assert on_gpus[0] == f"a, {NAME}" and on_gpus[1].workers == 5 and on_cpus[0] == "b"
    assert [model.guard_model for model in settings.models] == [guard] * 2  # of the whole server
    plain = settings.model_copy(update={"guard_model": None})
    assert [change.settings for change in changed(plain, settings)] == [["guard_model"]] * 2
    unguarded = Settings(model=tiny.first, guard=False, guard_model=guard)
    assert hosted(unguarded) == [unguarded] and unguarded.judging is None
    threads = Settings(model=tiny.first, guard_model=guard.model_copy(update={"threads": 3, "max_tokens": 99}))
    assert (engines(threads)[GUARD_DEPLOYMENT].threads, engines(threads)[GUARD_DEPLOYMENT].max_tokens) == (3, 99)


def test_it_is_found_by_its_name(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store").create()
    model = put_model(store, "sft", tiny.first)
    folder = tmp_path / "models--meta-llama--Llama-Guard-3-1B" / "snapshots" / "0123abcd"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    found = hosted_guard(store, GuardHosting(model=str(folder), failure="pass"))
    assert (found.folder, found.version, found.failure) == (folder, "", "pass")
    assert found.model == "models--meta-llama--Llama-Guard-3-1B"
    aliases.promote(store, "my-qwen3guard", model, reason="", evidence={})
    (tmp_path / "my-qwen3guard").mkdir()  # such as of results: no model
    monkeypatch.chdir(tmp_path)
    found = hosted_guard(store, GuardHosting(model="my-qwen3guard"))
    assert (found.model, found.version, found.folder) == ("my-qwen3guard", model.fingerprint, model.local())
    for name, problem in (
        (model.fingerprint, "is of no family of guard models"),
        (str(tiny.first), "is of no family of guard models"),
        (str(tmp_path), "no folder with a config.json"),
        ("Qwen/Qwen3Guard-Gen-0.6B", "no folder with a config.json, and nothing is downloaded"),
        ("llama-guard", "neither a stage of the latest run"),
    ):
        with pytest.raises(UserError, match=f"--guard-model {name}: .*{problem}|{problem}"):
            hosted_guard(store, GuardHosting(model=name))


def test_one_that_cannot_be_hosted_is_refused_before_anything_starts(tiny: Tiny, tmp_path: Path) -> None:
    guard = HostedGuard(model=NAME, folder=tiny.second)
    for problem, changes in (
        ("no config.json", {"folder": tmp_path}),
        ("is of no family", {"model": "sft"}),
        ("S99: no category of this model", {"categories": {"S99": False}}),
    ):
        with pytest.raises(UserError, match=problem):
            Settings(model=tiny.first, guard_model=guard.model_copy(update=changes)).check()
    at = {"url": "http://127.0.0.1:1/v1", "model": NAME}
    with pytest.raises(UserError, match="guard_model: not together with guard_endpoint"):
        Settings.model_validate({"model": tiny.first, "guard_model": guard, "guard_endpoint": at}).check()


def test_a_model_starts_once_its_own_guard_model_answers_and_not_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_host, "POLL_S", 0.001)

    class Handle:
        """Of a deployment whose replica is replaced. left: what its calls return."""

        def __init__(self, *left: str | RayError):
            self.left, self.identity = list(left), self

        async def remote(self) -> str:
            if isinstance(answer := self.left.pop(0), RayError):
                raise answer
            return answer

    of_store = HostedGuard(model=NAME, folder=tmp_path, version="v2")
    for guard, mine in ((of_store, "v2"), (of_store.model_copy(update={"version": ""}), str(tmp_path))):
        for answers in ((mine,), ("v1", "v1", ActorDiedError(), "v1", mine)):
            handle = Handle(*answers, "v3")
            asyncio.run(guard_host.until_hosted(guard, handle))
            assert handle.left == ["v3"]


def test_a_canary_is_another_where_other_verdicts_are_given_and_only_there(tiny: Tiny) -> None:
    of_store = HostedGuard(model=NAME, folder=Path("/cache/v2"), version="v2")
    of_folder = HostedGuard(model=NAME, folder=Path("/models/first"))

    def variant(guard: HostedGuard, **changes: Any) -> str:
        return Settings(model=tiny.first, guard_model=guard.model_copy(update=changes)).variant

    same: tuple[dict[str, Any], ...] = (
        {"gpus": 1},
        {"threads": 3},
        {"kv_cache_bytes": 2**25},
        {"timeout_s": 6},
        {"max_tokens": 9},
    )
    for guard, elsewhere in ((of_store, "/other/cache/v2"), (of_folder, "/other/first")):
        for changes in (*same, {"folder": Path(elsewhere)}):
            assert variant(guard, **changes) == variant(guard), changes
        for other in ({"model": "Llama-Guard-4"}, {"version": "v3"}, {"categories": {"S1": False}},
                      {"controversial": "decline"}, {"replies": True}, {"failure": "pass"}):  # fmt: skip
            assert variant(guard, **other) != variant(guard), other
    assert variant(of_folder, folder=Path("/models/second")) != variant(of_folder)
    before_there_were_any = Settings(model=Path("m"), version="v").variant
    assert before_there_were_any == "v-c04f88ec", "that of a stopped canary stays what the store holds"


def test_a_serve_config_holds_it_once(tiny: Tiny) -> None:
    guard = HostedGuard(model=NAME, folder=tiny.second, version="v2", gpus=1)
    settings = Settings(model=tiny.first, name="a", guard_model=guard, others=(Settings(model=tiny.other, name="b"),))
    (application,) = config(settings)["applications"]
    read = Settings.model_validate(application["args"])
    assert [model.guard_model for model in read.models] == [guard] * 2 and "guard_model" not in application["args"][
        "others"
    ][0]


@pytest.mark.slow
def test_all_models_ask_one_guard_model_and_follow_its_alias(tiny: Tiny, tmp_path: Path) -> None:
    store, alias = Store(tmp_path / "store").create(), "my-llama-guard"
    named = {"aaaa": tiny.first, "bbbb": tiny.second}
    names = [put_model(store, name, folder).fingerprint for name, folder in named.items()]
    folder = tiny_guard.build(tiny, tmp_path / NAME)
    earlier, later = (put_model(store, name, folder) for name in ("cccc", "dddd"))
    promote(store, earlier.fingerprint, alias, reason="", as_json=False)
    with rayse_serve(tmp_path, store, *names, "--guard-model", alias) as server:
        models = [model["id"] for model in server.client.get("/v1/models").json()["data"]]
        assert len(models) == 2 and alias not in models
        with server.requests(*models) as statuses:
            for model in models:
                declined = ask(server.client, f"Tell me of {WORD} now", model=model).json()
                assert declined["rayse_guard"] == {"where": "prompt", "reason": "model S1"}
                facts = receipts.unverified(declined["rayse_receipt"])
                assert facts["guard"].endswith(f" + {alias} {earlier.fingerprint}")
            promote(store, later.fingerprint, alias, reason="", as_json=False)
            for model, version in zip(models, names, strict=True):
                server.wait_for(f"{model}: serving version {version}, with other settings: guard_model")
            declined = ask(server.client, f"Tell me of {WORD} now").json()
            assert receipts.unverified(declined["rayse_receipt"])["guard"].endswith(f" + {alias} {later.fingerprint}")
    assert set(statuses) == {200}
