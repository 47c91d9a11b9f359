"""Reward: the user's own, `path/to/file.py:name`.

    def name(batch: list[dict]) -> list[float]

Each of the batch is {"prompt": [{role, content}], "reply": text, "answer": text or None}, and each gets a number. It
runs in the driver, on whole batches; importing its file runs it, since it is the user's own code.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.rollout.rewards.reward import Answered, Reward, Setting


def function(setting: Setting) -> Reward:
    """Raises UserError where there is no such function, or it fails."""
    where = setting.function
    if where is None:
        raise UserError("rewards.function: no function named; write ppo.function: path/to/file.py:name")
    given = load(where)

    def score(replies: Sequence[Answered]) -> Sequence[float]:
        batch = [{"prompt": list(one.messages), "reply": one.reply, "answer": one.answer} for one in replies]
        try:
            return list(given(batch))
        except Exception as error:
            row = _culprit(given, batch, replies)
            raise UserError(
                f"rewards.function: {where} raised {type(error).__name__}: {error} on {row}; expected a number for "
                f"each reply. Make it give one for any text, the empty one too"
            ) from error

    return score


def _culprit(given: Callable[..., Any], batch: list[dict[str, Any]], replies: Sequence[Answered]) -> str:
    """The first row on which it fails alone too."""
    for row, one in zip(batch, replies, strict=True):
        try:
            list(given([row]))
        except Exception:
            return f"the reply {one.reply[:80]!r} to {one.name}"
    return f"a batch of {len(batch)} replies, though on none of them alone"


def location(where: str) -> tuple[Path, str]:
    """File and name. Raises UserError for anything but path/to/file.py:name."""
    file, _, name = where.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UserError(f"rewards.function: {where!r}; expected path/to/file.py:name")
    return Path(file).expanduser().absolute(), name


def load(where: str) -> Callable[..., Any]:
    """The function, from its file."""
    file, name = location(where)
    spec = importlib.util.spec_from_file_location("rayse_reward_function", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UserError(f"rewards.function: {file}: no such file; expected Python code with a function {name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for the types of its fields
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"rewards.function: {file} cannot be imported ({type(error).__name__}: {error})") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"rewards.function: {file} has no function {name}")
    return found
