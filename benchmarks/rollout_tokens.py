"""Tokens a rollout: prompts with demonstrations, as published, and none after a start on the seeds.

Run it from the repository's root, on any causal model:

    python benchmarks/rollout_tokens.py MODEL --profile laptop --set device.dtype=bfloat16

Some of the packaged seeds' instructions are asked about; the policy is shown, and learns from, the
other seeds alone. Completions are sampled as rollouts are. A token counts up to and with the one
that ends the completion; *valid* is the share that passes the format gate.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from plain_run import Answers, Folders
from refine_dagster import stages
from refine_dagster.config.profile import Profile, load_profile
from refine_dagster.draws import draw
from refine_dagster.generation.completions import GeneratorSession
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import ModelRef, loaded_model, resolve_model
from refine_dagster.prompts.example import read_instance
from refine_dagster.refine_af.instances import instance_prompts, instance_requests
from refine_dagster.runtime import Runtime
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.warehouse.rows import Row, make_row


def main() -> None:
    arguments = _arguments()
    overrides = dict(given.split("=", 1) for given in arguments.set)
    profile = load_profile(arguments.profile, overrides)
    rows = [make_row("seed_tasks", seed.row()) for seed in read_seeds(profile.seeds.path).seeds]
    names = {row["instruction"]: row for row in rows}
    asked = draw(names, arguments.instructions, profile.run_seed, "rollout tokens")
    pool = [names[text] for text in asked]
    seeds = [row for row in rows if row["instruction"] not in asked]
    table = Table("start", "prompt", "completion", "together", "valid", "seconds of training")
    for steps in (0, arguments.steps):
        table.add_row(*figures(profile, arguments.model, steps, pool, seeds, arguments.samples))
    Console().print(table)


def figures(
    profile: Profile,
    model: str,
    steps: int,
    pool: Sequence[Row],
    seeds: Sequence[Row],
    samples: int,
) -> list[str]:
    """A form's line of the table: mean tokens, and the share of valid completions."""
    config = profile.instances.model_copy(
        update={
            "start_steps": steps,
            "temperature": profile.reinforcement.temperature,
            "top_p": 1.0,
        }
    )
    with device_session(profile.device) as device, tempfile.TemporaryDirectory() as folder:

        @contextmanager
        def generator(ref: ModelRef) -> Iterator[GeneratorSession]:
            with loaded_model(ref, device) as loaded:
                backend = TransformersBackend(loaded, profile.generator.batch_size)
                yield GeneratorSession(backend, Answers(), ref.fingerprint)  # type: ignore[arg-type]

        runtime = Runtime(profile.run_seed, device, Folders(Path(folder)), generator)
        policy = stages.given_base(model, resolve_model(model)).model
        begun = time.monotonic()
        if steps:
            policy = stages.start_policy(policy, seeds, config, profile.supervised, runtime).model
        seconds = time.monotonic() - begun
        with generator(policy.ref) as session:
            count_tokens = session.backend.count_tokens
            prompts = instance_prompts(pool, seeds, count_tokens, config, profile.run_seed)
            completions = session.complete(
                [
                    request
                    for sample in range(samples)
                    for request in instance_requests(prompts, config, profile.run_seed, sample)
                ]
            )
    before = fmean(completion.prompt_tokens for completion in completions)
    written = fmean(completion.completion_tokens for completion in completions)
    valid = fmean(
        read_instance(answer.text, finished=answer.finish_reason != "length").format_valid
        for answer in completions
    )
    return [
        f"{steps} steps",
        *(f"{tokens:.0f}" for tokens in (before, written, before + written)),
        f"{valid:.0%}",
        f"{seconds:.0f}" if steps else "",
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder or a Hugging Face id")
    parser.add_argument("--profile", help="offline, laptop, gpu, or a YAML file")
    parser.add_argument("--steps", type=int, default=30, help="of the start")
    parser.add_argument("--instructions", type=int, default=16)
    parser.add_argument("--samples", type=int, default=2, help="rollouts of an instruction")
    parser.add_argument("--set", action="append", default=[], help="a config field")
    return parser.parse_args()


if __name__ == "__main__":
    main()
