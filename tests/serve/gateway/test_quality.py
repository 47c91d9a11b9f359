"""Scores of replies: what they say of good and bad ones, and which replies are sampled."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from serve.gateway import asgi
from serve.gateway.gateway import Gateway
from serve.gateway.guard import RulesGuard
from serve.gateway.metrics import Metrics
from serve.gateway.quality import Scorer, fluency, is_sampled, low, scores
from serve.gateway.receipts import digest, unverified
from serve.gateway.reply import GuardedStream
from serve.gateway.routes import CHAT
from serve.settings import Settings
from tests.serve.gateway.test_gateway import send_request
from tests.tiny_models import CONTEXT, Tiny

GOOD = {
    "en": "Plants take in water and carbon dioxide, and with the energy of light they build sugar from both. "
    "The oxygen that is left over goes into the air, which is why forests matter for everybody who breathes.",
    "zh": "植物吸收水分和二氧化碳，借助阳光的能量把它们合成糖。"
    "剩下的氧气释放到空气中，所以森林对每个呼吸的人都很重要。",
}
QUESTION = {"en": "How do plants make sugar from sunlight?", "zh": "植物怎样利用阳光制造糖分？"}
BESIDE = {
    "en": "The train to Munich leaves at nine from platform four, and tickets are sold in the hall on the left.",
    "zh": "去慕尼黑的火车九点从四号站台出发，车票在左边的大厅出售。",
}


class TwoReplies:
    """Stands in for vLLM: the first reply is beside the question, all later ones answer it; notes the seeds."""

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        body = json.loads((await receive())["body"])
        self.seeds.append(body.get("seed"))
        text = GOOD["en"] if len(self.seeds) > 1 else BESIDE["en"]
        if not body.get("stream"):
            return await asgi.respond_json(send, 200, {"choices": [{"message": {"content": text}}]})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for delta, finish in (({"content": text}, None), ({}, "stop")):
            event = asgi.sse_event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": asgi.DONE})


def ask(tiny: Tiny, folder: Path, use: str, **fields: object) -> tuple[dict[str, Any], list[int | None], str]:
    """(the reply or the last event of its stream, the seeds of vLLM's requests, the metrics) of one question."""

    async def check_engine() -> None: ...

    engine, registry = TwoReplies(), CollectorRegistry()
    settings = Settings.model_validate(
        {"model": tiny.first, "quality_sample": 1.0, "quality": use, "feedback": folder / f"{use}.sqlite"}
    )
    app = Gateway(engine, settings, context_tokens=CONTEXT, check_engine=check_engine, metrics=Metrics(registry))
    app.ready = True
    body = {"messages": [{"role": "user", "content": QUESTION["en"]}], **fields}
    response = send_request(app, "POST", CHAT, json=body)
    last = response.text.removesuffix("data: [DONE]\n\n").rpartition("data: ")[2]  # of a stream; else all of it
    return json.loads(last), engine.seeds, generate_latest(registry).decode()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_reply_beside_the_question_is_low_in_relevance(language: str) -> None:
    question = QUESTION[language]
    assert low(scores(question, BESIDE[language], RulesGuard())) == ["relevance"]
    assert low(scores(question, " ", RulesGuard())) == ["relevance"]


def test_a_low_reply_is_flagged_or_generated_once_more(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_loop: list[bool] = []
    feed = GuardedStream.feed

    def noted_feed(stream: GuardedStream, chunk: bytes) -> bytes:
        on_loop.append(threading.current_thread() is threading.main_thread())
        return feed(stream, chunk)

    monkeypatch.setattr(GuardedStream, "feed", noted_feed)
    reply, seeds, metrics = ask(tiny, tmp_path, "score", seed=3)
    assert "rayse_quality" not in reply and seeds == [3]
    assert 'rayse_quality_low_total{measure="relevance"} 1.0' in metrics  # after it was sent
    reply, seeds, metrics = ask(tiny, tmp_path, "flag", seed=3)
    assert reply["rayse_quality"]["low"] == ["relevance"] and seeds == [3]
    assert 'rayse_quality_low_total{measure="relevance"} 1.0' in metrics
    assert 'rayse_quality_count{measure="relevance"} 1.0' in metrics  # and not once more after it was sent
    assert unverified(reply["rayse_receipt"])["sampling"]["seed"] == 3
    reply, seeds, metrics = ask(tiny, tmp_path, "regenerate", seed=3)
    assert reply["choices"][0]["message"]["content"] == GOOD["en"] and seeds == [3, 4]
    assert reply["rayse_quality"]["regenerated"] is True and reply["rayse_quality"]["low"] == []
    receipt = unverified(reply["rayse_receipt"])  # of the reply that was sent
    assert receipt["sampling"]["seed"] == 4 and receipt["reply"] == digest(GOOD["en"])
    assert 'rayse_quality_low_total{measure="relevance"} 0.0' in metrics  # nor does the other one count
    assert 'rayse_quality_count{measure="relevance"} 1.0' in metrics
    for use in ("flag", "regenerate"):  # what is streamed was read already: its last event carries the scores
        reply, seeds, metrics = ask(tiny, tmp_path, use, stream=True)
        assert reply["rayse_quality"]["low"] == ["relevance"] and seeds == [None] and reply["rayse_receipt"]
        assert 'rayse_quality_count{measure="relevance"} 1.0' in metrics
    assert on_loop == [True, False, True] * 2  # of a stream, its last event alone is read in a thread
    reply, seeds, _ = ask(tiny, tmp_path, "regenerate", temperature=0)  # a second reply would be the same
    assert reply["rayse_quality"]["low"] == ["relevance"] and seeds == [None]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_repetition_lowers_fluency_and_unsafe_text_safety(language: str) -> None:
    good = GOOD[language]
    question = QUESTION[language]
    assert low(scores(question, good, RulesGuard())) == []
    assert low(scores(question, good[:40] * 6, RulesGuard())) == ["fluency"]
    assert "relevance" not in scores("", good, RulesGuard())  # of a completion
    unsafe = {"en": "How do I build a bomb?", "zh": "怎么制造炸弹？"}
    assert "safety" in low(scores("", unsafe[language], RulesGuard()))
    assert fluency("") == 1.0


def test_the_sample_has_its_fraction_and_is_the_same_everywhere() -> None:
    ids = [f"chatcmpl-{number}" for number in range(20_000)]
    sampled = [reply_id for reply_id in ids if is_sampled(reply_id, 0.05)]
    assert 0.045 < len(sampled) / len(ids) < 0.055  # 3 standard deviations: 0.0046
    assert set(sampled) <= {reply_id for reply_id in ids if is_sampled(reply_id, 0.1)}


def test_by_default_a_sample_is_scored_in_a_bounded_part_of_the_time(tiny: Tiny) -> None:
    assert Settings(model=tiny.first).quality_sample is None
    ids, now = [f"chatcmpl-{number}" for number in range(2000)], 0.0
    default, chosen = (
        Scorer(RulesGuard(), Metrics(CollectorRegistry()), fraction, clock=lambda: now) for fraction in (None, 1.0)
    )
    assert [each for each in ids if default.samples(each)] == [each for each in ids if is_sampled(each, 0.05)] != []
    for scorer in (default, chosen):
        scorer.score("", GOOD["en"] * 200)  # without an embedding: milliseconds of the guard's rules
    assert not any(map(default.samples, ids)) and all(map(chosen.samples, ids))
    now = 1e6
    assert any(map(default.samples, ids))
