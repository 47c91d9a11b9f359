"""A run's story: quiet lines in a log, a bar in a terminal, and what people write is printed as they wrote it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipelines.run import progress
from pipelines.run.progress import Story


def test_a_log_has_a_line_a_stage_and_its_end() -> None:
    log = io.StringIO()
    story = Story(log)
    story.begin("corpus", "0123456789abcdef")
    for done in range(1, 101):
        story.update(done, 100, "parts", loss=2.34567, where="here")
    story.note("12 rows are bad")
    story.end("done in 1.0 s")
    story.note("next: rayse report")
    assert log.getvalue().splitlines() == [
        "corpus       0123456789abcdef",
        "  1 of 100 parts  loss 2.35  where here",
        "  100 of 100 parts  loss 2.35  where here",
        "  12 rows are bad",
        "  done in 1.0 s",
        "next: rayse report",
    ]


def test_a_log_tells_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    log = io.StringIO()
    story = Story(log)
    story.begin("pretrain")
    for done in (1, 2, 3):
        story.update(done, 10_000, "steps", tokens_per_s=5123.4)
    assert log.getvalue().splitlines()[1:] == [f"  {n} of 10,000 steps  tokens_per_s 5,123" for n in (1, 2, 3)]


def test_quiet_says_warnings_only() -> None:
    log = io.StringIO()
    story = Story(log, quiet=True)
    story.begin("corpus")
    story.update(1, 1, "parts")
    story.note("a note")
    story.warn("a warning")
    story.end("done")
    assert log.getvalue() == "warning: a warning\n"


@pytest.mark.parametrize("text", ["[/red] and [bold]", ":smile:", "中文 😀", "a" * 500])
def test_text_is_printed_as_it_is(text: str) -> None:
    log = io.StringIO()
    story = Story(log)
    story.note(text)
    story.warn(text)
    assert log.getvalue() == f"{text}\nwarning: {text}\n"


def test_a_terminal_has_a_bar_that_goes_when_the_stage_ends() -> None:
    screen = io.StringIO()
    story = Story()
    story.console = Console(file=screen, force_terminal=True, width=100, highlight=False)
    story.begin("pretrain")
    for done in (10, 20):
        story.update(done, 20, "steps", loss=2.5, note="[/x]")
    story.end("done in 2.0 s")
    story.end()
    assert "20/20 steps" in screen.getvalue()
    assert "loss 2.5  note [/x]" in screen.getvalue()
    assert screen.getvalue().rstrip().endswith("done in 2.0 s")
