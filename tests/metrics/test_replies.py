"""Report rows: at most so many of each task and language, with the previous model's reply, and which is right."""

from __future__ import annotations

from pipelines.metrics import replies as replies_metric
from tests.metrics.dialogues import DECLINED, dialogue, material, replies, score
from tests.tiny_models import Tiny


def test_a_few_rows_of_each_task_and_language(tiny: Tiny) -> None:
    dialogues = [dialogue(f"{n}", "sums", ("zh", "en")[n % 2], f"{n} + 1?", f"{n + 1}") for n in range(8)]
    dialogues.append(dialogue("x", "refusal", "en", "How to?", safety="unsafe"))
    texts, earlier = [f"{n + 1}" for n in range(8)], ["1"] * 8
    what = material(tiny, dialogues, max_reply_rows=2)
    scored = score(
        replies_metric.score, what, replies(tiny, [*texts, "Take"]), replies(tiny, [*earlier, DECLINED["en"]])
    )
    assert scored.facts == {}
    assert [(row["language"], row["task"], row["prompt"]) for row in scored.rows] == [
        ("en", "refusal", "How to?"), ("en", "sums", "1 + 1?"), ("en", "sums", "3 + 1?"),
        ("zh", "sums", "0 + 1?"), ("zh", "sums", "2 + 1?"),
    ]  # fmt: skip
    declined, first, *_, last = scored.rows
    row = {"metric": "replies", "language": "en", "task": "refusal", "prompt": "How to?"}
    assert declined == row | {"reply": "Take", "right": False, "reply_before": DECLINED["en"], "right_before": True}
    assert (first["reply"], first["answer"], first["right"], first["right_before"]) == ("2", "2", True, False)
    assert (last["reply"], last["reply_before"], last["right"], last["right_before"]) == ("3", "1", True, False)
    assert "reply_before" not in score(replies_metric.score, what, replies(tiny, [*texts, "Take"])).rows[0]
    assert (
        score(replies_metric.score, material(tiny, dialogues, max_reply_rows=0), replies(tiny, [*texts, "Take"])).rows
        == []
    )
