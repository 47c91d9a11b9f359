"""A filter that the user wrote: a function of a document's text, named in the recipe as `path/to/file.py:name`.

def name(text: str) -> bool                             # whether the document is kept
def name(text: str) -> tuple[bool, str]                 # and the reason if it is not: dropped_<reason>; default: name
def name(text: str, meta: dict[str, str]) -> bool       # with the row's meta: the columns that are kept, a page's url
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from pipelines.data.corpus.filters.verdict import KEEP, Verdict, drop
from pipelines.data.text.harm_kinds import HarmKind
from pipelines.data.text.privacy_kinds import PERSONAL_DATA
from pipelines.errors import UserError
from pipelines.user_functions import UserFunction

# Reasons that the stage counts for itself.
RESERVED = ("duplicate_exact", "duplicate_near", "semantic_duplicate", "contaminated", "boilerplate", "unreadable",
            "low_quality", *get_args(HarmKind), PERSONAL_DATA)  # fmt: skip

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Custom:
    """The function, with its code: it runs in tasks on any node."""

    function: UserFunction
    reasons: ClassVar[tuple[str, ...]] = ()  # known only when it runs
    reads_web_words: ClassVar[bool] = False

    def apply(self, text: str, meta: Mapping[str, str]) -> Verdict:
        """Raises UserError where the function fails, or returns something else or a reserved reason."""
        where = f"filters.custom: {self.function.where}"
        try:
            function, takes_meta = _load(self.function)
            result = function(text, dict(meta)) if takes_meta else function(text)
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
def _load(function: UserFunction) -> tuple[Callable[..., Any], bool]:
    """The function, and whether it takes meta. Raises UserError if it takes neither (text) nor (text, meta)."""
    loaded = function.load()
    try:
        signature = inspect.signature(loaded)
    except (TypeError, ValueError):  # of some that are written in C
        return loaded, False
    positional = [one for one in signature.parameters.values() if one.kind in POSITIONAL]
    # A second parameter with a default is an option of the function's own, unless its name says what it is.
    takes_meta = len(positional) > 1 and (
        positional[1].default is inspect.Parameter.empty or positional[1].name == "meta"
    )
    try:
        signature.bind(*(("text", {}) if takes_meta else ("text",)))
    except TypeError:
        raise UserError(
            f"filters.custom: {function.where} has the parameters {signature}; expected (text) or (text, meta)"
        ) from None
    return loaded, takes_meta
