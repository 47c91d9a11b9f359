"""Rows that an endpoint or a model of the store writes: kept, dropped, paid for once, and read by a later stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from pipelines.data.dialogues import conversations
from pipelines.data.dialogues.synthetic import rows as synthetic
from pipelines.errors import UserError
from pipelines.stages import STAGES
from pipelines.stages.augment.augmentation import Augmentation
from tests.stages.chat_endpoint import ChatEndpoint, serving
from tests.stages.single import Made, jsonl, make, talk, work_of

SUBJECTS = ("rivers", "bread", "clocks", "violins", "snow", "maps", "ships", "ants", "glass", "tea", "kites", "moss")
ENGLISH = [talk(f"Explain {subject} to a child in one sentence", f"About {subject}.") for subject in SUBJECTS]
CHINESE = [talk("用一句话介绍长城", "长城是古代的防御工程。"), talk("怎样泡一杯好茶", "先烧水，再放茶叶。")]
FAST = {"retries": 3, "request_s": 30.0}


def number_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def write(prompt: str) -> str:
    """Answers as a model would: new tasks for a list of tasks, another wording, a translation, or a reply."""
    digits = [int(digit) for digit in str(number_of(prompt))[:12]]
    words = " ".join(f"w{number_of(prompt + str(n)) % 10**6}" for n in range(6))
    if "new tasks" in prompt:
        return f"Sure!\n1. Describe {words}\n2. Explain rivers to a child in one sentence\n3. 用中文写一首关于秋天的诗"
    if "个新任务" in prompt:
        return f"1. 请介绍{''.join('天地山水火木金土日月'[digit] for digit in digits)}的故事"
    if "into English" in prompt:
        return f"A translation of {words}."
    if "翻译成中文" in prompt:
        return "这是一段译文：" + "".join("天地山水火木金土日月"[digit] for digit in digits)
    return f"A new wording, {words}." if "other words" in prompt else f"A reply, {words}."


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    with serving(write) as server:
        yield server


def augment(folder: Path, server: ChatEndpoint, **options: Any) -> Made:
    """Runs the stage on ENGLISH and CHINESE."""
    jsonl(folder / "seeds.jsonl", [*ENGLISH, *CHINESE])
    files = {"seeds": {"path": "seeds.jsonl", "language": "auto"}}
    options = {"rows": 6, "endpoint": server.options, "cluster": FAST} | options
    return make("augment", folder, files=files, **options)


def test_instructions_are_new_and_say_where_they_are_from(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    made = augment(tmp_path, endpoint)
    rows = synthetic.read(made.out)
    assert len(rows) == made.facts["augment/kept"] == 6
    for row in rows:
        prompt, reply = (turn["content"] for turn in row["messages"])
        assert reply == write(prompt)
        assert row["meta"]["writer"] == f"big at {endpoint.url}/v1" and row["meta"]["method"] == "instructions"
        assert row["meta"]["seeds"] and row["meta"]["derived_from"] is None
        seed_prompts = [body["messages"][0]["content"] for body in endpoint.bodies]
        assert any(prompt in write(each) for each in seed_prompts)
    assert {row["language"] for row in rows} <= {"en", "zh"}
    reasons = {row["reason"] for row in map(json.loads, (made.out / "dropped.jsonl").read_text().splitlines())}
    assert reasons >= {"similar", "language"}
    templates = json.loads((made.out / "templates.json").read_text())
    assert templates.keys() <= {"instructions.en", "instructions.zh"} and templates
    assert made.facts["augment/requests"] == len(endpoint.bodies)
    assert made.facts["augment/reply_tokens"] == 5 * len(endpoint.bodies)


def test_an_answer_without_numbers_is_an_instruction_where_one_is_requested(
    tmp_path: Path, endpoint: ChatEndpoint
) -> None:
    def reply(prompt: str) -> str:
        task = write(prompt).partition("1. ")[2].partition("\n")[0]
        return f'"{task}"' if "new tasks" in prompt else write(prompt)

    endpoint.reply = reply
    one = augment(tmp_path, endpoint, instructions_per_request=1)
    assert one.facts["augment/kept"] == 6 and "augment/dropped_no_list" not in one.facts
    written = [row["messages"][0]["content"] for row in synthetic.read(one.out)]
    assert one.facts["augment/kept_en"] and not any('"' in text for text in written)
    four = augment(tmp_path, endpoint, max_requests=40)
    assert four.facts["augment/dropped_no_list"] and four.facts["augment/kept_zh"]
    assert "augment/kept_en" not in four.facts


def test_the_same_bytes_again_whatever_the_order_of_answers(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    one, other = augment(tmp_path, endpoint, cluster={"concurrency": 1}), augment(tmp_path, endpoint)
    assert one.digests == other.digests


@pytest.mark.parametrize("fault", ["429", "500", "half"])
def test_requests_are_sent_again_after_a_passing_fault(tmp_path: Path, endpoint: ChatEndpoint, fault: str) -> None:
    endpoint.fault = lambda number: fault if number % 4 == 1 else ""
    disturbed = augment(tmp_path, endpoint, rows=3)
    assert len(endpoint.bodies) > len(endpoint.answered) == disturbed.facts["augment/requests"]
    endpoint.fault = lambda number: ""
    assert disturbed.digests == augment(tmp_path, endpoint, rows=3).digests


def test_a_run_that_is_broken_off_sends_no_request_twice(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    undisturbed = augment(tmp_path, endpoint)
    paid = sorted(json.dumps(body) for body in endpoint.bodies)
    endpoint.bodies.clear()
    endpoint.answered.clear()
    endpoint.fault = lambda number: "500" if number >= 3 else ""
    with pytest.raises(ClusterError, match=r"answers 500.*run the same command again"):
        augment(tmp_path, endpoint, draft=tmp_path / "draft", cluster={"concurrency": 1, "retries": 0})
    assert len(endpoint.answered) == 3
    with (tmp_path / "draft" / "requests" / "answers.jsonl").open("a") as lines:
        lines.write('{"key": "cut o')  # by a kill
    endpoint.fault = lambda number: ""
    resumed = augment(tmp_path, endpoint, draft=tmp_path / "draft")
    assert resumed.digests == undisturbed.digests and resumed.facts == undisturbed.facts
    assert sorted(json.dumps(body) for body in endpoint.answered) == paid


def test_answers_without_use_are_counted_by_reason(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    faults = {0: "400", 1: "html", 2: "length"}
    endpoint.fault = lambda number: faults.get(number, "")
    made = augment(tmp_path, endpoint, cluster={"concurrency": 1}, rows=12, max_requests=12)
    assert made.facts["augment/requests"] == 12 == len(endpoint.bodies)
    assert made.facts["augment/dropped_endpoint_refused"] == made.facts["augment/dropped_malformed"] == 1
    assert any("of 12 rows after 12 of at most 12 requests" in note for note in made.notes)


def test_rewrites_keep_all_but_one_turn(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    made = augment(tmp_path, endpoint, method="rewrites", rewrite="reply", style="Be brief.", rows=5)
    records = [*ENGLISH, *CHINESE]
    for row in synthetic.read(made.out):
        record = records[int(row["meta"]["derived_from"].rpartition("/")[2]) - 1]
        assert row["messages"][0]["content"] == record["instruction"]
        assert row["messages"][1]["content"].startswith("A new wording")
    assert all("only the new text. Be brief.\n\nAbout" in body["messages"][0]["content"] for body in endpoint.answered
               if "Rewrite" in body["messages"][0]["content"])  # fmt: skip


def test_no_more_rows_are_begun_than_there_are_requests_left(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    made = augment(tmp_path, endpoint, method="rewrites", rewrite="reply", rows=5, max_requests=3)
    assert made.facts["augment/requests"] == 3 and "augment/dropped_max_requests" not in made.facts
    made = augment(tmp_path, endpoint, method="translations", rows=5, max_requests=3)  # of two turns each
    assert (made.facts["augment/kept"], made.facts["augment/dropped_max_requests"]) == (1, 1)


def test_translations_go_both_ways(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    made = augment(tmp_path, endpoint, method="translations", rows=100)
    assert (made.facts["augment/kept_zh"], made.facts["augment/kept_en"]) == (len(ENGLISH), len(CHINESE))
    assert made.facts["augment/requests"] == 2 * len([*ENGLISH, *CHINESE])


def test_a_translation_of_which_a_turn_is_in_another_language(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    """It is dropped, however long the other turn is; what is the same in both languages may stay."""

    def reply(prompt: str) -> str:
        if "into English" in prompt:
            return "什么是？" if "怎样" in prompt else f"A long translation of a text: {write(prompt)}"
        return "x = 2 * 3" if "About" in prompt else write(prompt)

    endpoint.reply = reply
    made = augment(tmp_path, endpoint, method="translations", rows=100)
    assert (made.facts["augment/kept_en"], made.facts["augment/kept_zh"]) == (len(CHINESE) - 1, len(ENGLISH))
    assert made.facts["augment/dropped_language"] == 1


CALLING = [
    {"role": "user", "content": "When is high water at Wick?"},
    {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "tide", "arguments": {}}}]},
    {"role": "tool", "content": "6"},
    {"role": "assistant", "content": "At six."},
]
THINKING = [
    {"role": "user", "content": "What are kites made of?"},
    {"role": "assistant", "content": "<think>Easy.</think>Of paper."},
]


def test_seeds_are_what_rows_can_be_made_of(tmp_path: Path) -> None:
    """Nothing is sent: the endpoint is none."""
    jsonl(tmp_path / "all.jsonl", [{"messages": CALLING, "rating": 4}, {"messages": THINKING, "rating": 2}])
    jsonl(tmp_path / "calls.jsonl", [{"messages": CALLING}, {"messages": CALLING[:2]}])

    def opened(file: str = "all.jsonl", **options: Any) -> Augmentation:
        there = {"url": "http://127.0.0.1:9/v1", "model": "big"}
        return Augmentation.open(work_of("augment", tmp_path, files={"a": {"path": file}}, endpoint=there, **options))

    for method in ("rewrites", "translations"):
        augmentation = opened(method=method)
        assert [seed.messages[-1]["content"] for seed in augmentation.seeds] == ["Of paper."]
        assert augmentation.seed_facts["augment/left_out_tools"] == 1
        with pytest.raises(UserError, match=rf"no seeds: all 2 call tools, which {method} leave out"):
            opened("calls.jsonl", method=method)
    augmentation = opened(min_rating=3)
    assert [seed.reply for seed in augmentation.seeds] == ["At six."]
    assert "rows/columns_not_used" not in augmentation.seed_facts and len(opened().seeds) == 2


def test_a_later_stage_reads_them_and_those_like_held_out_rows_are_set_aside(
    tmp_path: Path, endpoint: ChatEndpoint
) -> None:
    made = augment(tmp_path, endpoint, method="translations", rows=100)
    files = {"seeds": {"path": "seeds.jsonl", "language": "auto"}}
    talks = make("conversations", tmp_path, files=files, held_out=0.3, inputs={"augmented": made.out})
    train, held_out = (conversations.read(talks.out / name) for name in (conversations.TRAIN, conversations.HELD_OUT))
    origins = {f"stage:augmented/0/{number}": row["meta"]["derived_from"]
               for number, row in enumerate(synthetic.read(made.out), 1)}  # fmt: skip
    written = [row.id for row in train if row.source == "stage:augmented"]
    assert held_out and not any(row.source == "stage:augmented" for row in held_out)
    assert {origins[row_id] for row_id in written} == {row.id for row in train if row.source == "seeds"}
    assert talks.facts["rows/not_used_made_from_held_out"] == len(held_out)


def test_a_second_stage_goes_on_from_the_rows_of_the_first(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    first = augment(tmp_path, endpoint, rows=3)
    second = augment(tmp_path, endpoint, method="rewrites", rows=100, inputs={"augmented": first.out})
    rows = synthetic.read(second.out)
    assert rows[:3] == synthetic.read(first.out) and second.facts["augment/earlier_rows"] == 3
    assert {"rows.jsonl/1", "rows.jsonl/3", "seeds/0/1"} <= {row["meta"]["derived_from"] for row in rows[3:]}
    assert synthetic.made_from(rows, {"seeds/0/1"}) == {
        number for number, row in enumerate(rows, 1) if row["meta"]["derived_from"] == "seeds/0/1"
    }


def test_the_key_is_sent_and_written_nowhere(
    tmp_path: Path, endpoint: ChatEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**endpoint.options, "key_env": "A_KEY", "prompt_price": 1.0, "reply_price": 4.0}
    with pytest.raises(UserError, match="environment variable A_KEY is empty"):
        augment(tmp_path, endpoint, endpoint=options)
    monkeypatch.setenv("A_KEY", "secret-0815")
    made = augment(tmp_path, endpoint, endpoint=options)
    assert endpoint.keys == {"Bearer secret-0815"}
    assert made.facts["augment/cost"] == pytest.approx(len(endpoint.bodies) * (20 + 5 * 4) / 1e6)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"0815" not in file.read_bytes()
    validated = STAGES["augment"].options.model_validate({"endpoint": options})
    assert "A_KEY" not in str(validated.identity()) and "price" not in str(validated.identity())
    endpoint.fault = lambda number: "401"
    with pytest.raises(UserError, match=r"answers 401.*the key in A_KEY") as error:
        augment(tmp_path, endpoint, endpoint=options)
    assert "0815" not in str(error.value)


def test_errors_name_what_to_do(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    endpoint.fault = lambda number: "404"
    with pytest.raises(UserError, match=r"check endpoint\.url and endpoint\.model"):
        augment(tmp_path, endpoint)
    endpoint.fault = lambda number: "402"  # which is sent once
    with pytest.raises(ClusterError, match=r"answers 402: [^,;]*; answers so far are kept"):
        augment(tmp_path, endpoint)
    with pytest.raises(ClusterError, match=r"no answer from http://127\.0\.0\.1:9/v1"):
        augment(tmp_path, endpoint, endpoint={"url": "http://127.0.0.1:9/v1", "model": "big"}, cluster={"retries": 0})
    endpoint.fault = lambda number: "slow"
    with pytest.raises(ClusterError, match=r"within 0\.2 s"):
        augment(tmp_path, endpoint, cluster={"retries": 0, "request_s": 0.2})
    endpoint.fault = lambda number: "400"
    with pytest.raises(UserError, match=r"no row after 3 of at most 3 requests; dropped: .*endpoint_refused"):
        augment(tmp_path, endpoint, max_requests=3, draft=tmp_path / "few")
    with pytest.raises(UserError, match=r"answered none of the first 4 requests; .* says: fault 400"):
        augment(tmp_path, endpoint, draft=tmp_path / "many")
    endpoint.fault = lambda number: ""
    for draft in ("few", "many"):  # once the server is mended, the same command sends them again
        refused = len(endpoint.bodies)
        assert augment(tmp_path, endpoint, max_requests=3, draft=tmp_path / draft).facts["augment/kept"]
        assert len(endpoint.bodies) == refused + 3
    jsonl(tmp_path / "none.jsonl", [{"instruction": "", "input": "", "output": ""}])
    with pytest.raises(UserError, match=r"no seeds|bad row"):
        make("augment", tmp_path, files={"seeds": {"path": "none.jsonl"}}, endpoint=endpoint.options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"endpoint": {"url": "ftp://x", "model": "m"}}, "expected http"),
        ({"endpoint": {"url": "https://me:key@x/v1", "model": "m"}}, "address without a key"),
        ({"endpoint": {"url": "https://x", "model": "m", "key_env": "A", "key_file": "b"}}, "one of them"),
        ({"endpoint": {"url": "https://x", "model": "m", "parameters": {"n": 2}}}, "no further field"),
        ({"method": "translations", "style": "Be brief."}, "only method: rewrites has it"),
        ({"method": "rewrites", "thoughts": "keep"}, "rewrites are written without thoughts"),
        ({"template": {"en": "Write tasks."}}, "has no {examples}"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        STAGES["augment"].options.model_validate(options)
