"""A section of a profile: its knobs are named, typed, described and immutable."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Knobs(BaseModel):
    """A section of a profile; unknown names are refused and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
