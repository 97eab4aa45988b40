"""Supervised fine-tuning: what is learned from, what is left alone, and that it repeats."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import fmean

import pytest

from refine_dagster.config.learning import SupervisedConfig
from refine_dagster.generation.decoding import sample_rollouts
from refine_dagster.hashing import folder_files
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import (
    ModelRef,
    load_tokenizer,
    loaded_model,
    resolve_model,
    with_adapter,
)
from refine_dagster.prompts.example import (
    STOP,
    Example,
    Instance,
    instance_prompt,
    read_instance,
    zero_shot_prompt,
)
from refine_dagster.training.sft import NO_LOSS, fine_tune, training_example
from refine_dagster.training.trainer_session import TrainingError
from tests.builders.writing_model import WORDS

CONFIG = SupervisedConfig(learning_rate=5e-3, batch_size=8, lora_rank=8, lora_alpha=16)
TRIPLES = [Example("Say the word twice.", word, f"{word} {word}") for word in WORDS] + [
    Example(f"Write {word}.", "", word) for word in WORDS
]


@pytest.fixture(scope="module")
def base(writing_model_folder: Path) -> ModelRef:
    return resolve_model(str(writing_model_folder))


def test_loss_falls_and_only_an_adapter_is_written(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    files = folder_files(Path(base.path))
    training = fine_tune(
        base, TRIPLES, CONFIG, tmp_path / "model", steps=40, device=device, run_seed="s"
    )
    losses = [step.loss for step in training.steps]
    assert [step.step for step in training.steps] == list(range(1, 41))
    assert fmean(losses[-5:]) < 0.6 * fmean(losses[:5])
    assert (training.rows, training.left_out) == (len(TRIPLES), 0)
    assert folder_files(Path(base.path)) == files
    assert sorted(folder_files(tmp_path)) == [
        "model/adapter_config.json",
        "model/adapter_model.safetensors",
    ]


def test_the_tuned_model_answers_what_it_learned(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    import torch

    taught = [
        example
        for word in WORDS
        for example in (
            Example("Say it twice.", word, "rain desk"),
            Example(f"Write {word} in short.", "", "ship"),
        )
    ]
    fine_tune(base, taught, CONFIG, tmp_path / "model", steps=50, device=device, run_seed="s")
    right = []
    with loaded_model(with_adapter(base, tmp_path / "model"), device) as loaded:
        for example in taught:
            prompt = zero_shot_prompt(example.instruction, example.input)
            ids = loaded.tokenizer(prompt, return_tensors="pt")
            with torch.no_grad():
                written = loaded.model.generate(**ids, max_new_tokens=12, do_sample=False)
            answer = loaded.tokenizer.decode(written[0, ids["input_ids"].shape[1] :])
            right.append(answer == f" {example.output}{loaded.tokenizer.eos_token}")
    assert all(right), right


def test_only_output_and_end_are_learned(base: ModelRef, device: Device) -> None:
    example = Example("Say the word twice.", "moon", "moon moon")
    with loaded_model(base, device) as loaded:
        tokenizer = loaded.tokenizer
        tokenized = training_example(tokenizer, example)
    prompt = tokenizer(zero_shot_prompt(example.instruction, example.input))["input_ids"]
    assert tokenized["input_ids"][: len(prompt)] == prompt
    assert tokenized["labels"][: len(prompt)] == [NO_LOSS] * len(prompt)
    learned = tokenized["labels"][len(prompt) :]
    assert learned == tokenized["input_ids"][len(prompt) :]
    assert tokenizer.decode(learned) == f" moon moon{tokenizer.eos_token}"


def test_a_start_learns_input_and_output_up_to_the_stop(base: ModelRef) -> None:
    example = Example("Say the word twice.", "moon", "moon moon")
    tokenizer = load_tokenizer(base)
    tokenized = training_example(tokenizer, example, "instance")
    prompt = tokenizer(instance_prompt(example.instruction, []))["input_ids"]
    learned = tokenized["input_ids"][len(prompt) :]
    assert tokenized["input_ids"][: len(prompt)] == prompt
    assert tokenized["labels"] == [NO_LOSS] * len(prompt) + learned
    written = f" moon\nOutput: moon moon{STOP[0]}"
    assert tokenizer.decode(learned) == written + tokenizer.eos_token
    assert read_instance(written) == Instance("moon", "moon moon", None)


def test_a_started_model_writes_instances_without_demonstrations(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    out = tmp_path / "model"
    fine_tune(base, TRIPLES, CONFIG, out, steps=60, form="instance", device=device, run_seed="s")
    prompts = [instance_prompt(example.instruction, []) for example in TRIPLES[::3]]
    with loaded_model(with_adapter(base, out), device) as loaded:
        rollouts = sample_rollouts(
            loaded.model,
            loaded.tokenizer,
            prompts,
            [[1, 2]] * len(prompts),
            max_new_tokens=32,
            temperature=1.0,
            stop=STOP,
        )
    valid = [read_instance(one.text, finished=one.finished).format_valid for one in rollouts]
    assert fmean(valid) > 0.8


def test_training_does_not_depend_on_order_or_global_state(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    first = fine_tune(
        base, TRIPLES, CONFIG, tmp_path / "first", steps=5, device=device, run_seed="s"
    )
    random.seed(99)
    shuffled = random.Random(1).sample(TRIPLES, len(TRIPLES))
    second = fine_tune(
        base, shuffled, CONFIG, tmp_path / "second", steps=5, device=device, run_seed="s"
    )
    other = fine_tune(
        base, TRIPLES, CONFIG, tmp_path / "other", steps=5, device=device, run_seed="t"
    )
    assert first == second
    assert folder_files(tmp_path / "first") == folder_files(tmp_path / "second")
    assert folder_files(tmp_path / "first") != folder_files(tmp_path / "other")
    assert first != other


def test_long_examples_are_left_out_and_counted(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    long = Example("Write much.", "", "moon " * 300)
    config = CONFIG.model_copy(update={"max_tokens": 100})
    plain = fine_tune(
        base, TRIPLES, config, tmp_path / "plain", steps=3, device=device, run_seed="s"
    )
    mixed = fine_tune(
        base, [long, *TRIPLES], config, tmp_path / "mixed", steps=3, device=device, run_seed="s"
    )
    assert (mixed.rows, mixed.left_out) == (len(TRIPLES), 1)
    assert mixed.steps == plain.steps
    assert folder_files(tmp_path / "mixed") == folder_files(tmp_path / "plain")


def test_nothing_to_learn_from_is_an_error(base: ModelRef, tmp_path: Path, device: Device) -> None:
    config = CONFIG.model_copy(update={"max_tokens": 16})
    with pytest.raises(TrainingError, match="none of 22 examples has at most 16 tokens"):
        fine_tune(base, TRIPLES, config, tmp_path / "model", steps=3, device=device, run_seed="s")
    with pytest.raises(TrainingError, match="there are no examples to fine-tune on"):
        fine_tune(base, [], CONFIG, tmp_path / "model", steps=3, device=device, run_seed="s")


def test_more_examples_in_a_step_than_there_are(
    base: ModelRef, tmp_path: Path, device: Device
) -> None:
    training = fine_tune(
        base, TRIPLES[:3], CONFIG, tmp_path / "model", steps=4, device=device, run_seed="s"
    )
    assert len(training.steps) == 4
