"""Options: the strict, frozen base model of everything a recipe may set."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


class Options(BaseModel):
    """Options of a recipe: an unknown key is an error, and values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The part of the options that determines the result and enters the fingerprint."""
        return self.model_dump(mode="json")


def _number_or_share(value: int | str) -> int | str:
    """A whole number of rows as it is; a share without spaces. Raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError("expected a whole number of rows such as 100, or a share of them such as 1%")
    return f"{match[1]}%"


RowLimit = Annotated[int | str, AfterValidator(_number_or_share)]
"""A number of rows (100) or a share of them (1%)."""
