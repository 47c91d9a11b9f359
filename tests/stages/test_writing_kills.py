"""kill -9 of a run while an endpoint writes rows and compares replies: no answer is paid for twice, the same bytes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.runs import ROOT, TIMEOUT_S, artifacts, contents
from tests.stages.chat_endpoint import ChatEndpoint, serving
from tests.stages.single import jsonl
from tests.stages.test_augment import CHINESE, ENGLISH, write

COMPARED = re.compile(r"\[Reply A\]\n(.*)\n\n\[Reply B\]\n(.*)\n\nEnd with", re.DOTALL)


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    """A server that writes rows, two different replies to each prompt, and prefers the longer of two."""
    with serving(write) as server:

        def reply(prompt: str) -> str:
            if compared := COMPARED.search(prompt):
                return f"[[{'A' if len(compared[1]) > len(compared[2]) else 'B'}]]"
            again = sum(body["messages"][-1]["content"] == prompt for body in server.answered)
            return f"{write(prompt)}{' And so on.' * again}"

        server.reply = reply
        yield server


def recipe(folder: Path, endpoint: ChatEndpoint) -> Path:
    """Conversations, rows that the endpoint writes, and pairs that it labels; one request at a time."""
    folder.mkdir()
    jsonl(folder / "seeds.jsonl", [*ENGLISH, *CHINESE])
    written = {"endpoint": endpoint.options}
    stages = {"augment": {"rows": 6, **written}, "conversations": {"builtin_tasks": False, "held_out": 0.2},
              "ai_feedback": written}  # fmt: skip
    path, cluster = folder / "recipe.yaml", {"concurrency": 1, "retries": 0, "request_s": 60}
    source = {"kind": "jsonl", "path": "seeds.jsonl", "rows": "conversations", "language": "auto"}
    path.write_text(yaml.safe_dump({
        "name": "kills", "seed": 7, "store": str(folder / "store"), "sources": {"seeds": source}, "stages": stages,
        "cluster": {"augment": cluster, "ai_feedback": cluster},
    }, sort_keys=False))  # fmt: skip
    return path


def start(recipe: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "run", str(recipe)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(recipe: Path) -> dict[str, dict[str, bytes]]:
    """Runs the recipe to its end; the files of its artifacts by stage."""
    process = start(recipe)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return {name: contents(folder) for name, folder in artifacts(recipe.parent / "store").items()}


def kill_at(recipe: Path, endpoint: ChatEndpoint, answers: int) -> None:
    """Runs the recipe until so many requests are answered, and kills its driver when it sends the next one."""
    process: list[subprocess.Popen[str]] = []

    def fault(number: int) -> str:
        if len(endpoint.answered) < answers:
            return ""
        os.kill(process[0].pid, signal.SIGKILL)
        return "500"

    endpoint.fault = fault
    process.append(start(recipe))
    process[0].communicate(timeout=TIMEOUT_S)
    assert process[0].returncode == -signal.SIGKILL
    assert len(endpoint.answered) == answers
    endpoint.fault = lambda number: ""


@pytest.mark.slow
def test_a_driver_that_is_killed_while_rows_are_written_and_compared_pays_for_no_answer_twice(
    endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    undisturbed = run(recipe(tmp_path / "undisturbed", endpoint))
    assert set(undisturbed) == {"augment", "conversations", "ai_feedback"}
    paid = [json.dumps(body) for body in endpoint.answered]
    compared = [bool(COMPARED.search(body["messages"][-1]["content"])) for body in endpoint.answered]
    first_compared = compared.index(True)
    assert 5 < first_compared < len(paid) - 4
    endpoint.answered.clear()
    killed = recipe(tmp_path / "killed", endpoint)
    for answers in (3, first_compared + 2, len(paid) - 1):  # in augment, and twice in ai_feedback
        kill_at(killed, endpoint, answers)
    assert run(killed) == undisturbed
    assert [json.dumps(body) for body in endpoint.answered] == paid
