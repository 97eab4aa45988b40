"""Supervised fine-tuning of the base model on instances: REFINE-AF's stage 3, on TRL's SFT.

An arm's example is asked in the words of the evaluation's zero-shot prompt, and only the output and
the end-of-sequence token are learned. All arms get the same number of optimiser steps, so they
differ only in whose instances they learn from. The start of a policy learns instances instead:
input and output behind the prompt that asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refine_dagster import progress
from refine_dagster.config.learning import SupervisedConfig
from refine_dagster.language import ENGLISH, Language
from refine_dagster.models.answer_tokens import answer_tokens
from refine_dagster.models.batches import with_smaller_batches
from refine_dagster.models.device import Device, opened_device
from refine_dagster.models.language_model import (
    ModelRef,
    as_model,
    load_tokenizer,
    loaded_model,
    save_adapter,
)
from refine_dagster.models.memory import TrainingPlan, budgeted_batch
from refine_dagster.prompts.example import Example, instance_lesson, zero_shot_lesson
from refine_dagster.training.trainer_session import (
    TrainingError,
    lora,
    replace_printing,
    trainer_session,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# PyTorch's label of a token without loss.
NO_LOSS = -100
# The table of the start of a policy.
START = "policy_start"
# What an example teaches: its output, or its input and output.
Form = Literal["zero_shot", "instance"]
WARMUP_SHARE = 0.05
# Names this work in progress, budgets and the ledger.
WORK = "fine-tuning"
LOWER = "lower supervised.max_tokens or supervised.lora_rank, or set device.quantization to `nf4`"


@dataclass(frozen=True)
class SupervisedStep:
    """One optimiser step, from 1, and its mean loss over output tokens, nats."""

    step: int
    loss: float


@dataclass(frozen=True)
class SupervisedTraining:
    """A fine-tuning's steps, and how many examples it learned from and left out."""

    steps: list[SupervisedStep]
    rows: int
    left_out: int


def steps_for(instructions: int, config: SupervisedConfig) -> int:
    """Optimiser steps of every arm on a pool of so many instructions."""
    return math.ceil(instructions / config.batch_size) * config.epochs


def fine_tune(
    base: ModelRef | Path | str,
    examples: Sequence[Example | Mapping[str, str]],
    config: SupervisedConfig | Mapping[str, Any] | None,
    out: Path | str,
    *,
    steps: int | None = None,
    form: Form = "zero_shot",
    language: Language = ENGLISH,
    device: Device | None = None,
    run_seed: str = "refine",
) -> SupervisedTraining:
    """Fine-tune a LoRA adapter on examples and save it in `out`.

    Args:
        base: the model to begin with: a model on disk, its folder, or a Hugging Face id.
        examples: in any order. A mapping has an `instruction`, an `output`, and an `input` where
            there is one. config: the section `supervised` of a profile, or some of its fields; None
            takes the defaults. Examples longer than `max_tokens` are left out whole, never cut.
        steps: optimiser steps, exactly; None takes `config.epochs` passes.
        form: `zero_shot`, the output for the evaluation's prompt; or `instance`, input and output
            for the policy's prompt without demonstrations, worded in `language`.
        device: where to train; None opens a session with the default config.
        run_seed: names all noise: equal arguments give equal files on one machine.

    Raises:
        TrainingError: there is no example, or none that is short enough, or the loss is no longer
            a number.
        MemoryFullError: the model does not fit on the card, or not with a single example.
    """
    if not isinstance(config, SupervisedConfig):
        config = SupervisedConfig().changed("supervised", config or {}, "fine_tune")
    learned = [
        example
        if isinstance(example, Example)
        else Example(example["instruction"], example.get("input", ""), example["output"])
        for example in examples
    ]
    if steps is None:
        steps = steps_for(len(learned), config)
    base = as_model(base)
    tokenizer = load_tokenizer(base)
    if not learned:
        raise TrainingError(
            "there are no examples to fine-tune on",
            fix="see in the table `instruction_dataset` and the funnel why no instance was kept",
        )
    ordered = sorted(learned, key=astuple)
    rows = [training_example(tokenizer, item, form, language) for item in ordered]
    tokenized = [row for row in rows if len(row["input_ids"]) <= config.max_tokens]
    if not tokenized:
        raise TrainingError(
            f"none of {len(learned)} examples has at most {config.max_tokens} tokens",
            fix="raise supervised.max_tokens, or give shorter seeds",
        )
    batch = min(config.batch_size, len(tokenized))
    length = max(len(row["input_ids"]) for row in tokenized)
    plan = TrainingPlan(WORK, batch, length, length, lora_rank=config.lora_rank)
    with opened_device(device) as device:
        start = budgeted_batch(base, plan, device, LOWER)
        train = partial(_train, base, tokenized, config, steps, Path(out), device, run_seed, batch)
        trained = with_smaller_batches(device, WORK, batch, start, train, LOWER)
    return SupervisedTraining(trained, len(tokenized), len(learned) - len(tokenized))


def _train(
    base: ModelRef,
    examples: Sequence[dict[str, list[int]]],
    config: SupervisedConfig,
    steps: int,
    out: Path,
    device: Device,
    run_seed: str,
    batch: int,
    size: int,
) -> list[SupervisedStep]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trained: list[SupervisedStep] = []
    with (
        progress.task(WORK, total=steps) as advance,
        trainer_session(device, "supervised", run_seed) as session,
        loaded_model(base, device) as loaded,
    ):
        trainer = SFTTrainer(
            model=loaded.model,
            args=SFTConfig(
                **session.arguments(steps, config.learning_rate),
                lr_scheduler_type="linear",
                warmup_steps=max(1, round(WARMUP_SHARE * steps)),
                per_device_train_batch_size=size,
                gradient_accumulation_steps=batch // size,
                dataset_kwargs={"skip_prepare_dataset": True},
                max_length=None,
            ),
            train_dataset=Dataset.from_list(list(examples)),
            processing_class=loaded.tokenizer,
            peft_config=lora(loaded.model, config.lora_rank, config.lora_alpha),
        )

        def on_log(step: int, logs: Mapping[str, float]) -> None:
            trained.append(SupervisedStep(step, logs["loss"]))
            advance(1, loss=logs["loss"])

        replace_printing(trainer, on_log)
        trainer.train()
        save_adapter(trainer.model, out)
    return trained


def training_example(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    form: Form = "zero_shot",
    language: Language = ENGLISH,
) -> dict[str, list[int]]:
    """Tokens of prompt, completion and end-of-sequence, with labels on the latter two only."""
    if form == "instance":
        prompt, completion = instance_lesson(example, language)
    else:
        prompt, completion = zero_shot_lesson(example)
    prompt_ids, answer = answer_tokens(tokenizer, prompt, completion)
    learned = [*answer, tokenizer.eos_token_id]
    return {
        "input_ids": [*prompt_ids, *learned],
        "labels": [NO_LOSS] * len(prompt_ids) + learned,
    }
