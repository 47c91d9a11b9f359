"""Feedback is on disk when it is acknowledged."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serve.gateway.feedback import Feedback, Memory, Reply, UnknownReply, read

ROOT = Path(__file__).parents[3]
CHILD = """
import sys
from pathlib import Path
from serve.gateway.feedback import Feedback, Reply
kept = Feedback(Path(sys.argv[1]))
for number in range(10**6):
    reply = Reply(f"chatcmpl-{number}", [{"role": "user", "content": "茶?"}], "绿茶。", "demo", "f00d", {}, 1.0)
    kept.keep(reply.reply_id, "up", "", reply)
    print(number, flush=True)
"""


def reply(reply_id: str, size: int = 1) -> Reply:
    return Reply(reply_id, [{"role": "user", "content": "q"}], "r" * size, "demo", "f00d", {"temperature": 0.5}, 12.5)


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "feedback.sqlite"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    acknowledged = [int(child.stdout.readline()) for _ in range(20)][-1]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
    child.wait()
    rows = read(file)
    assert len(rows) in (acknowledged + 1, acknowledged + 2)  # one may be on disk whose word did not get out
    assert rows[0]["reply"] == "绿茶。" and rows[0]["prompt"] == [{"role": "user", "content": "茶?"}]


def test_a_second_word_replaces_the_first_even_when_the_reply_is_forgotten(tmp_path: Path) -> None:
    kept = Feedback(tmp_path / "f.sqlite")
    kept.keep("a", "up", "", reply("a"))
    kept.keep("a", "down", "wrong", None)
    with pytest.raises(UnknownReply):
        kept.keep("b", "up", "", None)
    kept.close()
    (row,) = read(tmp_path / "f.sqlite")
    assert (row["thumb"], row["comment"], row["version"], row["created"]) == ("down", "wrong", "f00d", 12.5)
    assert row["sampling"] == {"temperature": 0.5} and row["changed"] > row["created"]


def test_two_servers_may_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "f.sqlite"

    def write(name: str) -> None:
        kept = Feedback(file)
        for number in range(20):
            kept.keep(f"{name}{number}", "up", "", reply(f"{name}{number}"))
        kept.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(file)) == 40


def test_every_commit_is_synced(tmp_path: Path) -> None:
    kept = Feedback(tmp_path / "f.sqlite")
    modes = [kept._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]  # 2 is FULL
    kept.close()
    with pytest.raises(sqlite3.Error):
        kept.keep("a", "up", "", reply("a"))


def test_memory_forgets_the_oldest() -> None:
    memory = Memory(most=3, most_characters=1000)
    for name in "abcd":
        memory.remember(reply(name))
    assert memory.get("a") is None and memory.get("b")
    memory.remember(reply("e", size=950))
    assert memory.get("d") is None and memory.get("e")


def test_half_of_a_surrogate_pair_among_the_stops_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "feedback.sqlite"
    said = Reply("chatcmpl-1", [], "r", "demo", "f00d", {"stop": ["\ud800"]}, 1.0)
    Feedback(file).keep("chatcmpl-1", "up", "", said)
    assert read(file)[0]["sampling"] == {"stop": ["\ud800"]}
