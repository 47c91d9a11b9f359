"""tests.driver that stands still at a point of a run, so that a test can kill it exactly there.

python -m tests.stopping_driver MARK UNIT DONE RECIPE STORE …     stops once DONE of UNIT are reported; writes MARK
"""

import sys
import threading
from pathlib import Path

from pipelines.run.progress import RunLog
from tests import driver


def main() -> None:
    mark, stop_unit, stop_done = Path(sys.argv.pop(1)), sys.argv.pop(1), int(sys.argv.pop(1))
    update = RunLog.update

    def stopping(self: RunLog, done: float, total: float, unit: str, **figures: float | str) -> None:
        update(self, done, total, unit, **figures)
        if (unit, done) == (stop_unit, stop_done):
            mark.touch()
            threading.Event().wait()

    RunLog.update = stopping
    driver.main()


if __name__ == "__main__":
    main()
