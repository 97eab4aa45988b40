"""Student progress: the influence of a row is the product of its gradient with the reference's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.errors import RefineError
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import LoadedModel, loaded_model, resolve_model
from refine_dagster.prompts.example import Example
from refine_dagster.training.influence import Influence
from refine_dagster.training.sft import training_example
from tests.builders.writing_model import WORDS

REFERENCE = [Example("Say the word twice.", word, f"{word} {word}") for word in WORDS[:6]]
ROWS = [
    *(Example("Say the word twice.", word, f"{word} {word}") for word in WORDS[6:]),
    Example("Say the word twice.", "ship", "milk rain desk cat"),
    Example("Write about cat.", "", "pool food"),
]


@pytest.fixture(scope="module")
def student(writing_model_folder: Path, device: Device) -> Iterator[LoadedModel]:
    with loaded_model(resolve_model(str(writing_model_folder)), device) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def influence(writing_model_folder: Path, device: Device) -> Iterator[Influence]:
    student = resolve_model(str(writing_model_folder))
    with Influence.opened(student, REFERENCE, device) as opened:
        yield opened


def values(influence: Influence, rows: list[Example]) -> list[float]:
    columns = {
        name: [getattr(row, name) for row in rows] for name in ("instruction", "input", "output")
    }
    return influence(columns["instruction"], columns["output"], **columns)


def test_it_is_the_product_of_gradients_over_that_of_the_reference_with_itself(
    influence: Influence, student: LoadedModel
) -> None:
    import torch

    def gradient(rows: list[Example]) -> torch.Tensor:
        student.model.zero_grad()
        for row in rows:
            tokens = training_example(student.tokenizer, row)
            ids, labels = (torch.tensor([tokens[name]]) for name in ("input_ids", "labels"))
            (student.model(input_ids=ids, labels=labels).loss / len(rows)).backward()
        weights = [weight for weight in student.model.parameters() if weight.grad is not None]
        return torch.cat([weight.grad.flatten() for weight in weights]).double()

    reference = gradient(REFERENCE)
    expected = [float(gradient([row]) @ reference / (reference @ reference)) for row in ROWS]
    assert values(influence, ROWS) == pytest.approx(expected, rel=0.05, abs=0.01)
    # The reference's own rows bring what they measure, on average.
    own = values(influence, REFERENCE)
    assert sum(own) / len(own) == pytest.approx(1.0, rel=0.05)


def test_a_value_depends_on_its_example_alone(influence: Influence) -> None:
    together = values(influence, ROWS)
    assert [values(influence, [row])[0] for row in ROWS[::-1]] == together[::-1]


def test_the_fingerprint_names_student_and_reference(
    influence: Influence, writing_model_folder: Path, device: Device
) -> None:
    student = resolve_model(str(writing_model_folder))
    with Influence.opened(student, REFERENCE[::-1], device) as same:
        assert same.fingerprint == influence.fingerprint
        assert values(same, ROWS[:1]) == values(influence, ROWS[:1])
    with Influence.opened(student, REFERENCE[1:], device) as other:
        assert other.fingerprint != influence.fingerprint


def test_without_a_reference_there_is_nothing_to_measure(student: LoadedModel) -> None:
    with pytest.raises(RefineError, match="no seeds to measure"):
        Influence(student, [])
