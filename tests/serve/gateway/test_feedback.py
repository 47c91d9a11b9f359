"""Feedback is on disk when it is acknowledged, in SQLite and in PostgreSQL alike."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serve.gateway import feedback
from serve.gateway.database import Database, DatabaseError, Sqlite, open_database
from serve.gateway.feedback import FeedbackStore, Opinion, RecentReplies, Reply, UnknownReply
from tests.serve.gateway import postgres

ROOT = Path(__file__).parents[3]
UP, DOWN = Opinion("up"), Opinion("down")
# Arguments: a file, a URL or nothing, and the first number.
CHILD = """
import sys
from pathlib import Path
from serve.gateway.database import open_database
from serve.gateway.feedback import FeedbackStore, Opinion, Reply
store = FeedbackStore(open_database(Path(sys.argv[1]), sys.argv[2]))
for number in range(int(sys.argv[3]), 10**6):
    reply = Reply(f"chatcmpl-{number}", [{"role": "user", "content": "茶?"}], "绿茶。", "demo", "f00d", {}, 1.0)
    store.save(reply.reply_id, Opinion("up"), reply)
    print(number, flush=True)
"""


def reply(reply_id: str, size: int = 1) -> Reply:
    prompt = [{"role": "user", "content": "q"}]
    return Reply(reply_id, prompt, "r" * size, "demo", "f00d", {"temperature": 0.5}, 12.5)


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str | None]:
    with postgres.server() as url:
        yield url


@contextmanager
def opened(database: Database) -> Iterator[Database]:
    try:
        yield database
    finally:
        database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str | None]:
    """A SQLite file, or an empty PostgreSQL database, as open_database takes them."""
    if request.param == "sqlite":
        return tmp_path / "feedback.sqlite", None
    pytest.importorskip("psycopg")
    url = request.getfixturevalue("postgres_url")
    if url is None:
        pytest.skip("this machine has no PostgreSQL server")
    with opened(open_database(None, url)) as database:
        database.execute("DROP TABLE IF EXISTS feedback")
    return tmp_path / "unused", url


@pytest.fixture
def store(place: tuple[Path, str | None]) -> Iterator[FeedbackStore]:
    with opened(open_database(*place)) as database:
        yield FeedbackStore(database)


def kill_while_it_writes(place: tuple[Path, str | None], first: int, num_acknowledged: int) -> int:
    """Runs a process that writes, kills it after this many acknowledgements; returns the last number acknowledged."""
    command = [sys.executable, "-c", CHILD, str(place[0]), place[1] or "", str(first)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    acknowledged = [int(child.stdout.readline()) for _ in range(num_acknowledged)][-1]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
    child.wait()
    return acknowledged


def test_acknowledged_feedback_survives_a_kill(place: tuple[Path, str | None]) -> None:
    acknowledged = kill_while_it_writes(place, 0, 20)
    with opened(open_database(*place)) as database:
        rows = FeedbackStore(database).rows()
    assert len(rows) in (acknowledged + 1, acknowledged + 2)  # one more may be on disk, unacknowledged
    assert rows[0]["reply"] == "绿茶。" and rows[0]["prompt"] == [{"role": "user", "content": "茶?"}]


@pytest.mark.slow
def test_a_loop_of_kills_loses_nothing_acknowledged(place: tuple[Path, str | None]) -> None:
    acknowledged: set[int] = set()
    for number in range(8):
        first = number * 10_000
        acknowledged |= set(range(first, kill_while_it_writes(place, first, 1 + 13 * number) + 1))
    with opened(open_database(*place)) as database:
        stored = {int(row["reply_id"].rpartition("-")[2]) for row in FeedbackStore(database).rows()}
    assert acknowledged <= stored and len(stored - acknowledged) <= 8


def test_later_feedback_replaces_earlier_even_when_the_reply_is_no_longer_recent(store: FeedbackStore) -> None:
    store.save("a", Opinion("down", "so", "R", "wrong"), reply("a"))
    store.save("a", Opinion("down", "wrong\0", "better"), None)
    with pytest.raises(UnknownReply):
        store.save("b", UP, None)
    (row,) = store.rows()
    assert (row["thumb"], row["comment"], row["version"], row["created"]) == ("down", "wrong\ufffd", "f00d", 12.5)
    assert (row["correction"], row["report"]) == ("better", "")
    assert row["sampling"] == {"temperature": 0.5} and row["changed"] > row["created"]


def test_texts_that_come_later_are_kept(store: FeedbackStore) -> None:
    facts = ("demo", "f00d", {}, 12.5)
    for prompt, text in ((None, ""), ("q", "r"), (None, ""), ("other", "other")):
        store.save("a", UP, Reply("a", prompt, text, *facts))
    (row,) = store.rows()
    assert (row["prompt"], row["reply"]) == ("q", "r")


def test_rows_of_several_pages_are_each_there_once(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"reply {number}" for number in range(5)]
    for name in names:
        store.save(name, UP, reply(name))
    monkeypatch.setattr(feedback, "PAGE_ROWS", 2)
    assert [row["reply_id"] for row in store.rows()] == names
    rows = store.each()
    assert next(rows)["reply_id"] == names[0]
    store.save(names[0], DOWN, reply(names[0]))  # while the others are read
    assert [row["reply_id"] for row in rows] == names[1:]


def test_a_page_of_rows_is_read_by_the_index() -> None:
    with opened(Sqlite()) as database:
        FeedbackStore(database)
        (step,) = database.execute(f"EXPLAIN QUERY PLAN {feedback.PAGE}", changed=0.0, reply_id="", limit=1)
    assert step["detail"].startswith("SEARCH feedback USING INDEX feedback_changed"), "no scan, no sort for each page"


def test_rows_and_counts_since_a_time(store: FeedbackStore) -> None:
    store.save("a", UP, reply("a"))
    before = time.time()
    store.save("b", DOWN, reply("b"))
    assert [row["reply_id"] for row in store.rows(before)] == ["b"]
    assert [row["reply_id"] for row in store.rows()] == ["a", "b"]
    store.save("c", Opinion("down", "", "better", "wrong"), reply("c"))
    counts = [tuple(row[name] for name in ("thumb", "corrected", "report", "number")) for row in store.counts()]
    assert counts == [("up", 0, "", 1), ("down", 0, "", 1), ("down", 1, "wrong", 1)]
    assert [row["thumb"] for row in store.counts(before)] == ["down", "down"]


def test_several_servers_can_write_to_one_database(place: tuple[Path, str | None]) -> None:
    def write(name: str) -> None:
        with opened(open_database(*place)) as database:
            store = FeedbackStore(database)
            for number in range(20):
                store.save(f"{name}{number}", UP, reply(f"{name}{number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened(open_database(*place)) as database:
        assert len(FeedbackStore(database).rows()) == 60


def test_personal_data_is_masked_in_every_text_unless_it_is_kept(place: tuple[Path, str | None]) -> None:
    private = "write to ann@mail.com, 邮箱 li@sina.cn"
    row_of = Reply("a", [{"role": "user", "content": private}], private, "demo", "f00d", {}, 1.0)
    with opened(open_database(*place)) as database:
        masking, keeping = FeedbackStore(database), FeedbackStore(database, feedback.KEEP)
        masking.save("a", Opinion("down", private, private), row_of)
        masked = "write to [email], 邮箱 [email]"
        (row,) = masking.rows()
        assert row["prompt"] == [{"role": "user", "content": masked}]
        assert {row["reply"], row["comment"], row["correction"]} == {masked}
        keeping.save("a", Opinion("down", private), None)
        assert keeping.rows()[0]["comment"] == private


def test_json_is_masked_in_what_it_says_and_stays_json(tmp_path: Path) -> None:
    arguments = {"to": "Ann\n13812345678", "phone": 13812345678, "size": 3, "13912345678": 1, "13712345678": True}
    calls = [{"id": "c1", "type": "function", "function": {"name": "call", "arguments": arguments}}]
    nested = json.dumps({"found": json.dumps({"mail": "ann@mail.com"})})
    cut = '[{"note": "a\\n13812345678'
    twice = '{"mail": "ann@mail.com", "mail": "li@sina.cn"}'
    texts = [nested, cut, twice, '{"plain":  1}', '{"\\ud800": "ann@mail.com"}', '{"a": 1e999, "b": "ann@mail.com"}']
    prompt = [{"role": "tool", "content": text} for text in texts]
    prompt[0]["tool_calls"] = json.dumps(calls)
    row_of = Reply("a", prompt, "", "demo", "f00d", {}, 1.0, tool_calls=json.dumps(calls))
    with opened(Sqlite(tmp_path / "feedback.sqlite")) as database:
        FeedbackStore(database).save("a", UP, row_of)
        (row,) = FeedbackStore(database).rows()
    (call,) = json.loads(row["tool_calls"])
    expected = {"to": "Ann\n[phone]", "phone": "[phone]", "size": 3, "[phone]": 1, "[phone] 5": True}
    assert call["function"] == {"name": "call", "arguments": expected}
    assert json.loads(row["prompt"][0]["tool_calls"]) == [call]
    assert [message["content"] for message in row["prompt"]] == [
        json.dumps({"found": json.dumps({"mail": "[email]"})}), '[{"note": "a\\n[phone]',
        '{"mail": "[email]", "mail": "[email]"}', '{"plain":  1}', '{"?": "[email]"}', '{"a": 1e999, "b": "[email]"}',
    ]  # fmt: skip


def test_a_user_s_feedback_is_deleted_and_leaves_nothing_in_the_file(place: tuple[Path, str | None]) -> None:
    with opened(open_database(*place)) as database:
        store = FeedbackStore(database)
        for name, digests in (("a", {"user_digest": "d1"}), ("b", {"key_digest": "d1"}), ("c", {"user_digest": "d2"})):
            store.save(name, Opinion("up", f"secret words of {name}"), replace(reply(name), **digests))
        assert store.delete_user("d1") == 2 and store.delete_user("d1") == 0
        assert [row["reply_id"] for row in store.rows()] == ["c"]
        files = [file.read_bytes() for file in place[0].parent.glob("feedback.sqlite*")]
        assert not any(b"secret words of a" in content for content in files)
        assert place[1] or any(b"secret words of c" in content for content in files)


def test_a_lost_connection_is_made_anew(place: tuple[Path, str | None]) -> None:
    if place[1] is None:
        pytest.skip("a file has no connection")
    with opened(open_database(*place)) as database, opened(open_database(*place)) as other:
        store = FeedbackStore(database)
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query <> ''"
        other.execute(end)
        store.save("a", UP, reply("a"))
        other.execute(end)
        with database.transaction():
            database.execute("DELETE FROM feedback")
        assert store.rows() == []


def test_every_commit_is_synced(tmp_path: Path) -> None:
    with opened(Sqlite(tmp_path / "f.sqlite")) as database:
        modes = [list(database.execute(f"PRAGMA {name}")[0].values()) for name in ("journal_mode", "synchronous")]
        assert modes == [["wal"], [2]]  # 2 is FULL
        store = FeedbackStore(database)
    with pytest.raises(DatabaseError):
        store.save("a", UP, reply("a"))


def test_the_oldest_recent_replies_are_dropped() -> None:
    recent = RecentReplies(max_replies=3, max_characters=1000)
    for name in "abcd":
        recent.add(reply(name))
    assert recent.get("a") is None and recent.get("b")
    recent.add(reply("e", size=950))
    assert recent.get("d") is None and recent.get("e")


def test_a_stop_string_with_half_of_a_surrogate_pair_is_stored(store: FeedbackStore) -> None:
    with_stop = Reply("chatcmpl-1", [], "r", "demo", "f00d", {"stop": ["\ud800"]}, 1.0)
    store.save("chatcmpl-1", UP, with_stop)
    assert store.rows()[0]["sampling"] == {"stop": ["\ud800"]}
