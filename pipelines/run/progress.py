"""A run's story: one bar per stage in a terminal, plain lines in a log. Quiet about everything else."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LOG_EVERY_S = 15.0


class Story:
    """Shows what a run does. A stage sees it as `Progress` (pipelines/stage.py): update and note."""

    def __init__(self, file: TextIO | None = None, *, quiet: bool = False):
        self.console = Console(file=file or sys.stderr, highlight=False, emoji=False, soft_wrap=True)
        self.quiet = quiet
        self.stage = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._logged = 0.0  # when the last line of a log was written
        self._complete = ""  # the count that was last shown as complete

    def note(self, text: str) -> None:
        """One line, shown once."""
        if not self.quiet:
            self.console.print(f"  {text}" if self.stage else text, markup=False)

    def warn(self, text: str) -> None:
        """One line that people must not miss; shown even when quiet."""
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    def begin(self, stage: str, text: str = "") -> None:
        """A stage starts."""
        self.end()
        self.stage, self._logged, self._complete = stage, 0.0, ""
        if not self.quiet:
            self.console.print(f"{stage:<12} {text}".rstrip(), style="bold", markup=False)

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        """Moves the stage's bar; in a log a line every 15 s and one when all is done."""
        if self.quiet:
            return
        shown = "  ".join(f"{name} {_figure(value)}" for name, value in figures.items())
        if self.console.is_terminal:
            self._draw(done, total, unit, shown)
            return
        count = f"{_figure(done)} of {_figure(total)} {unit}"
        complete = done >= total and count != self._complete
        if complete or (done < total and time.monotonic() - self._logged > LOG_EVERY_S):
            self._logged, self._complete = time.monotonic(), count if complete else ""
            self.console.print(f"  {count}  {shown}".rstrip(), markup=False)

    def _draw(self, done: float, total: float, unit: str, shown: str) -> None:
        if self._bar is None:
            texts = [TextColumn(f"{{task.fields[{field}]}}", markup=False) for field in ("count", "shown")]
            columns = (TextColumn("  "), BarColumn(bar_width=28), *texts, TimeRemainingColumn(compact=True))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=total, count="", shown="")
            self._bar.start()
        assert self._task is not None
        count = f"{_figure(done)}/{_figure(total)} {unit}"
        self._bar.update(self._task, completed=done, total=total, count=count, shown=shown)

    def end(self, text: str = "") -> None:
        """The stage is over: the bar goes, a line stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        if text and not self.quiet:
            self.console.print(f"  {text}", markup=False)
        self.stage = ""


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
