"""Resource `profile`: the config of the run."""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import Field

from refine_dagster.config.profile import Profile, load_profile
from refine_dagster.config.section import ProfileError


class ProfileResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The config of the run, from a profile, the environment and the launchpad."""

    name: str | None = Field(
        default=None,
        description="A packaged profile (offline, laptop, gpu) or the path of a YAML file; "
        "REFINE_PROFILE if unset.",
    )
    overrides: dict[str, Any] = Field(
        default={},
        description="Config fields of this run, dotted: {'self_instruct.target': 200}. "
        "`refine-dagster config describe` prints all of them.",
    )
    rounds: int | None = Field(
        default=None,
        description="Policy rounds of the loaded graph. A run cannot have another number: set "
        "`rounds` in the profile or as REFINE_ROUNDS, and reload the definitions.",
    )

    def load(self) -> Profile:
        """The profile of the run; ProfileError if it has other rounds than the loaded graph."""
        profile = load_profile(self.name, launchpad=self.overrides)
        if self.rounds is not None and profile.rounds != self.rounds:
            raise ProfileError(
                f"the run has rounds = {profile.rounds}, the loaded graph {self.rounds}",
                where="rounds",
                fix=f"set REFINE_ROUNDS={profile.rounds} and reload the definitions: each round "
                "has assets of its own",
            )
        return profile
