"""The log of a run: plain lines in a file, a bar in a terminal, and text printed verbatim."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipelines.run import progress
from pipelines.run.progress import RunLog


def test_a_file_has_lines_for_the_start_progress_and_end_of_a_stage() -> None:
    file = io.StringIO()
    log = RunLog(file)
    log.begin("corpus", "0123456789abcdef")
    for done in range(1, 101):
        log.update(done, 100, "parts", loss=2.34567, where="here")
    log.note("12 rows are bad")
    log.end("done in 1.0 s")
    log.note("next: rayse report")
    assert file.getvalue().splitlines() == [
        "corpus       0123456789abcdef",
        "  1 of 100 parts  loss 2.35  where here",
        "  100 of 100 parts  loss 2.35  where here",
        "  12 rows are bad",
        "  done in 1.0 s",
        "next: rayse report",
    ]


def test_a_file_has_a_progress_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    file = io.StringIO()
    log = RunLog(file)
    log.begin("pretrain")
    for done in (1, 2, 3):
        log.update(done, 10_000, "steps", tokens_per_s=5123.4)
    assert file.getvalue().splitlines()[1:] == [f"  {n} of 10,000 steps  tokens_per_s 5,123" for n in (1, 2, 3)]


def test_quiet_logs_only_warnings() -> None:
    file = io.StringIO()
    log = RunLog(file, quiet=True)
    log.begin("corpus")
    log.update(1, 1, "parts")
    log.note("a note")
    log.warn("a warning")
    log.end("done")
    assert file.getvalue() == "warning: a warning\n"


@pytest.mark.parametrize("text", ["[/red] and [bold]", ":smile:", "中文 😀", "a" * 500])
def test_text_is_printed_verbatim(text: str) -> None:
    file = io.StringIO()
    log = RunLog(file)
    log.note(text)
    log.warn(text)
    assert file.getvalue() == f"{text}\nwarning: {text}\n"


def test_a_terminal_has_a_bar_that_is_removed_when_the_stage_ends() -> None:
    screen = io.StringIO()
    log = RunLog()
    log.console = Console(file=screen, force_terminal=True, width=100, highlight=False)
    log.begin("pretrain")
    for done in (10, 20):
        log.update(done, 20, "steps", loss=2.5, note="[/x]")
    log.end("done in 2.0 s")
    log.end()
    assert "20/20 steps" in screen.getvalue()
    assert "loss 2.5  note [/x]" in screen.getvalue()
    assert screen.getvalue().rstrip().endswith("done in 2.0 s")
