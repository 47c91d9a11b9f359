"""A filter that the user wrote: a function of a document's text, named in the recipe as `path/to/file.py:name`.

def name(text: str) -> bool                   # whether the document is kept
def name(text: str) -> tuple[bool, str]       # and the reason if it is not: dropped_<reason>; default: the name
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from pipelines.data.corpus.filters.filter import KEEP, Verdict, drop
from pipelines.data.text.harm_kinds import HarmKind
from pipelines.data.text.privacy_kinds import PERSONAL_DATA
from pipelines.errors import UserError
from pipelines.user_functions import UserFunction

# Reasons that the stage counts for itself.
RESERVED = ("duplicate_exact", "duplicate_near", "semantic_duplicate", "contaminated", "boilerplate", "unreadable",
            "low_quality", *get_args(HarmKind), PERSONAL_DATA)  # fmt: skip


@dataclass(frozen=True)
class Custom:
    """The function, with its code: it runs in tasks on any node."""

    function: UserFunction
    reasons: ClassVar[tuple[str, ...]] = ()  # known only when it runs
    reads_web_words: ClassVar[bool] = False

    def apply(self, text: str) -> Verdict:
        """Raises UserError where the function fails, or returns something else or a reserved reason."""
        where = f"filters.custom: {self.function.where}"
        try:
            result = _load(self.function)(text)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{where} raised {type(error).__name__}: {error}") from error
        keep, reason = result if isinstance(result, tuple) and len(result) == 2 else (result, self.function.name)
        if not _is_bool(keep) or not isinstance(reason, str):
            raise UserError(f"{where} returned {result!r}; expected whether the document is kept, or (kept, reason)")
        reason = re.sub(r"\W+", "_", reason).strip("_") or self.function.name
        if not keep and reason in RESERVED:
            raise UserError(
                f"{where} gave the reason {reason}; expected another than {', '.join(RESERVED)}, which the stage "
                "counts: return (False, reason) with a reason of your own, or rename the function"
            )
        return KEEP if keep else drop(reason)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # numpy's too


@functools.cache
def _load(function: UserFunction) -> Any:
    return function.load()
