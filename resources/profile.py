"""Resource `profile`: the knobs of the run."""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import Field

from refine_dagster.profile import Profile, load_profile


class ProfileResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The knobs of the run, from a profile, the environment and the launchpad."""

    name: str | None = Field(
        default=None,
        description="A packaged profile (offline, laptop, gpu) or the path of a YAML file; "
        "REFINE_PROFILE if unset.",
    )
    overrides: dict[str, Any] = Field(
        default={},
        description="Knobs to set for this run, dotted: {'self_instruct.target': 200}. "
        "refine_dagster/profile.py lists them.",
    )

    def load(self) -> Profile:
        """Read and validate; raises ProfileError with every problem at once."""
        return load_profile(self.name, self.overrides)
