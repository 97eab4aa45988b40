"""Questions to the home's models, answered token by token, greedily as in the evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from refine_dagster.config.models import DeviceConfig
from refine_dagster.evaluation.answers import STOP as ANSWER_STOP
from refine_dagster.generation.decoding import Sequences
from refine_dagster.generation.model_text import ModelText
from refine_dagster.home import Home
from refine_dagster.language import ENGLISH, Language
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import LoadedModel, loaded_model
from refine_dagster.models.padding import pad_left
from refine_dagster.prompts.example import STOP as INSTANCE_STOP
from refine_dagster.prompts.example import instance_prompt, zero_shot_prompt
from refine_dagster.publishing.home_models import (
    HomeModel,
    find_model,
    language_of_model,
    model_ref,
)
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.warehouse import Warehouse

# What a decoder writes for the bytes of a character that is not whole yet.
UNFINISHED = "\ufffd"


@dataclass(frozen=True)
class Respondent:
    """A loaded model of the home that answers questions."""

    model: HomeModel
    loaded: LoadedModel
    text: ModelText
    language: Language = ENGLISH

    def answer(self, question: str, max_new_tokens: int) -> Iterator[str]:
        """The answer, piece by piece; each question is answered by itself.

        Args:
            question: an instruction and, behind a blank line, its input. A policy takes all of it
                as the instruction, and answers with an input and an output.

        Raises:
            PromptTooLongError: it does not fit into the model's context with `max_new_tokens`.
        """
        if self.model.kind in ("policy", "start"):
            prompt = instance_prompt(question, [], self.language)
            stop: Sequence[str] = INSTANCE_STOP
        else:
            instruction, _, given = question.partition("\n\n")
            prompt, stop = zero_shot_prompt(instruction, given), ANSWER_STOP
        ids = self.text.prompt(prompt)
        self.text.check_length("respond", len(ids), max_new_tokens)
        return pieces(self._written(ids, max_new_tokens), stop)

    def _written(self, prompt: list[int], max_new_tokens: int) -> Iterator[str]:
        """All that is written so far, after each token."""
        import torch

        pad, written = self.loaded.tokenizer.pad_token_id, list[int]()
        with torch.inference_mode():
            sequence = Sequences(self.loaded.model, pad_left([prompt], pad), max_new_tokens)
        while len(written) < max_new_tokens:
            token = int(sequence.logits[0].argmax())
            if token in self.text.eos:
                return
            written.append(token)
            yield self.text.continuation(prompt, written)
            # Not around the whole: other models write in between.
            with torch.inference_mode():
                sequence.read(np.array([[token]]))


@contextmanager
def respondents(
    home: Home, names: Sequence[str], config: DeviceConfig
) -> Iterator[list[Respondent]]:
    """Load models of the home, all at once, in the order of their names.

    Raises:
        RefineError: a name is none of the home's language models.
    """
    warehouse, store = Warehouse(home.warehouse), CheckpointStore(home.checkpoints)
    models = [find_model(warehouse, name) for name in dict.fromkeys(names)]
    refs = [model_ref(warehouse, store, model) for model in models]
    with device_session(config) as device, ExitStack() as stack:
        answering = []
        for model, ref in zip(models, refs, strict=True):
            loaded = stack.enter_context(loaded_model(ref, device))
            text = ModelText.of(loaded.model, loaded.tokenizer)
            answering.append(Respondent(model, loaded, text, language_of_model(warehouse, model)))
        yield answering


def pieces(written: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """What each text adds to the one before, up to the first stop string, blanks before it cut.

    The end of a text is held back while it may be the beginning of a stop string, or of a
    character.

    >>> "|".join(pieces(iter([" a", " a\\n", " a\\nb", " a\\nb\\n", " a\\nb\\n\\nc"]), ["\\n\\n"]))
    'a|\\nb'
    """
    given, text = "", ""
    for whole in written:
        text = whole.lstrip()
        if any(mark in text for mark in stop):
            text = text[: min(text.index(mark) for mark in stop if mark in text)]
            break
        sure = _without_begun(text.rstrip(UNFINISHED), stop).rstrip()
        if sure.startswith(given) and sure != given:
            yield sure[len(given) :]
            given = sure
    text = text.rstrip()
    if text.startswith(given) and text != given:
        yield text[len(given) :]


def _without_begun(text: str, stop: Sequence[str]) -> str:
    """A text without its longest end that a stop string begins with."""
    longest = max(map(len, stop), default=0)
    for start in range(max(0, len(text) - longest), len(text)):
        if any(mark.startswith(text[start:]) for mark in stop):
            return text[:start]
    return text
