"""Receipts: signed with a key that is made once, and refused with the reason."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.chat_messages import reply_message
from pipelines.errors import UserError
from serve.gateway import receipts
from serve.gateway.asgi import ApiError
from serve.gateway.database import Sqlite
from serve.gateway.feedback import FeedbackStore, Reply
from serve.gateway.gateway import Gateway
from serve.gateway.metrics import Metrics
from serve.gateway.receipts import InvalidReceipt, digest, open_key, sign
from serve.gateway.replies import Replies
from serve.gateway.request import GenerationRequest
from serve.gateway.routes import CHAT
from serve.settings import GuardEndpoint, Settings
from tests.serve.gateway.test_gateway import Engine, check_error
from tests.tiny_models import CONTEXT, Tiny

FACTS = {"id": "chatcmpl-1", "model": "tiny", "reply": digest("Hi."), "time": 1000.0}


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "store" / "receipts.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: open_key(file), range(8)))
    assert len(keys) == 1 and len(keys.pop()) == 32
    assert file.stat().st_mode & 0o777 == 0o600 and os.listdir(file.parent) == ["receipts.key"]
    file.chmod(0o644)
    with pytest.raises(UserError, match=r"others can read this key of receipts \(mode 644\); expected mode 600"):
        open_key(file)
    file.chmod(0o600)
    file.write_text("abc")
    with pytest.raises(UserError, match="expected a key of 32 bytes"):
        open_key(file)


def test_a_receipt_is_readable_json_and_its_hmac() -> None:
    key = b"k" * 32
    payload, _, signature = sign(FACTS, key).partition(".")
    decoded = base64.urlsafe_b64decode(payload + "==")
    assert json.loads(decoded) == FACTS
    assert base64.urlsafe_b64decode(signature + "==") == hmac.new(key, decoded, hashlib.sha256).digest()
    assert receipts.read(sign(FACTS, key), key, now=1001.0) == FACTS


def test_forged_changed_and_old_receipts_are_refused_with_the_reason() -> None:
    key, other = b"k" * 32, b"o" * 32
    receipt = sign(FACTS, key)
    payload, _, signature = receipt.partition(".")
    richer = sign(FACTS | {"model": "better"}, key).partition(".")[0]
    for changed in (
        sign(FACTS, other),
        f"{richer}.{signature}",
        f"{payload}.",
        f"{payload}.{signature[:-4]}",
        f"{payload}",
    ):
        with pytest.raises(InvalidReceipt, match="signature does not fit"):
            receipts.read(changed, key, now=1001.0)
    for no_receipt in ("?", "§.§", "a.b", "a" * 9):
        with pytest.raises(InvalidReceipt, match=r"is no receipt|signature does not fit"):
            receipts.read(no_receipt, key, now=1001.0)
    with pytest.raises(InvalidReceipt, match="is 31 days old; expected at most 30"):
        receipts.read(receipt, key, now=1000.0 + 31 * 86400)


def rows(file: Path) -> list[dict[str, Any]]:
    return FeedbackStore(Sqlite(file)).rows()


def replica(tiny: Tiny, folder: Path, persona: str | None = None, **options: Any) -> Gateway:
    async def check_engine() -> None: ...

    settings = Settings(model=tiny.first, name="tiny", version="v1", feedback=folder / "feedback.sqlite",
                        persona=persona)  # fmt: skip
    app = Gateway(Engine(), settings, context_tokens=CONTEXT, check_engine=check_engine,
                  metrics=Metrics(CollectorRegistry()), **options)  # fmt: skip
    app.ready = True
    return app


def post(app: Gateway, path: str, body: dict[str, Any]) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, json=body)

    return asyncio.run(run())


def test_any_replica_takes_feedback_by_receipt_also_after_a_restart(tiny: Tiny, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    reply = post(replica(tiny, tmp_path), "/v1/chat/completions", {"messages": messages, "temperature": 0.5}).json()
    receipt, another = reply["rayse_receipt"], replica(tiny, tmp_path)
    reply_id = receipts.read(receipt, open_key(tmp_path / "receipts.key"))["id"]
    check_error(post(another, "/feedback", {"reply_id": reply_id, "thumb": "up"}), 404, "reply_not_found")
    assert post(another, "/feedback", {"receipt": receipt, "thumb": "up"}).json()["reply_id"] == reply_id
    (row,) = rows(tmp_path / "feedback.sqlite")
    facts = row["receipt"]
    assert (row["thumb"], row["model"], row["version"], row["sampling"]) == ("up", "tiny", "v1", facts["sampling"])
    assert (row["prompt"], row["reply"]) == (None, "") and facts["sampling"]["temperature"] == 0.5
    assert facts["prompt"] == digest(messages) and facts["reply"] == digest("Hi.")
    assert facts["guard"].startswith("rules ") and len(facts["template"]) == 64
    for name, wrong in (("reply", "Hello."), ("prompt", [*messages, *messages])):
        error = check_error(post(another, "/feedback", {"receipt": receipt, "thumb": "up", name: wrong}), 400,
                            "invalid_receipt")  # fmt: skip
        assert error["param"] == name
    error = check_error(post(another, "/feedback", {"receipt": f"{receipt}x", "thumb": "up"}), 400, "invalid_receipt")
    assert error["param"] == "receipt" and "signature does not fit" in error["message"]
    check_error(post(another, "/feedback", {"receipt": receipt, "reply_id": reply_id, "thumb": "up"}), 400)


def test_texts_sent_along_are_stored(tiny: Tiny, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    receipt = post(replica(tiny, tmp_path), "/v1/chat/completions", {"messages": messages}).json()["rayse_receipt"]
    texts = {"prompt": messages, "reply": "Hi."}
    assert post(replica(tiny, tmp_path), "/feedback", {"receipt": receipt, "thumb": "down", **texts}).status_code == 200
    (row,) = rows(tmp_path / "feedback.sqlite")
    assert (row["prompt"], row["reply"], row["thumb"]) == (messages, "Hi.", "down")


def test_a_receipt_will_do_where_other_replicas_do_not_answer(tiny: Tiny, tmp_path: Path) -> None:
    asked: list[str] = []

    async def find_reply(reply_id: str) -> Reply | None:
        asked.append(reply_id)
        raise ApiError(503, "a replica is being replaced", code="replica_replaced")

    messages = [{"role": "user", "content": "hello"}]
    receipt = post(replica(tiny, tmp_path), "/v1/chat/completions", {"messages": messages}).json()["rayse_receipt"]
    app = replica(tiny, tmp_path, find_reply=find_reply)
    feedback = {"receipt": receipt, "thumb": "up"}
    texts = {"prompt": messages, "reply": "Hi."}
    assert post(app, "/feedback", {**feedback, **texts}).status_code == 200 and asked == []
    assert post(app, "/feedback", {**feedback, "thumb": "down"}).status_code == 200 and len(asked) == 1
    (row,) = rows(tmp_path / "feedback.sqlite")
    assert (row["thumb"], row["prompt"], row["reply"]) == ("down", messages, "Hi.")
    check_error(post(app, "/feedback", {"reply_id": "chatcmpl-1", "thumb": "up"}), 503, "replica_replaced")


def test_changed_texts_are_refused_only_where_no_replica_remembers_the_reply(tiny: Tiny, tmp_path: Path) -> None:
    wrote, messages = replica(tiny, tmp_path), [{"role": "user", "content": "hello"}]

    async def find_reply(reply_id: str) -> Reply | None:
        return wrote.recent_reply(reply_id)

    another = replica(tiny, tmp_path, find_reply=find_reply)
    receipt = post(wrote, "/v1/chat/completions", {"messages": messages}).json()["rayse_receipt"]
    feedback = {"receipt": receipt, "thumb": "down", "prompt": messages, "reply": "Hi, in a browser's rendering."}
    assert post(wrote, "/feedback", feedback).status_code == post(another, "/feedback", feedback).status_code == 200
    (row,) = rows(tmp_path / "feedback.sqlite")
    assert (row["prompt"], row["reply"]) == (messages, "Hi."), "the texts that the server wrote"
    wrote = replica(tiny, tmp_path)  # a restart
    check_error(post(another, "/feedback", feedback), 400, "invalid_receipt")


def test_a_correction_and_a_report_are_stored_and_a_user_s_feedback_deleted(tiny: Tiny, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    first, app = replica(tiny, tmp_path), replica(tiny, tmp_path)
    reply = post(first, "/v1/chat/completions", {"messages": messages, "user": "ann"}).json()
    facts = receipts.read(reply["rayse_receipt"], open_key(tmp_path / "receipts.key"))
    correction = {"correction": "Hello, 你好!", "report": "format"}
    for each in (first, app):  # remembered, and by its receipt alone
        done = post(each, "/feedback", {"receipt": reply["rayse_receipt"], **correction})
        assert done.json() == {"reply_id": facts["id"], "thumb": "down", "stored": True}
        (row,) = rows(tmp_path / "feedback.sqlite")
        assert {name: row[name] for name in correction} == correction and row["user_digest"] == facts["user"]
    assert "ann" not in json.dumps([row, facts])
    assert FeedbackStore(Sqlite(tmp_path / "feedback.sqlite")).delete_user(facts["user"]) == 1
    for wrong, param in (({}, "thumb"), ({"report": "ugly"}, "report"), ({"correction": "c" * 32_001}, "correction")):
        error = check_error(post(app, "/feedback", {"receipt": reply["rayse_receipt"], **wrong}), 400)
        assert error["param"] == param or error["message"].startswith(param)


def test_a_prompt_sent_along_is_as_the_client_sent_it(tiny: Tiny, tmp_path: Path) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "hello"}], "refusal": None}
    body = {"messages": [message], "stop": ["x" * 6000]}
    receipt = post(replica(tiny, tmp_path, "Be brief."), "/v1/chat/completions", body).json()["rayse_receipt"]
    feedback = {"receipt": receipt, "thumb": "up", "prompt": [message]}
    assert post(replica(tiny, tmp_path), "/feedback", feedback).status_code == 200
    (row,) = rows(tmp_path / "feedback.sqlite")
    assert row["prompt"] == [{"role": "user", "content": "hello"}]
    for prompt in ([], [5, "a"], [message | {"role": "king"}], [10**6]):
        check_error(post(replica(tiny, tmp_path), "/feedback", feedback | {"prompt": prompt}), 400)


def test_what_a_user_stops_replies_with_is_stored_as_a_digest(tiny: Tiny, tmp_path: Path) -> None:
    """Of a reply that is remembered too: a stop string can be a name or an address."""
    body = {"messages": [{"role": "user", "content": "hello"}], "stop": ["ann@example.org"], "bad_words": ["Ann"]}
    app = replica(tiny, tmp_path)
    receipt = post(app, "/v1/chat/completions", body).json()["rayse_receipt"]
    assert post(app, "/feedback", {"receipt": receipt, "thumb": "up"}).status_code == 200
    (row,) = rows(tmp_path / "feedback.sqlite")
    assert row["prompt"] == body["messages"], "it is remembered"
    assert row["sampling"] == row["receipt"]["sampling"] and row["sampling"]["stop"] == digest(["ann@example.org"])
    assert "ann@example" not in json.dumps(row) and "Ann" not in json.dumps(row)


def test_a_receipt_holds_all_that_changes_a_reply(tiny: Tiny, tmp_path: Path) -> None:
    plain = {"min_tokens": 1, "ignore_eos": True, "skip_special_tokens": False, "include_stop_str_in_output": True}
    digested = {"logit_bias": {"5": 1.0}, "bad_words": ["no"], "response_format": {"type": "json_object"}}
    app = replica(tiny, tmp_path)

    def sampling(body: dict[str, Any]) -> dict[str, Any]:
        reply = post(app, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], **body})
        return receipts.unverified(reply.json()["rayse_receipt"])["sampling"]

    whole = sampling({**plain, **digested})
    assert {name: whole[name] for name in plain} == plain
    assert {name: whole[name] for name in digested} == {name: digest(value) for name, value in digested.items()}
    assert sampling({"structured_outputs": {"regex": "a"}})["structured_outputs"] == digest({"regex": "a"})
    assert sampling({"stop_token_ids": [7]})["stop_token_ids"] != sampling({}).get("stop_token_ids")


def test_a_receipt_names_the_guard_model(tiny: Tiny, tmp_path: Path) -> None:
    at = GuardEndpoint(url="http://10.0.0.7:8001/v1", model="Qwen/Qwen3Guard-Gen-0.6B", failure="pass", key="secret",
                       categories={"PII": False, "Violent": True})  # fmt: skip
    settings = Settings(model=tiny.first, feedback=tmp_path / "f.sqlite", guard_endpoint=at)
    kept = Replies(settings, Chat.open(tiny.first))
    request = GenerationRequest(CHAT, {}, "chatcmpl-1", [], "hello", 5)
    facts = receipts.unverified(kept.keep(request, reply_message("Hi."), ""))
    assert facts["guard"].startswith("rules ")
    assert facts["guard"].endswith(" + Qwen/Qwen3Guard-Gen-0.6B without PII (or pass)")
    assert "secret" not in str(facts) and "10.0.0.7" not in str(facts), "a receipt is for anyone to read"
    unguarded = Replies(settings.model_copy(update={"guard": False}), Chat.open(tiny.first))
    assert receipts.unverified(unguarded.keep(request, reply_message("Hi."), ""))["guard"] == "none"


def test_a_file_of_an_earlier_version_gets_the_column(tmp_path: Path) -> None:
    file = tmp_path / "feedback.sqlite"
    names = "reply_id, thumb, comment, prompt, reply, model, version, sampling, created, changed"
    with sqlite3.connect(file) as database:
        database.execute(f"CREATE TABLE feedback ({names.replace('reply_id', 'reply_id TEXT PRIMARY KEY')})")
        database.execute(f"INSERT INTO feedback ({names}) VALUES ('a', 'up', '', '\"p\"', 'r', 'm', 'v', '{{}}', 1, 1)")
    (row,) = rows(file)
    assert (row["prompt"], row["receipt"]) == ("p", {})
