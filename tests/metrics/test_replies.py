"""Rows for people: so many of each task and language, with what the model before said, and which is right."""

from __future__ import annotations

from pipelines.metrics.replies import METRIC
from tests.metrics.talks import DECLINED, material, replies, score, talk
from tests.tiny_models import Tiny


def test_a_few_rows_of_each_task_and_language(tiny: Tiny) -> None:
    talks = [talk(f"{n}", "sums", ("zh", "en")[n % 2], f"{n} + 1?", f"{n + 1}") for n in range(8)]
    talks.append(talk("x", "refusal", "en", "How to?", safety="unsafe"))
    said, earlier = [f"{n + 1}" for n in range(8)], ["1"] * 8
    what = material(tiny, talks, num_shown=2)
    found = score(METRIC, what, replies(tiny, [*said, "Take"]), replies(tiny, [*earlier, DECLINED["en"]]))
    assert found.facts == {}
    assert [(row["language"], row["task"], row["prompt"]) for row in found.rows] == [
        ("en", "refusal", "How to?"), ("en", "sums", "1 + 1?"), ("en", "sums", "3 + 1?"),
        ("zh", "sums", "0 + 1?"), ("zh", "sums", "2 + 1?"),
    ]  # fmt: skip
    declined, first, *_, last = found.rows
    about = {"metric": "replies", "language": "en", "task": "refusal", "prompt": "How to?"}
    assert declined == about | {"reply": "Take", "right": False, "reply_before": DECLINED["en"], "right_before": True}
    assert (first["reply"], first["answer"], first["right"], first["right_before"]) == ("2", "2", True, False)
    assert (last["reply"], last["reply_before"], last["right"], last["right_before"]) == ("3", "1", True, False)
    assert "reply_before" not in score(METRIC, what, replies(tiny, [*said, "Take"])).rows[0]
    assert score(METRIC, material(tiny, talks, num_shown=0), replies(tiny, [*said, "Take"])).rows == []
