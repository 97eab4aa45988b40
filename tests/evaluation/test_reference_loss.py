"""The loss of reference answers, on a model whose next token can be worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from refine_dagster.config.learning import EvaluationConfig
from refine_dagster.evaluation.reference_loss import (
    TEMPERATURES,
    answer_losses,
    reference_losses,
    task_kind,
)
from refine_dagster.evaluation.super_ni import Task, TaskInstance
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import LoadedModel, ModelRef
from refine_dagster.prompts.example import Example

CONFIG = EvaluationConfig()


class Letters:
    """A tokenizer of characters."""

    eos_token_id = 0

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def get_vocab(self) -> dict[str, int]:
        return {chr(code): code for code in range(128)}


class Repeats:
    """A model of 128 tokens that expects the last token again, by a logit of `certainty`."""

    def __init__(self, certainty: float) -> None:
        self._certainty = certainty
        self.config = SimpleNamespace(max_position_embeddings=4096, eos_token_id=0)

    def __call__(self, *, input_ids: Any, use_cache: bool, logits_to_keep: int) -> Any:
        from torch.nn.functional import one_hot

        logits = self._certainty * one_hot(input_ids, 128).float()
        return SimpleNamespace(logits=logits[:, -logits_to_keep:])


def loaded(certainty: float) -> LoadedModel:
    device = Device("cpu", "float32", 1, True)
    model: Any = Repeats(certainty)
    tokenizer: Any = Letters()
    return LoadedModel(model, tokenizer, ModelRef("nowhere", "f"), device)


def by_hand(certainty: float, repeated: float) -> float:
    """Nats a token where a share of the tokens repeats the one before."""
    return math.log(math.exp(certainty) + 127) - certainty * repeated


def test_the_loss_is_the_mean_over_the_answer_alone() -> None:
    # " aaa": the space follows the colon, the first letter the space, two letters repeat.
    assert answer_losses(loaded(3.0), "Output:", "aaa") == [pytest.approx(by_hand(3.0, 2 / 4))]
    assert answer_losses(loaded(3.0), "other:", "aaa") == answer_losses(
        loaded(3.0), "Output:", "aaa"
    )


def test_a_long_answer_is_cut_and_a_temperature_divides_the_logits() -> None:
    [cut] = answer_losses(loaded(3.0), "Output:", "a" * 500, most=3)
    assert cut == pytest.approx(by_hand(3.0, 1 / 3))
    assert answer_losses(loaded(3.0), "Output:", "aaa", (2.0,)) == [
        pytest.approx(by_hand(1.5, 2 / 4))
    ]


def test_the_temperature_undoes_what_a_model_is_too_sure_of() -> None:
    task = Task(
        "t", "Say it.", ("c",), (TaskInstance("", ("aaa",)), TaskInstance("", ("b", "bbbb")))
    )
    examples = [Example("Repeat.", "", "ccc")]
    calm, sure = (
        reference_losses(loaded(certainty), [task], examples, CONFIG) for certainty in (4.0, 8.0)
    )
    # Half of the calibration's tokens repeat: the best logit is log 127 whatever the model's is.
    for found, certainty in ((calm, 4.0), (sure, 8.0)):
        assert certainty / found.temperature == pytest.approx(math.log(127), rel=0.026)
        assert found.temperature in TEMPERATURES
    assert sure.tasks[0].uncalibrated > calm.tasks[0].uncalibrated + 0.5
    assert sure.tasks[0].loss == pytest.approx(calm.tasks[0].loss, abs=0.01)
    # Of several references the likeliest: " bbbb" repeats 3 of 5 tokens.
    expected = (by_hand(4.0, 2 / 4) + by_hand(4.0, 3 / 5)) / 2
    assert calm.tasks[0].uncalibrated == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["yes", "no", "yes", "no"], "classification"),
        (["yes", "no", "yes"], "generation"),
        (["a pear", "a plum", "a fig"], "generation"),
    ],
)
def test_a_task_whose_answers_repeat_is_a_classification(answers: list[str], kind: str) -> None:
    instances = tuple(TaskInstance("", (answer,)) for answer in answers)
    assert task_kind(Task("t", "d", ("c",), instances)) == kind
