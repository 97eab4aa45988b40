"""A section of a profile: the base class of all of them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ConfigSection(BaseModel):
    """A section of a profile; unknown names are refused and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
