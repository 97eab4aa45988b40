"""The reward that a policy earns on given prompts, for comparing policies."""

from __future__ import annotations

from collections.abc import Sequence

from refine_dagster.generation.request import Complete
from refine_dagster.knobs import InstanceKnobs
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.instances import InstancePrompt, instance_requests, scored_answers


def mean_rewards(
    prompts: Sequence[InstancePrompt],
    complete: Complete,
    feedback: Feedback,
    knobs: InstanceKnobs,
    samples: int,
    salt: str,
) -> list[float]:
    """The mean reward of each prompt over `samples` completions of the policy behind `complete`.

    Sample 0 of a prompt is the very request that the datasets are made of, so it is asked once.
    """
    requests = [
        request
        for sample in range(samples)
        for request in instance_requests(prompts, knobs, salt, sample)
    ]
    scored = scored_answers([*prompts] * samples, requests, complete, feedback)
    rewards = [one.reward for one in scored]
    return [sum(rewards[place :: len(prompts)]) / samples for place in range(len(prompts))]
