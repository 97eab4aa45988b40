"""Rollouts written by a vLLM engine that shares the card with the policy in training.

The engine is TRL's own (`use_vllm`, `vllm_mode="colocate"`): TRL starts it beside the policy, hands
it the policy's weights with the adapter merged in after every step, and corrects for what the two
round differently. Stop strings and seeds of noise stay this project's. Nothing here was measured on
a card; `docs/gpu.md` says what was tried.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal

from refine_dagster import progress
from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.generation.decoding import Rollout
from refine_dagster.models.device import Device, restored_variables
from refine_dagster.training.trainer_session import TrainingError

RolloutEngine = Literal["policy", "vllm"]
# TRL sets them for the engine; later trainers would take them for a distributed training.
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def engine_for(config: ReinforcementConfig, device: Device) -> RolloutEngine:
    """What writes the rollouts: `auto` takes vLLM where it can run, and says so where not.

    Raises:
        TrainingError: `vllm` is asked for and cannot run.
    """
    if config.rollout_engine == "policy":
        return "policy"
    obstacle = _obstacle(config, device)
    if obstacle is None:
        return "vllm"
    if config.rollout_engine == "vllm":
        raise TrainingError(
            f"vLLM cannot write the rollouts: {obstacle}",
            where="config field reinforcement.rollout_engine",
            fix="set it to `auto` or `policy`, or remove the obstacle",
        )
    progress.note(f"reinforcement: the policy writes its rollouts itself, {obstacle}")
    return "policy"


def _obstacle(config: ReinforcementConfig, device: Device) -> str | None:
    if config.algorithm != "grpo":
        return f"vLLM is only wired to grpo, not to {config.algorithm}"
    if find_spec("vllm") is None:
        return "vLLM is not installed"
    if device.quantization != "none":
        # huggingface/trl issue 4973: packed weights arrive in shapes that the engine refuses.
        return "TRL cannot hand four-bit weights to vLLM (device.quantization)"
    if device.name != "cuda":
        # vLLM's CPU build packs weights at its start: the policy's cannot be pushed into it.
        return f"the device is {device.name}, not cuda"
    return None


def engine_bytes(config: ReinforcementConfig, device: Device) -> int:
    """What the engine takes of the card: its weights and its key-value cache."""
    if device.name != "cuda":
        return 0
    import torch

    return int(torch.cuda.mem_get_info()[1] * config.vllm_memory_share)


def engine_arguments(config: ReinforcementConfig, length: int) -> dict[str, Any]:
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": config.vllm_memory_share,
        "vllm_max_model_length": length,
    }


@contextmanager
def engine_room(engine: RolloutEngine) -> Iterator[list[Any]]:
    """Around a trainer with an engine: restores the variables and closes the engine at the end.

    The trainer is added to the list that is yielded.
    """
    trainers: list[Any] = []
    if engine != "vllm":
        yield trainers
        return
    with restored_variables(VARIABLES):
        try:
            yield trainers
        finally:
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            for trainer in trainers:
                trainer.vllm_generation = None
            gc.collect()
            cleanup_dist_env_and_memory()


def engine_rollouts(
    llm: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    stop: Sequence[str],
) -> tuple[list[Rollout], list[list[float]]]:
    """One rollout of each prompt's token ids, and its tokens' log-probabilities, in nats.

    `llm` is a `vllm.LLM` that holds the policy's weights; each rollout's noise has a seed.
    """
    from vllm import SamplingParams

    requests = [{"prompt_token_ids": list(ids)} for ids in prompts]
    sampling = [
        SamplingParams(
            max_tokens=max_new_tokens,
            temperature=temperature,
            top_p=1.0,
            stop=list(stop),
            seed=seed,
            logprobs=0,
        )
        for seed in seeds
    ]
    written = [answer.outputs[0] for answer in llm.generate(requests, sampling, use_tqdm=False)]
    rollouts = [
        Rollout(list(ids), list(output.token_ids), output.text, output.finish_reason == "stop")
        for ids, output in zip(prompts, written, strict=True)
    ]
    logs = [
        [logs[token].logprob for token, logs in zip(output.token_ids, output.logprobs, strict=True)]
        for output in written
    ]
    return rollouts, logs
