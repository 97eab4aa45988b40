"""The offline base model learns its formats, is reproducible, and loads like any other model."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from refine_dagster.config.models import BaseModelConfig
from refine_dagster.hashing import folder_files
from refine_dagster.models.device import Device
from refine_dagster.models.files import ModelError
from refine_dagster.models.language_model import loaded_model, resolve_model
from refine_dagster.offline.base_model import (
    END,
    Corpus,
    encode_rows,
    train_base_model,
    train_tokenizer,
)
from refine_dagster.prompts.example import HEADER, Example
from refine_dagster.prompts.proposal import propose_prompt

SEEDS = [
    Example("Name the sound of a dog.", "", "bark"),
    Example("Reverse the order of the words.", "red fish", "fish red"),
    Example("Count the words in the line.", "a small cat", "3"),
]
TINY = BaseModelConfig.model_validate(
    {
        "hidden_size": 64,
        "layers": 1,
        "heads": 2,
        "previous_token_heads": 1,
        "vocab_size": 400,
        "context_length": 256,
        "primer_tasks": 60,
        "steps": 12,
        "batch_size": 4,
        "sequence_length": 64,
        "learning_rate": 5e-3,
    }
)
SCRIPT = """
import sys
from pathlib import Path
from refine_dagster.models.device import device_session
from refine_dagster.config.models import BaseModelConfig, DeviceConfig
from refine_dagster.prompts.example import Example
from refine_dagster.offline.base_model import train_base_model
config = BaseModelConfig.model_validate_json(sys.argv[2])
seeds = [Example(*fields) for fields in eval(sys.argv[3])]
with device_session(DeviceConfig(device="cpu", threads=1)) as device:
    train_base_model(seeds, config, Path(sys.argv[1]), device, run_seed="a")
"""


@pytest.mark.slow
def test_training_lowers_the_loss_and_saves_a_whole_model(tmp_path: Path, device: Device) -> None:
    config = TINY.model_copy(update={"steps": 60})
    training = train_base_model(SEEDS, config, tmp_path, device, run_seed="a")
    losses = [step.loss for step in training.steps]
    assert [step.step for step in training.steps] == list(range(1, 61))
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]
    rates = [step.learning_rate for step in training.steps]
    assert max(rates) == pytest.approx(5e-3)
    assert rates[0] < max(rates)
    assert rates[-1] < 0.1 * max(rates)
    with loaded_model(resolve_model(str(tmp_path)), device) as loaded:
        assert loaded.model.num_parameters() == training.parameters
        assert loaded.model.config.max_position_embeddings == 256
        assert loaded.tokenizer.model_max_length == 256
        assert loaded.model.config.eos_token_id == loaded.tokenizer.eos_token_id
        assert loaded.tokenizer.pad_token_id not in (None, loaded.tokenizer.eos_token_id)


@pytest.mark.slow
def test_equal_inputs_give_equal_files_in_another_process(tmp_path: Path, device: Device) -> None:
    train_base_model(SEEDS, TINY, tmp_path / "here", device, run_seed="a")
    seeds = repr([(seed.instruction, seed.input, seed.output) for seed in SEEDS])
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "there")]
    # Another hash seed, so that no order of a set can have slipped in.
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run([*command, TINY.model_dump_json(), seeds], check=True, env=environment)
    here = folder_files(tmp_path / "here")
    assert here == folder_files(tmp_path / "there")
    assert "model.safetensors" in here
    train_base_model(SEEDS, TINY, tmp_path / "salted", device, run_seed="b")
    assert folder_files(tmp_path / "salted")["model.safetensors"] != here["model.safetensors"]
    train_base_model(SEEDS[:2], TINY, tmp_path / "fewer", device, run_seed="a")
    assert folder_files(tmp_path / "fewer")["model.safetensors"] != here["model.safetensors"]


@pytest.mark.slow
def test_long_and_odd_seeds_are_learnt_from(tmp_path: Path, device: Device) -> None:
    odd = [
        Example("Repeat. " * 5000, "=" * 20_000, " " * 20_000 + "x"),
        Example("Übersetze 日本語 🙂.", "\t\r\n", "naïve"),
    ]
    config = TINY.model_copy(update={"steps": 4})
    training = train_base_model(odd, config, tmp_path, device, run_seed="a")
    assert len(training.steps) == 4
    assert all(0 < step.loss < 20 for step in training.steps)


@pytest.mark.slow
def test_training_leaves_global_randomness_alone(tmp_path: Path, device: Device) -> None:
    import torch

    before = torch.random.get_rng_state()
    train_base_model(SEEDS, TINY.model_copy(update={"steps": 1}), tmp_path, device, run_seed="a")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 4}, r"base_model\.heads"),
        ({"heads": 3}, r"base_model\.heads"),
        ({"previous_token_heads": 3}, r"base_model\.previous_token_heads"),
        ({"sequence_length": 512}, r"base_model\.sequence_length"),
    ],
)
def test_config_that_do_not_fit_are_named(
    tmp_path: Path, device: Device, change: dict[str, int], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        train_base_model(SEEDS, TINY.model_copy(update=change), tmp_path, device, run_seed="a")
    assert not list(tmp_path.iterdir())


def test_documents_are_the_prompts_gone_on_with() -> None:
    primer = [Example(f"Say the number {n}.", "", str(n)) for n in range(40)]
    rows = list(Corpus(SEEDS, primer, random.Random(1)).rows(300, 900))
    assert all(len(row) == 900 for row in rows)
    # The last document of a row may be cut short.
    documents = [document for row in rows for document in row.split(END)[:-1]]
    lists = [text for text in documents if not text.startswith(HEADER)]
    assert 0.1 < len(lists) / len(documents) < 0.4
    for text in lists:
        lines = [line.split(": ", 1)[1] for line in text.splitlines() if line.startswith("Task ")]
        assert len(lines) == len(set(lines))
        for shown in range(1, len(lines)):
            assert text.startswith(propose_prompt(lines[:shown]) + f" {lines[shown]}")
    seed_lines = sum(text.count(seed.instruction) for text in documents for seed in SEEDS)
    assert seed_lines > 0


def test_only_the_tokens_of_outputs_weigh_more() -> None:
    examples = [Example("Say it: Output: no.", "red\nblue", "one fish\nsecond line"), SEEDS[0]]
    text = "\n\n".join([HEADER, *(example.render() for example in examples)]) + END + "Task 1: go"
    tokenizer = train_tokenizer([text], 400, 256)
    length = len(tokenizer(text)["input_ids"])
    ids, weights = encode_rows(tokenizer, [text], length, 3.0)
    assert ids.shape == weights.shape == (1, length)
    assert set(weights[0].tolist()) == {1.0, 3.0}
    assert tokenizer.decode(ids[0][weights[0] > 1]) == f" one fish\n bark{END}"


def test_a_short_row_is_read_again_with_its_weights() -> None:
    text = "Output: x\n"
    tokenizer = train_tokenizer([text], 300, 256)
    once, weighed = encode_rows(tokenizer, [text], len(tokenizer(text)["input_ids"]), 2.0)
    ids, weights = encode_rows(tokenizer, [text], 2 * once.shape[1] + 1, 2.0)
    assert ids[0].tolist() == [*once[0].tolist() * 2, once[0, 0].item()]
    assert weights[0].tolist() == [*weighed[0].tolist() * 2, 1.0]
