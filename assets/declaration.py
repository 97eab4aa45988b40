"""How an asset of the pipeline is declared: once, with all that is known of it."""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import dagster as dg

from assets.facts import Facts
from assets.step import Result, Step, materializing
from refine_dagster.config.profile import Profile

Body = Callable[[Step], Result]


@dataclass(frozen=True)
class PipelineAsset:
    """An asset of the pipeline: its definition for Dagster, and its facts."""

    definition: dg.AssetsDefinition
    facts: Facts

    def versioned(self, profile: Profile) -> dg.AssetsDefinition:
        """The definition with the code version that it has under a profile."""
        version = self.facts.code_version(profile)
        return self.definition.map_asset_specs(
            lambda spec: spec.replace_attributes(code_version=version)
        )


def pipeline_asset(
    *,
    group: str,
    kinds: Collection[str],
    owner: str,
    revision: int,
    name: str | None = None,
    deps: Sequence[str] = (),
    config: Sequence[str] = (),
    automated: bool = False,
    outside: Callable[[Profile], str] | None = None,
) -> Callable[[Body], PipelineAsset]:
    """Declare an asset; its body reads the inputs, runs one stage and commits.

    Args:
        owner: the team's name.
        name: the key; without, that of the body.
        deps: keys of what it reads.
        revision, config, automated, outside: see `Facts`.
    """

    def declare(body: Body) -> PipelineAsset:
        facts = Facts(name or body.__name__, revision, tuple(config), automated, outside)

        @dg.asset(
            name=facts.key,
            description=inspect.getdoc(body),
            group_name=group,
            kinds=set(kinds),
            owners=[f"team:{owner}"],
            deps=list(deps),
            required_resource_keys=facts.resources,
        )
        def materialized(context: dg.AssetExecutionContext) -> Result:
            with materializing(context, facts) as step:
                return body(step)

        return PipelineAsset(materialized, facts)

    return declare
