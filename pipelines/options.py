"""Options: the strict, frozen base model of everything a recipe may set."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Options of a recipe: an unknown key is an error, and values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The part of the options that determines the result and enters the fingerprint."""
        return self.model_dump(mode="json")
