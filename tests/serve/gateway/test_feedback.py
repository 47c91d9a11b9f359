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

from serve.gateway.feedback import FeedbackStore, RecentReplies, Reply, UnknownReply, read

ROOT = Path(__file__).parents[3]
CHILD = """
import sys
from pathlib import Path
from serve.gateway.feedback import FeedbackStore, Reply
store = FeedbackStore(Path(sys.argv[1]))
for number in range(10**6):
    reply = Reply(f"chatcmpl-{number}", [{"role": "user", "content": "茶?"}], "绿茶。", "demo", "f00d", {}, 1.0)
    store.save(reply.reply_id, "up", "", reply)
    print(number, flush=True)
"""


def reply(reply_id: str, size: int = 1) -> Reply:
    return Reply(reply_id, [{"role": "user", "content": "q"}], "r" * size, "demo", "f00d", {"temperature": 0.5}, 12.5)


def test_acknowledged_feedback_survives_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "feedback.sqlite"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    acknowledged = [int(child.stdout.readline()) for _ in range(20)][-1]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
    child.wait()
    rows = read(file)
    assert len(rows) in (acknowledged + 1, acknowledged + 2)  # one more may be on disk, unacknowledged
    assert rows[0]["reply"] == "绿茶。" and rows[0]["prompt"] == [{"role": "user", "content": "茶?"}]


def test_later_feedback_replaces_earlier_even_when_the_reply_is_no_longer_recent(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "f.sqlite")
    store.save("a", "up", "", reply("a"))
    store.save("a", "down", "wrong", None)
    with pytest.raises(UnknownReply):
        store.save("b", "up", "", None)
    store.close()
    (row,) = read(tmp_path / "f.sqlite")
    assert (row["thumb"], row["comment"], row["version"], row["created"]) == ("down", "wrong", "f00d", 12.5)
    assert row["sampling"] == {"temperature": 0.5} and row["changed"] > row["created"]


def test_texts_that_come_later_are_kept(tmp_path: Path) -> None:
    store, facts = FeedbackStore(tmp_path / "f.sqlite"), ("demo", "f00d", {}, 12.5)
    for prompt, text in ((None, ""), ("q", "r"), (None, ""), ("other", "other")):
        store.save("a", "up", "", Reply("a", prompt, text, *facts))
    store.close()
    (row,) = read(tmp_path / "f.sqlite")
    assert (row["prompt"], row["reply"]) == ("q", "r")


def test_two_servers_can_write_to_one_file(tmp_path: Path) -> None:
    file = tmp_path / "f.sqlite"

    def write(name: str) -> None:
        store = FeedbackStore(file)
        for number in range(20):
            store.save(f"{name}{number}", "up", "", reply(f"{name}{number}"))
        store.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(file)) == 40


def test_every_commit_is_synced(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "f.sqlite")
    modes = [store._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]  # 2 is FULL
    store.close()
    with pytest.raises(sqlite3.Error):
        store.save("a", "up", "", reply("a"))


def test_the_oldest_recent_replies_are_dropped() -> None:
    recent = RecentReplies(max_replies=3, max_characters=1000)
    for name in "abcd":
        recent.add(reply(name))
    assert recent.get("a") is None and recent.get("b")
    recent.add(reply("e", size=950))
    assert recent.get("d") is None and recent.get("e")


def test_a_stop_string_with_half_of_a_surrogate_pair_is_stored(tmp_path: Path) -> None:
    file = tmp_path / "feedback.sqlite"
    with_stop = Reply("chatcmpl-1", [], "r", "demo", "f00d", {"stop": ["\ud800"]}, 1.0)
    FeedbackStore(file).save("chatcmpl-1", "up", "", with_stop)
    assert read(file)[0]["sampling"] == {"stop": ["\ud800"]}
