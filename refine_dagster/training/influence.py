"""Student progress as a reward part: how much learning a row would help on held-out seeds.

A *student*, the base model fine-tuned on a part of the seeds, has the mean gradient g of its loss
on other seeds, the reference. A small gradient step on a row with gradient g_row lowers the loss
on the reference by the step's length times <g_row, g>, to first order (influence without the
Hessian: TracIn, arXiv 2002.08484; as a reward for a generator, Montessori-Instruct, arXiv
2410.14208). Divided by <g, g> it is the row's `influence`: 1 is what a mean row of the reference
would bring, 0 teaches nothing of it, and below 0 the row does harm. The evaluation's tasks are
never looked at.

<g_row, g> is the derivative of the row's own loss along g. So no gradient is taken for a row: its
loss is read under two copies of the student, one a little ahead along g and one as far behind.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from refine_dagster.errors import RefineError
from refine_dagster.hashing import json_hash
from refine_dagster.models.architecture import context_length
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import LoadedModel, ModelRef, loaded_model
from refine_dagster.prompts.example import Example
from refine_dagster.training.sft import training_example

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# The step to either side changes the loss on the reference by this share of itself: far above
# rounding in float32, and small enough for a straight line.
LOSS_SHARE = 0.01


class Influence:
    """The reward part `influence`, of a loaded student: a function of examples alone.

    Attributes:
        fingerprint: names the student and the reference, 64 hex digits.
    """

    def __init__(self, loaded: LoadedModel, reference: Sequence[Example]) -> None:
        if not reference:
            raise RefineError(
                "there are no seeds to measure a student's progress on", fix="give more seeds"
            )
        texts = sorted({example.render() for example in reference})
        self.fingerprint = json_hash(["influence", loaded.ref.fingerprint, texts])
        self._tokenizer, self._device = loaded.tokenizer, loaded.device
        self._longest = context_length(loaded.model.config)
        self._behind = loaded.model
        gradient, loss = self._gradient(sorted(reference, key=Example.render))
        square = sum(float((one.double() ** 2).sum()) for one in gradient.values())
        self._ahead = copy.deepcopy(loaded.model)
        length = LOSS_SHARE * loss / square if square else 0.0
        _shift(self._behind, gradient, -length)
        _shift(self._ahead, gradient, length)
        self._scale = 1 / (2 * length * square) if square else 0.0

    @staticmethod
    @contextmanager
    def opened(
        student: ModelRef, reference: Sequence[Example], device: Device
    ) -> Iterator[Influence]:
        """Load a student for as long as the block lasts."""
        with loaded_model(student, device) as loaded:
            yield Influence(loaded, reference)

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        *,
        instruction: Sequence[str],
        input: Sequence[str],
        output: Sequence[str],
    ) -> list[float]:
        """The influence of each example; prompts and completions say nothing more."""
        import torch

        values = []
        with torch.no_grad():
            for fields in zip(instruction, input, output, strict=True):
                rise = self._loss(self._ahead, Example(*fields)) - self._loss(
                    self._behind, Example(*fields)
                )
                values.append(float(rise) * self._scale)
        return values

    def _gradient(self, reference: Sequence[Example]) -> tuple[dict[str, Tensor], float]:
        """Parameter -> gradient of the mean loss on the reference; and that loss."""
        model = self._behind
        model.zero_grad(set_to_none=True)
        total = 0.0
        for example in reference:
            loss = self._loss(model, example) / len(reference)
            loss.backward()
            total += float(loss.detach())
        gradient = {
            name: weight.grad.detach().clone()
            for name, weight in model.named_parameters()
            if weight.grad is not None
        }
        model.zero_grad(set_to_none=True)
        return gradient, total

    def _loss(self, model: PreTrainedModel, example: Example) -> Tensor:
        """Mean loss of an example's output and its end, as in fine-tuning; one text a pass."""
        import torch

        tokens = training_example(self._tokenizer, example)
        # Where an example is too long the start of its prompt goes; of a very long output the end.
        ids, labels = (tokens[name][-self._longest :] for name in ("input_ids", "labels"))
        return model(
            input_ids=torch.tensor([ids], device=self._device.name),
            labels=torch.tensor([labels], device=self._device.name),
            use_cache=False,
        ).loss


def _shift(model: Any, gradient: dict[str, Tensor], length: float) -> None:
    """Move the model's weights along a gradient."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in gradient:
                weight.add_(gradient[name], alpha=length)
