"""The log of a run: one bar per stage in a terminal, plain lines in a file, and no library output."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipelines.console import printable

LOG_EVERY_S = 15.0


class RunLog:
    """Displays the progress of a run. A stage uses it as `Progress` (pipelines/stage.py): update and note."""

    def __init__(self, file: TextIO | None = None, *, quiet: bool = False):
        self.console = Console(file=file or sys.stderr, highlight=False, emoji=False, soft_wrap=True)
        self.quiet = quiet
        self.stage = ""  # the stage that is running
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._logged = 0.0  # when the last progress line was logged (monotonic clock, seconds)
        self._complete = ""  # the count that was last logged as complete

    def note(self, text: str) -> None:
        """Logs one line."""
        if not self.quiet:
            self.console.print(printable(f"  {text}" if self.stage else text), markup=False)

    def warn(self, text: str) -> None:
        """Logs a warning, even when quiet."""
        self.console.print(printable(f"warning: {text}"), style="yellow", markup=False)

    def begin(self, stage: str, text: str = "") -> None:
        """Logs the start of a stage."""
        self.end()
        self.stage, self._logged, self._complete = stage, 0.0, ""
        if not self.quiet:
            self.console.print(f"{stage:<12} {text}".rstrip(), style="bold", markup=False)

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        """Moves the stage's bar; without a terminal logs a line every 15 s, and one at the end."""
        if self.quiet:
            return
        text = "  ".join(f"{name} {_format(value)}" for name, value in figures.items())
        if self.console.is_terminal:
            self._draw(done, total, unit, text)
            return
        count = f"{_format(done)} of {_format(total)} {unit}"
        is_complete = done >= total and count != self._complete
        is_due = done < total and time.monotonic() - self._logged > LOG_EVERY_S
        if is_complete or is_due:
            self._logged, self._complete = time.monotonic(), count if is_complete else ""
            self.console.print(f"  {count}  {text}".rstrip(), markup=False)

    def _draw(self, done: float, total: float, unit: str, figures: str) -> None:
        if self._bar is None:
            texts = [TextColumn(f"{{task.fields[{field}]}}", markup=False) for field in ("count", "figures")]
            columns = (TextColumn("  "), BarColumn(bar_width=28), *texts, TimeRemainingColumn(compact=True))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=total, count="", figures="")
            self._bar.start()
        assert self._task is not None
        count = f"{_format(done)}/{_format(total)} {unit}"
        self._bar.update(self._task, completed=done, total=total, count=count, figures=figures)

    def end(self, text: str = "") -> None:
        """Ends the stage: removes the bar and logs a line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        if text and not self.quiet:
            self.console.print(f"  {text}", markup=False)
        self.stage = ""


def _format(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
