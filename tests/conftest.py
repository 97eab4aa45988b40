"""What several tests share: a tiny model in Hugging Face format, and a CPU session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.config.models import DeviceConfig
from refine_dagster.models.device import Device, device_session
from refine_dagster.offline.corpus import train_tokenizer
from refine_dagster.prompts.example import Example

_THINGS = ("cat", "dog", "sun", "rain", "ship", "bread", "drum", "rose", "ball", "lamp")
_PLACES = ("sea", "school", "garden", "kitchen", "street", "hill", "shop", "park")


def _examples() -> list[Example]:
    made = [
        Example(f"Name the place of a {thing}.", "", f"the {_PLACES[n % 8]}")
        for n, thing in enumerate(_THINGS)
    ]
    for n, thing in enumerate(_THINGS):
        for m, place in enumerate(_PLACES):
            words = f"{thing} {place} {_THINGS[(n + m) % 10]}"
            made += [
                Example("Reverse the order of the words.", words, " ".join(words.split()[::-1])),
                Example("Count the words.", words, "3"),
                Example(
                    f"Write a sentence about the {place}.", "", f"The {thing} is at the {place}."
                ),
            ]
    return made


# Files that make the homes which others copy, then the longest.
FIRST = (
    "test_whole_graph.py",
    "test_retraction.py",
    "test_resume_after_kill.py",
    "test_incremental_equals_rebuild.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real runs first: they take longest, and two processes should end together."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.name
        first = FIRST.index(name) if name in FIRST else len(FIRST)
        return first, item.path.parent.name != "pipeline"

    items.sort(key=place)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of about 0.1 M parameters, trained for a moment on examples, in Hugging Face format.

    Context 512 tokens, vocabulary up to 512; it writes letters and line breaks, and hardly sense.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_model")
    text = "\n\n".join(example.render() for example in _examples())
    tokenizer = train_tokenizer([text], vocab_size=512, context_length=512)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config)
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    width = 64
    for step in range(80):
        starts = [(step * 8 + row) * 97 % (len(ids) - width) for row in range(8)]
        batch = torch.stack([ids[start : start + width] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def cpu_device() -> Iterator[Device]:
    """A deterministic session on the CPU, one thread, float32."""
    with device_session(DeviceConfig(device="cpu", threads=1)) as device:
        yield device
