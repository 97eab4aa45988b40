"""What all tests share: which of them are slow, a tiny model, and a CPU session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from refine_dagster.config.models import DeviceConfig
from refine_dagster.models.device import Device, device_session
from refine_dagster.offline.corpus import train_tokenizer
from refine_dagster.prompts.example import Example
from tests.guard import MARK, Guard
from tests.training.writing_model import write_model

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
# Fixtures that train a model or run the graph: a test that uses one is slow.
SLOW_FIXTURES = {
    "built_home",
    "first_assets",
    "tiny_home",
    "tiny_model_folder",
    "writing_model_folder",
}

_guard = Guard()


def pytest_configure() -> None:
    """Put the guard's watches in place before anything trains."""
    _guard.install()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and put real runs first: two processes should end together."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(MARK)

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.name
        first = FIRST.index(name) if name in FIRST else len(FIRST)
        return first, item.path.parent.name != "pipeline"

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Hold the test's fixtures to its mark."""
    with _held_to_its_mark(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Hold the test to its mark."""
    with _held_to_its_mark(item):
        return (yield)


def _held_to_its_mark(item: pytest.Item) -> AbstractContextManager[None]:
    return nullcontext() if item.get_closest_marker(MARK) else _guard.watching()


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


@pytest.fixture(scope="session")
def writing_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of about 0.1 M parameters that mostly writes well-formed instances."""
    return write_model(tmp_path_factory.mktemp("writing_model"))


@pytest.fixture
def cpu_device() -> Iterator[Device]:
    """A deterministic session on the CPU, one thread, float32."""
    with device_session(DeviceConfig(device="cpu", threads=1)) as device:
        yield device
