"""The embedded tasks: what Rayse can teach without a user's file. A new one is one file and one line here.

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
