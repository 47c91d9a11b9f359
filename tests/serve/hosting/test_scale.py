"""Several replicas, several models, another version while requests run: real servers, each for several promises."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Route, expect

from pipelines.data.tokens.chat import Chat
from pipelines.store import aliases
from pipelines.store.artifacts import Artifact, Manifest, Store
from serve.client import Client
from serve.gateway.conversation import Message
from serve.hosting.artifacts import ServingSpec
from serve.hosting.server import Server, start
from serve.settings import CanaryRules, Limits, NamedKey, Replicas, Settings
from serve.verbs.chat import whole_reply
from serve.verbs.promote import promote, rollback
from tests.runs import replicas
from tests.serve.gateway.browser import PROGRAM, browser
from tests.serve.gateway.test_gateway import check_error
from tests.serve.gateway.test_page import LAST
from tests.serve.hosting.running import CHAT, body, put_model, rayse_serve
from tests.tiny_models import Tiny

pytestmark = pytest.mark.slow
LONG_CONTEXT = 2048  # a stream of some seconds


def open_client(server: Server, key: str = "") -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=server.url, headers=headers, timeout=120)


# ---- two replicas of one model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model `first` with a long context."""
    folder = shutil.copytree(tiny.first, tmp_path_factory.mktemp("long") / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = LONG_CONTEXT
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def two(long: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without a guard, so that a stream shows its text from the first token on."""
    folder = tmp_path_factory.mktemp("two")
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("ana", "ben")}
    keys = (NamedKey(name="ana", sha256=digests["ana"], per_day=20), NamedKey(name="ben", sha256=digests["ben"]))
    settings = Settings(model=long, name="tiny", version="v1", port=0, threads=1, key="server", keys=keys, guard=False,
                        feedback=folder / "feedback.sqlite", replicas=Replicas(min=2, max=2))  # fmt: skip
    with start(settings) as server:
        yield server


def test_metrics_name_the_replica_and_requests_reach_both(two: Server) -> None:
    with open_client(two, "ben") as client, ThreadPoolExecutor(8) as pool:
        before = counted_chats(client)  # those of the readiness probe
        statuses = list(pool.map(lambda _: client.post(CHAT, json=body()).status_code, range(40)))
        assert statuses == [200] * 40
        counts = counted_chats(client)
    assert len(counts) == 2 and sum(counts.values()) - sum(before.values()) == 40
    assert all(count > before.get(replica, 0) for replica, count in counts.items())


def counted_chats(client: httpx.Client) -> dict[str, float]:
    """Requests of chats by replica, as /metrics has them."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("rayse_requests_total{")]
    counts: dict[str, float] = {}
    for line in lines:
        if 'route="/v1/chat/completions"' in line:
            replica = line.split('replica="')[1].split('"')[0]
            counts[replica] = counts.get(replica, 0) + float(line.rpartition(" ")[2])
    return counts


def test_a_keys_limit_counts_the_requests_of_all_replicas(two: Server) -> None:
    with open_client(two, "ana") as client, ThreadPoolExecutor(8) as pool:
        statuses = Counter(pool.map(lambda _: client.post(CHAT, json=body(max_tokens=1)).status_code, range(30)))
    assert statuses == {200: 20, 429: 10}


def test_any_replica_takes_feedback_on_a_reply_of_the_other(two: Server) -> None:
    with open_client(two, "ben") as client:
        for number in range(6):
            reply = client.post(CHAT, json=body(f"Question {number}")).json()
            by_id = client.post("/feedback", json={"reply_id": reply["id"], "thumb": "up"})
            by_receipt = client.post("/feedback", json={"receipt": reply["rayse_receipt"], "thumb": "down"})
            assert (by_id.status_code, by_receipt.status_code) == (200, 200), by_id.text + by_receipt.text
        check_error(client.post("/feedback", json={"reply_id": "chatcmpl-none", "thumb": "up"}), 404, "reply_not_found")


def test_a_replica_that_is_killed_fails_no_request_that_it_has_not_answered(two: Server) -> None:
    """After the tests above, which ask for what that replica remembers."""
    stopped = replicas(two.process.pid, "Replica")[0]
    os.kill(stopped, signal.SIGSTOP)  # it takes requests, and answers none
    with open_client(two, "ben") as client, ThreadPoolExecutor(8) as pool:
        try:
            responses = [pool.submit(client.post, CHAT, json=body(stream=number % 2 == 1)) for number in range(8)]
            wait(responses, return_when=FIRST_COMPLETED)
            waiting = wait(responses, timeout=3).not_done
        finally:  # else the pool waits for it
            os.kill(stopped, signal.SIGKILL)
        assert waiting and [response.result().status_code for response in responses] == [200] * 8


def repeated(model: Path) -> tuple[str, dict[str, float]]:
    """A word of one token, and the bias by which a model writes nothing else, so that its replies, encoded again, are
    the tokens that it wrote."""
    encoder = Chat.open(model).encoder
    words = {number: encoder.tokenizer.decode([number]) for number in range(encoder.vocabulary)}
    lines = {number: [number] * 50 for number, word in words.items() if word.isascii() and word.isalpha()}
    number = next(number for number, line in lines.items() if encoder.encode([words[number] * 50])[0].tolist() == line)
    return words[number], {str(number): 100.0}


def wait_for_two(server: Server) -> None:
    """Waits until the front sends requests to the successor of a killed replica too."""
    with open_client(server, "ben") as client, ThreadPoolExecutor(8) as pool:
        while len(counted_chats(client)) < 2:
            failed = [each for each in pool.map(lambda _: client.post(CHAT, json=body()), range(8)) if each.is_error]
            assert failed == [], failed[0].text


def test_named_keys_are_counted_whichever_replica_has_ended(two: Server) -> None:
    """The first replica starts the actor that counts."""
    wait_for_two(two)
    for pid in replicas(two.process.pid, "Replica"):
        os.kill(pid, signal.SIGKILL)
        wait_for_two(two)


def kill_writing_replica(server: Server) -> None:
    """kill -9 of the replica that writes the only reply in flight: its processes take more time than the other's."""

    def cpu_s(pid: int) -> float:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = {pid: cpu_s(pid) for pid in replicas(server.process.pid, "Replica")}
    assert len(before) == 2
    time.sleep(0.3)
    os.kill(max(before, key=lambda pid: cpu_s(pid) - before[pid]), signal.SIGKILL)


def test_a_reply_goes_on_in_the_terminal_where_its_replica_is_killed(two: Server, long: Path) -> None:
    wait_for_two(two)
    num_tokens, (word, bias) = LONG_CONTEXT - 200, repeated(long)
    sent: list[Sequence[Message]] = []

    class Noting(Client):
        def reply(self, messages: Sequence[Message], **sampling: Any) -> Iterator[str]:
            sent.append(messages)
            return super().reply(messages, **sampling)

    prompt: list[Message] = [{"role": "user", "content": "Hello"}]
    chunks = whole_reply(Noting(two.url, "ben"), prompt, max_tokens=num_tokens, temperature=0, logit_bias=bias)
    text = next(chunk for chunk in chunks if chunk)
    kill_writing_replica(two)
    text += "".join(chunks)
    assert text == word * num_tokens, "nothing is lost, nothing doubled, and the limit is kept to"
    assert len(sent) == 2 and len(sent[1][-1]["content"]) > len(word)


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
def test_a_reply_goes_on_in_the_page_where_its_replica_is_killed(two: Server, long: Path) -> None:
    wait_for_two(two)
    num_tokens, (word, bias) = LONG_CONTEXT // 2, repeated(long)
    sent: list[dict[str, Any]] = []
    with browser() as (page, problems):
        page.goto(f"{two.url}/")
        expect(page.locator("#dialog")).to_be_visible()  # it asks for the key
        page.locator("#max_tokens").evaluate(f"e => {{ e.value = {num_tokens}; e.dispatchEvent(new Event('input')) }}")
        page.locator("#key").fill("ben")
        page.keyboard.press("Enter")
        expect(page.locator("#dialog")).to_be_hidden()
        expect(page.locator("#name")).to_have_text("tiny")
        expect(page.locator("#dot")).to_have_class("dot ready")

        def send_on(route: Route) -> None:
            sent.append(route.request.post_data_json or {})
            route.continue_(post_data=json.dumps(sent[-1] | {"logit_bias": bias}))

        page.route(f"**{CHAT}", send_on)
        problems.clear()  # the 401 without a key
        page.locator("#message").fill("Hello")
        page.keyboard.press("Enter")
        expect(page.locator(f"{LAST} .content")).to_contain_text(word)
        kill_writing_replica(two)
        expect(page.locator(f"{LAST}:not(.generating) .content")).to_have_text(word * num_tokens)
    assert len(sent) == 2 and sent[0]["max_tokens"] == num_tokens
    assert sent[1]["messages"] == [*sent[0]["messages"], sent[1]["messages"][-1]]
    # The browser itself logs the connection that was lost.
    assert all("Failed to load resource" in problem for problem in problems), problems


# ---- several models --------------------------------------------------------------------------------------------------


def test_models_are_chosen_by_name_and_a_canary_gets_its_share(tiny: Tiny, tmp_path: Path) -> None:
    others = (Settings(model=tiny.second, name="second", version="v2"),
              Settings(model=tiny.second, name="first", version="v3", canary=0.5))  # fmt: skip
    settings = Settings(model=tiny.first, name="first", version="v1", port=0, threads=1, others=others,
                        feedback=tmp_path / "feedback.sqlite")  # fmt: skip
    with start(settings) as server, open_client(server) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["first", "second"]
        assert client.get("/v1/models/second").json()["id"] == "second"
        from_second = client.post(CHAT, json=body(model="second")).json()
        second = from_second["choices"][0]["message"]["content"]
        texts = [client.post(CHAT, json=body(model="first")).json() for _ in range(30)]
        contents = Counter(reply["choices"][0]["message"]["content"] for reply in texts)
        assert len(contents) == 2 and second in contents  # the canary is the same model as `second`
        assert min(contents.values()) >= 3  # P(fewer of 30 at 0.5) < 1e-6
        check_error(client.post(CHAT, json=body(model="third")), 404, "model_not_found")
        check_error(client.get("/v1/models/third"), 404, "model_not_found")
        assert "first, second" in client.get("/v1/models/third").text
        foreign = {"origin": "https://evil.example"}
        check_error(client.post(CHAT, json=body(model="third"), headers=foreign), 403, "foreign_origin")
        check_error(client.post(CHAT, json=body(model="second", streams=True)), 400, "unsupported_parameter")
        streamed = client.post(CHAT, json=body(model="second", stream=True)).text
        assert text_of(streamed) == second and streamed.endswith("data: [DONE]\n\n")
        for reply in texts[:4]:
            assert client.post("/feedback", json={"reply_id": reply["id"], "thumb": "up"}).status_code == 200
        receipt = {"receipt": from_second["rayse_receipt"], "thumb": "down"}
        assert client.post("/feedback", json=receipt).status_code == 200
        with contextlib.closing(sqlite3.connect(tmp_path / "feedback.sqlite")) as database:
            stored = database.execute("SELECT reply FROM feedback WHERE version = 'v2'").fetchall()
        assert stored == [(second,)]  # the text, which the model that wrote it remembers
        assert client.get("/health").json()["model"] == "first" and "<html" in client.get("/").text
        assert 'server_model="second v2"' in client.get("/metrics").text
        if PROGRAM is not None:
            choose_on_the_page(server.url, second)
        stopped = replicas(server.process.pid, "second")[0]
        os.kill(stopped, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            try:
                waiting = pool.submit(client.post, CHAT, json=body(model="second"))
                assert not wait([waiting], timeout=2).done
            finally:
                os.kill(stopped, signal.SIGKILL)  # the request waits for the replica that takes its place
            assert waiting.result().json()["choices"][0]["message"]["content"] == second


def test_routers_stop_a_canary_together_and_one_of_them_may_be_killed(tiny: Tiny) -> None:
    """No canary is as quick as these rules want it. What has no first byte yet goes to the other router."""
    canary = Settings(model=tiny.second, name="first", version="v2", canary=0.5)
    settings = Settings(model=tiny.first, name="first", version="v1", port=0, threads=1, others=(canary,), routers=2,
                        canary_rules=CanaryRules(max_latency_ratio=0.001))  # fmt: skip
    with start(settings) as server, open_client(server) as client, ThreadPoolExecutor(8) as pool:
        before = set(replicas(server.process.pid, "Router"))
        assert len(before) == 2

        def contents(number: int) -> set[str]:
            responses = list(pool.map(lambda _: client.post(CHAT, json=body()), range(number)))
            assert {response.status_code for response in responses} == {200}
            return {response.json()["choices"][0]["message"]["content"] for response in responses}

        assert len(contents(40)) == 2
        while len(contents(40)) > 1:  # until both routers know
            pass
        while before & set(replicas(server.process.pid, "Router")):  # those that know it from their start replace them
            assert len(contents(8)) == 1
        stopped = replicas(server.process.pid, "Router")[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            asked = [pool.submit(client.post, CHAT, json=body(stream=number % 2 == 1)) for number in range(8)]
            wait(asked, return_when=FIRST_COMPLETED)
            waiting = wait(asked, timeout=3).not_done
        finally:
            os.kill(stopped, signal.SIGKILL)
        assert waiting and [response.result().status_code for response in asked] == [200] * 8
        while len(replicas(server.process.pid, "Router")) < 2 or stopped in replicas(server.process.pid, "Router"):
            time.sleep(0.2)
        assert len(contents(60)) == 1, "the router in its place sends the canary nothing"


def text_of(stream: str) -> str:
    """The text of a streamed reply."""
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


def choose_on_the_page(url: str, second: str) -> None:
    """A user's choice of a model. second: what the model `second` replies to body()'s message at temperature 0."""
    with browser() as (page, problems):
        page.goto(f"{url}/")
        expect(page.locator("#dot")).to_have_class("dot ready")
        expect(page.locator("#models option")).to_have_text(["first", "second"])
        expect(page.locator("#name")).to_be_hidden()
        page.locator("#open_settings").press("Enter")
        for name, value in (("temperature", 0), ("repetition_penalty", 1), ("max_tokens", 8)):
            page.locator(f"#{name}").evaluate(f"e => {{ e.value = {value}; e.dispatchEvent(new Event('input')) }}")
        page.keyboard.press("Escape")
        page.locator("#models").focus()
        page.keyboard.press("s")  # as every browser chooses by letters
        page.locator("#message").fill("Hello")
        with page.expect_response(lambda response: "completions" in response.url) as got:
            page.keyboard.press("Enter")
        expect(page.locator(".assistant:not(.generating) .model")).to_have_text("second")
        assert text_of(got.value.text()).startswith(second)
        page.reload()  # the tab keeps its choice
        expect(page.locator("#models")).to_have_value("second")
        page.locator("#models").select_option("first")
        page.get_by_role("button", name="Edit").press("Enter")
        with page.expect_request(lambda request: "completions" in request.url) as sent:
            page.keyboard.press("Enter")  # the same message again, to the other model
        assert (sent.value.post_data_json or {})["model"] == "first"
        expect(page.locator(".assistant:not(.generating) .model")).to_have_text("first")
        assert page.locator(".message").count() == 2 and problems == []


# ---- another version -------------------------------------------------------------------------------------------------


def test_a_promotion_is_followed_without_a_failed_request(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    first, second = put_model(store, "aaaa", tiny.first), put_model(store, "bbbb", tiny.second)
    promote(store, first.fingerprint, "production", reason="", as_json=False)
    with rayse_serve(tmp_path, store, "production") as server, server.requests("production", "production") as statuses:
        promote(store, second.fingerprint, "production", reason="better", as_json=False)
        server.wait_for(f"serving version {second.fingerprint}, before {first.fingerprint}")
        assert server.client.get("/health").json()["version"] == second.fingerprint
        rollback(store, "production", reason="worse", as_json=False)
        server.wait_for(f"serving version {first.fingerprint}, before {second.fingerprint}")
        promote(store, put_trial(store, first, persona="Be brief.").fingerprint, "production", reason="", as_json=False)
        server.wait_for(f"serving version {first.fingerprint}, with other settings: persona")
        assert server.client.get("/about").json()["persona"] == "Be brief."
    assert set(statuses) == {200} and statuses[200] > 20
    assert [each.action for each in aliases.decisions(store)] == ["promote", "promote", "rollback", "promote"]


def put_trial(store: Store, model: Artifact, **settings: Any) -> Artifact:
    """Puts a trial of a model into a store. settings: of its serve.json."""
    draft = store.draft(f"{'tried':0>16}")
    ServingSpec(model=model.fingerprint, **settings).write(draft.out)
    return store.commit(draft, Manifest(kind="trial", fingerprint=draft.fingerprint, stage="serve", name="host", seed=0,
                                        stage_version=1, options={}, code=""))  # fmt: skip


def test_one_of_several_models_is_promoted_beside_a_canary_and_the_others_go_on(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    first, second = put_model(store, "aaaa", tiny.first), put_model(store, "bbbb", tiny.second)
    canary = put_model(store, "cccc", tiny.second)
    promote(store, first.fingerprint, "production", reason="", as_json=False)
    promote(store, first.fingerprint, "other", reason="", as_json=False)
    names = ("production", "other", "--canary", f"{canary.fingerprint}:0.5")
    with rayse_serve(tmp_path, store, *names) as server:
        of_canary, of_other = f"production {canary.fingerprint}", f"other {first.fingerprint}"
        with server.requests("production", "production", "other") as statuses:
            while min(server.counted(of_canary), server.counted(of_other)) < 5:
                assert set(statuses) <= {200}
            before = server.started(of_canary), server.started(of_other)
            promote(store, second.fingerprint, "production", reason="better", as_json=False)
            server.wait_for(f"serving version {second.fingerprint}, before {first.fingerprint}")
            assert (server.started(of_canary), server.started(of_other)) == before  # the processes are the same
            promote(store, second.fingerprint, "other", reason="too", as_json=False)  # the second name is followed too
            server.wait_for(f"other: serving version {second.fingerprint}, before {first.fingerprint}")
        assert set(statuses) == {200}


def test_requests_in_flight_end_when_the_server_stops(tiny: Tiny) -> None:
    settings = Settings(model=tiny.first, name="tiny", port=0, threads=1, limits=Limits(drain_s=60))
    server = start(settings)
    with open_client(server) as client, ThreadPoolExecutor(1) as pool:
        long = body("Tell me", stream=True, max_tokens=140, min_tokens=140)
        with client.stream("POST", CHAT, json=long) as response:
            lines = response.iter_lines()
            first = next(line for line in lines if line.startswith("data: {"))
            closing = pool.submit(server.close)
            rest = [line for line in lines if line.startswith("data: ")]
        closing.result()
    assert "content" in first and rest[-1] == "data: [DONE]" and '"error"' not in "".join(rest)
    assert server.process.returncode == 0
