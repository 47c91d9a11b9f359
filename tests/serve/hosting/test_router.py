"""What several models behind one address share: outcomes, feedback, names of deployments, a reader that leaves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.store.artifacts import Store
from serve.gateway import receipts
from serve.gateway.asgi import Receive, Scope, Send
from serve.hosting.deployment import deployment_name
from serve.hosting.engine import local
from serve.hosting.replica import events_of
from serve.hosting.router import Outcomes, order_of_feedback
from serve.settings import Settings

MODEL = Path("model")


def test_requests_that_no_model_had_a_part_in_are_not_counted() -> None:
    outcomes = Outcomes()
    for status in (200, 404, 500, 0, 401, 403, 429, 499):
        outcomes.count(status, 0.5 if status else 0.0)
    assert outcomes.facts() == {"requests": 4, "error_rate": 0.5, "first_bytes_s": 1.5 / 4}


def test_the_model_that_wrote_a_reply_is_asked_first_by_its_receipt() -> None:
    models = [Settings(model=MODEL, name="a", version="v1"), Settings(model=MODEL, name="b", version="v1"),
              Settings(model=MODEL, name="a", version="v2", canary=0.1)]  # fmt: skip
    for index, model in enumerate(models):
        receipt = receipts.sign({"model": model.name, "version": model.version}, b"any key")
        order = order_of_feedback(models, json.dumps({"receipt": receipt, "thumb": "up"}).encode())
        assert order[0] == index and sorted(order) == [0, 1, 2]
    for receipt in (b"3", b"null", b'""', b'"W10.x"', '"ä.x"'.encode(), b""):
        assert order_of_feedback(models, b'{"receipt": %s}' % receipt) == [0, 1, 2]


def test_versions_share_a_deployment_and_a_canary_has_another() -> None:
    first = Settings(model=MODEL, name="模型", version="v1")
    following = first.model_copy(update={"model": Path("other"), "version": "v2"})
    assert deployment_name(first) == deployment_name(following)
    different = [first, first.model_copy(update={"canary": 0.1}), first.model_copy(update={"name": "型模"})]
    assert len({deployment_name(each) for each in different}) == 3


@pytest.mark.parametrize("field", [name for name in Settings.model_fields if name.endswith("_folder")])
def test_every_artifact_of_a_server_is_fetched_on_its_node(field: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    (here := tmp_path / "here").mkdir()
    (here / "manifest.json").write_text("{}")
    settings = Settings.model_validate({"model": here, "store": str(store.root), field: tmp_path / "gone"})
    with pytest.raises(UserError, match="no artifact gone"):
        local(settings)


def test_work_for_a_reader_that_left_ends() -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def read_one() -> None:
        before = asyncio.all_tasks()
        events = events_of(stream, {"type": "http"}, b"")
        await anext(events)
        await asyncio.sleep(0)  # the queue fills up
        await events.aclose()
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    asyncio.run(read_one())
