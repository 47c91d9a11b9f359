"""`rayse feedback`: what it exports is read as training data, what it deletes is gone, what it counts is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipelines import cli
from pipelines.data.dialogues.conversation_records import ParsedConversation, parse_conversation
from pipelines.data.dialogues.preference_records import ParsedPreferences, parse_preferences
from pipelines.errors import UserError
from serve.gateway.database import Sqlite
from serve.gateway.feedback import FeedbackStore, Opinion, Reply
from serve.gateway.keys import DAY_S, Access
from serve.gateway.receipts import open_key, pseudonym
from serve.settings import NamedKey, check_feedback_url

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "意大利的首都？"}]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with feedback on six replies."""
    database = Sqlite(tmp_path / "feedback.sqlite")
    feedback, ann = FeedbackStore(database), pseudonym("ann", open_key(tmp_path / "receipts.key"))
    facts = ("demo", "f00d", {}, 1.0)
    feedback.save(
        "corrected", Opinion("down", "no", "Rome", "wrong"), Reply("corrected", PROMPT, "Milan", *facts, {}, ann)
    )
    feedback.save("same", Opinion("up", "", " Rome "), Reply("same", PROMPT, "Rome", *facts))
    feedback.save("bad", Opinion("down"), Reply("bad", PROMPT, "Turin", *facts, {}, "", ann))
    feedback.save("text", Opinion("up"), Reply("text", "1, 2,", "3", *facts))
    feedback.save("later", Opinion("up"), Reply("later", PROMPT, "Roma", "demo", "beef", {}, 1.0))
    feedback.save("digests", Opinion("up"), Reply("digests", None, "", *facts))
    access = Access([key := NamedKey.parse(f"ana {'0' * 64}")], database, lambda: 20_000.0 * DAY_S)
    access.admit(key)
    access.admit(key)
    database.close()
    return tmp_path


def rayse(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ("feedback", *arguments))


def export(store: Path, rows: str) -> tuple[list[dict[str, object]], dict[str, object]]:
    file = store / f"{rows}.jsonl"
    done = rayse("export", str(file), "--rows", rows, "--store", str(store), "--json")
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()], json.loads(done.stdout)


def test_exported_preferences_are_read_as_pairs_and_labelled_replies(store: Path) -> None:
    rows, facts = export(store, "preferences")
    assert (facts["rows"], facts["left_out"]) == (5, {"without texts": 1})
    parsed = [parse_preferences(row) for row in rows]
    assert all(isinstance(row, ParsedPreferences) for row in parsed), parsed
    pairs = [pair for row in parsed if isinstance(row, ParsedPreferences) for pair in row.pairs]
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == [(PROMPT, "Rome", "Milan")]
    rated = [row.rated for row in parsed if isinstance(row, ParsedPreferences) and row.rated]
    assert [(reply.reply, reply.rating) for reply in rated] == [("Rome", 1), ("Turin", 0), ("3", 1), ("Roma", 1)]
    assert rated[0].prompt == PROMPT
    assert (rows[0]["comment"], rows[0]["report"], rows[0]["version"]) == ("no", "wrong", "f00d")


def test_exported_conversations_are_read_with_the_better_text(store: Path) -> None:
    rows, facts = export(store, "conversations")
    assert (facts["rows"], facts["left_out"]) == (4, {"neither corrected nor liked": 1, "without texts": 1})
    parsed = [parse_conversation(row) for row in rows]
    talks = [row.messages for row in parsed if isinstance(row, ParsedConversation)]
    assert [(talk[:-1], talk[-1]["content"]) for talk in talks] == [
        (PROMPT, "Rome"), (PROMPT, "Rome"), ([{"role": "user", "content": "1, 2,"}], "3"), (PROMPT, "Roma"),
    ]  # fmt: skip


