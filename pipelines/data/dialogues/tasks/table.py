"""The table of built-in tasks, which train a model without any file of the user's. A new task is one file and one line.

TASKS ──split by argument──► conversations, in English and Chinese ──wrong answers, refusals──► preference pairs
"""

from pipelines.data.dialogues.tasks import (
    choosing,
    digits_to_words,
    look_alike,
    persona,
    reading,
    refusal,
    small_talk,
    words_to_digits,
)
from pipelines.data.dialogues.tasks.task import Task

_IN_ORDER = (
    words_to_digits, digits_to_words, choosing, reading,
    persona, refusal, look_alike, small_talk,
)  # fmt: skip

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _IN_ORDER}
