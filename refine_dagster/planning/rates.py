"""How fast a model reads, writes and learns on this machine, measured in seconds.

Nothing is kept: the text that is read is a seed, what is written is thrown away, and no weight is
changed (a forward and a backward pass, without the optimiser's step).

On one thread of a processor its processor time is counted: what the clock shows where nothing else
runs. Otherwise it is the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from refine_dagster.config.dataset import SelfInstructConfig
from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.generation.decoding import Sequences, Writing, next_tokens, request_noise
from refine_dagster.generation.model_text import ModelText
from refine_dagster.generation.request import Sampling
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import LoadedModel, ModelRef, loaded_model
from refine_dagster.models.padding import pad_left
from refine_dagster.prompts.example import STOP
from refine_dagster.training.trainer_session import lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Clock = Callable[[], float]
# What one rate may take, about, and its most repetitions.
SECONDS = 1.5
REPEATS = 6
# Shortest prompt that is written after, in tokens.
SHORTEST = 8


@dataclass(frozen=True)
class Shape:
    """Sequences of a pass, and tokens of each."""

    rows: int
    length: int


@dataclass(frozen=True)
class Shapes:
    """What is measured: reading prompts, writing, and the three kinds of training of a run."""

    prompt: Shape
    full: Shape | None
    fine_tuning: Shape
    policy: Shape


@dataclass(frozen=True)
class Rates:
    """Tokens a second, and seconds; the fastest of some repetitions.

    Attributes:
        share: of the time that its threads could have had, what this process got; well below 1,
            something else was running, or a card did the work.
        load: seconds to load the model.
        rows, written: tokens a second of so many completions that are written together.
        read: prompt tokens a second.
        step, step_row: a token of each of n completions takes `step + n * step_row` seconds.
        full, fine_tuning, policy: tokens a second of a forward and a backward pass: of all weights,
            of a LoRA update in the shape of a fine-tuning's step, and of a policy's.
    """

    share: float
    load: float
    rows: int
    read: float
    written: float
    step: float
    step_row: float
    full: float
    fine_tuning: float
    policy: float


def measure_rates(
    ref: ModelRef,
    device: Device,
    prompt: str,
    shapes: Shapes,
    sampling: SelfInstructConfig,
    training: ReinforcementConfig,
) -> Rates:
    """Load the model and measure; some seconds."""
    from peft import get_peft_model

    clock = process_time if device.name == "cpu" and device.threads == 1 else perf_counter
    started = clock()
    with loaded_model(ref, device) as loaded:
        load = clock() - started
        begun, used = perf_counter(), process_time()
        ids = (loaded.tokenizer(prompt)["input_ids"] * shapes.prompt.length)[: shapes.prompt.length]
        read = _reading(loaded, ids, shapes.prompt.rows, clock)
        rows = shapes.prompt.rows
        few = max(1, rows // 4)
        start = ids[: max(SHORTEST, min(len(ids), int(read * SECONDS / rows)))]
        of_all, of_few = (_writing(loaded, start, n, sampling, clock) for n in (rows, few))
        step_row = max(0.0, (of_all - of_few) / (rows - few)) if rows > few else 0.0
        full = _learning(loaded.model, ids, shapes.full, read, clock) if shapes.full else 0.0
        adapted = get_peft_model(
            loaded.model, lora(loaded.model, training.lora_rank, training.lora_alpha)
        )
        fine_tuning = _learning(adapted, ids, shapes.fine_tuning, read, clock)
        policy = _learning(adapted, ids, shapes.policy, read, clock)
        share = (process_time() - used) / (perf_counter() - begun) / device.threads
    step = max(0.0, of_all - rows * step_row)
    return Rates(
        share=share,
        load=load,
        rows=rows,
        read=read,
        written=rows / of_all,
        step=step,
        step_row=step_row,
        full=full,
        fine_tuning=fine_tuning,
        policy=policy,
    )


def _seconds(work: Callable[[], Any], clock: Clock) -> float:
    """The shortest time of some repetitions: what else runs on the machine counts least there."""
    times: list[float] = []
    while len(times) < 1 + REPEATS and sum(times) < SECONDS:
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)


def _reading(loaded: LoadedModel, ids: list[int], rows: int, clock: Clock) -> float:
    """Prompt tokens a second, of as many rows as time allows."""
    import torch

    pad = loaded.tokenizer.pad_token_id

    def read(count: int) -> None:
        Sequences(loaded.model, pad_left([ids] * count, pad), 1)

    with torch.inference_mode():
        read(1)
        one = _seconds(lambda: read(1), clock)
        rows = max(1, min(rows, int(SECONDS / one)))
        return rows * len(ids) / _seconds(lambda: read(rows), clock)


def _writing(
    loaded: LoadedModel, start: list[int], rows: int, config: SelfInstructConfig, clock: Clock
) -> float:
    """Seconds for one token of each of `rows` completions after the prompt `start`."""
    import torch

    text = ModelText.of(loaded.model, loaded.tokenizer)
    most = 4 * REPEATS
    sampling = Sampling(most, config.temperature, config.top_p, config.presence_penalty, STOP)
    writings = [Writing(start, sampling, request_noise(row)) for row in range(rows)]
    times: list[float] = []
    with torch.inference_mode():
        prompts = pad_left([start] * rows, loaded.tokenizer.pad_token_id)
        sequences = Sequences(loaded.model, prompts, most)
        while len(times) < most and sum(times) < SECONDS:
            started = clock()
            tokens = next_tokens(writings, sequences.logits)
            for writing, token in zip(writings, tokens, strict=True):
                writing.add(token, text)
            sequences.read(np.array(tokens, dtype=np.int64)[:, np.newaxis])
            times.append(clock() - started)
    return min(times)


def _learning(
    model: PreTrainedModel | Any, ids: list[int], shape: Shape, read: float, clock: Clock
) -> float:
    """Trained tokens a second, of as many rows of the shape as time allows."""
    import torch

    length = max(2, shape.length)
    rows = max(1, min(shape.rows, int(read * SECONDS / length)))
    batch = torch.tensor([(ids * length)[:length]] * rows, device=model.device)

    def learn() -> None:
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    model.train()
    seconds = _seconds(learn, clock)
    model.eval()
    return rows * length / seconds