def test_an_export_replaces_no_file_and_explains_its_options(store: Path) -> None:
    file, at = store / "x.jsonl", ("--store", str(store))
    file.write_text("mine")
    for arguments, message in (
        ((str(file), *at), "x.jsonl: exists; name a new file"),
        ((str(store / "no" / "x"), *at), "cannot be written"),
        ((str(store / "y"), *at, "--rows", "text"), "expected preferences or conversations"),
        ((str(store / "y"), *at, "--since", "yesterday"), "--since yesterday: expected a time such as 2026-11-01"),
        ((str(store / "y"), "--store", str(store / "none")), "there is no feedback"),
        ((str(store / "y"), *at, "--feedback", "mysql://x"), "expected postgresql://"),
    ):  # fmt: skip
        done = rayse("export", *arguments)
        assert done.exit_code == 2 and message in done.stderr, done.stderr
    assert file.read_text() == "mine" and not (store / "y").exists()
    assert rayse("export", str(store / "y"), *at, "--since", "2999-01-01").stdout.startswith("0 rows")


def test_feedback_is_counted_by_version_and_a_user_s_deleted(store: Path) -> None:
    at = ("--store", str(store), "--json")
    shown = json.loads(rayse("show", *at).stdout)
    assert shown["versions"] == [
        {"model": "demo", "version": "f00d", "down": 2, "corrected": 2, "report wrong": 1, "up": 3},
        {"model": "demo", "version": "beef", "up": 1},
    ]
    assert shown["requests"] == [{"key": "ana", "day": "2024-10-04", "requests": 2}]
    assert json.loads(rayse("delete", "--user", "ann", *at).stdout) == {"user": "ann", "deleted": 2}
    assert json.loads(rayse("delete", "--user", "ann", *at).stdout)["deleted"] == 0
    assert "demo f00d: 3 up, 1 corrected" in rayse("show", "--store", str(store)).stdout
    (store / "feedback.sqlite").rename(local := store / "local.sqlite")
    assert "demo f00d: 3 up, 1 corrected" in rayse("show", "--feedback", str(local)).stdout
    (store / "receipts.key").unlink()
    done = rayse("delete", "--user", "ben", *at)
    assert done.exit_code == 2 and "digests that need it" in done.stderr and not (store / "receipts.key").exists()


def test_a_password_does_not_go_onto_a_command_line() -> None:
    assert check_feedback_url("postgresql://ann@host:5432/rayse") and check_feedback_url(None) is None
    with pytest.raises(UserError, match="is no URL"):
        check_feedback_url("postgresql://[x/db")
    for url in ("postgresql://ann:s3cret@host/rayse", "postgresql://host/rayse?password=s3cret"):
        with pytest.raises(UserError, match="holds a password") as error:
            check_feedback_url(url)
        assert "s3cret" not in str(error.value)


def test_a_reply_that_calls_tools_is_exported_as_a_turn_with_its_calls(tmp_path: Path) -> None:
    database = Sqlite(tmp_path / "feedback.sqlite")
    calls = [{"id": "c1", "type": "function", "function": {"name": "tide", "arguments": {"at": "Wick"}}}]
    tool = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
    called = ("demo", "f00d", {}, 1.0, {}, "", "", json.dumps(calls), json.dumps([tool]))
    feedback = FeedbackStore(database)
    feedback.save("liked", Opinion("up"), Reply("liked", PROMPT, "", *called))
    feedback.save("corrected", Opinion("down", "", "At six."), Reply("corrected", PROMPT, "I look.", *called))
    database.close()
    rows, _ = export(tmp_path, "conversations")
    parsed = [parse_conversation(row) for row in rows]
    talks = {row["id"]: talk for row, talk in zip(rows, parsed, strict=True) if isinstance(talk, ParsedConversation)}
    assert json.loads(talks["liked"].messages[-1]["tool_calls"]) == calls
    assert talks["corrected"].messages[-1] == {"role": "assistant", "content": "At six."}
    assert json.loads(talks["liked"].tools) == [tool]
    rows, _ = export(tmp_path, "preferences")
    parsed = [parse_preferences(row) for row in rows]
    (pair,) = [pair for row in parsed if isinstance(row, ParsedPreferences) for pair in row.pairs]
    assert (pair.chosen, pair.rejected) == ("At six.", "I look.") and json.loads(pair.rejected_calls) == calls
