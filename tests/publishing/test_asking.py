"""Answers come piece by piece, and are those that the evaluation would score."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from refine_dagster.commands import ask
from refine_dagster.config.models import DeviceConfig
from refine_dagster.evaluation.answers import STOP
from refine_dagster.generation.request import Request, Sampling
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.prompts.example import zero_shot_prompt
from refine_dagster.publishing.asking import Respondent, pieces, respondents
from tests.builders.model_home import model_home

QUESTION = "Reverse the order of the words.\n\ncat dog sun"
TOKENS = 16


@pytest.fixture(scope="module")
def answering(
    tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Respondent]]:
    home, _ = model_home(tmp_path_factory.mktemp("models") / "home", tiny_model_folder)
    config = DeviceConfig(device="cpu", threads=1)
    with respondents(home, ["refine_af", "base", "policy"], config) as given:
        yield given


def test_an_answer_is_that_of_the_evaluation(answering: list[Respondent]) -> None:
    for respondent in answering[:2]:
        backend = TransformersBackend(respondent.loaded, batch_size=1)
        prompt = zero_shot_prompt(*QUESTION.split("\n\n"))
        request = Request("respond", prompt, Sampling(TOKENS, stop=STOP), seed=0)
        ((_, completion),) = [pair for batch in backend.generate([request]) for pair in batch]
        written = list(respondent.answer(QUESTION, TOKENS))
        assert len(written) > 1
        assert "".join(written) == completion.text.strip()


def test_a_policy_writes_an_instance(answering: list[Respondent]) -> None:
    policy = answering[2]
    assert policy.model.kind == "policy"
    text = "".join(policy.answer("Count the words.", TOKENS))
    assert text
    assert text != "".join(answering[1].answer("Count the words.", TOKENS))


@pytest.mark.parametrize(("width", "heads"), [(120, 1), (60, 2)])
def test_several_stand_side_by_side_where_they_fit(
    answering: list[Respondent], width: int, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=width, legacy_windows=False)
    monkeypatch.setattr(ask, "console", terminal)
    monkeypatch.setattr(ask, "say", lambda text="": terminal.print(text, markup=False))
    ask.show_answers(answering[:2], QUESTION, TOKENS)
    lines = screen.getvalue().splitlines()
    assert "".join(answering[0].answer(QUESTION, TOKENS)).split()[0] in screen.getvalue()
    first = next(line for line in lines if "refine_af" in line)
    assert ("base" in first) == (heads == 1)


def texts_of(*written: str) -> str:
    return "|".join(pieces(iter(written), ["\n\n", "\nInstruction:"]))


def test_what_may_be_a_stop_is_held_back() -> None:
    assert texts_of(" a", " a\n", " a\nb", " a\nb\n", " a\nb\n\nc") == "a|\nb"
    assert texts_of(" a", " a\nInstr", " a\nInstruction: no") == "a"
    assert texts_of("a", "a\nInstr", "a\nInstrument") == "a|\nInstrument"
    assert texts_of("a\n") == "a"
    assert texts_of() == ""


def test_a_character_is_shown_when_it_is_whole() -> None:
    assert texts_of("a", "a\ufffd", "aé") == "a|é"
    assert texts_of("a", "a\ufffd") == "a|\ufffd"
