"""The judge's network: a copy of the base model with four linear outputs, and its folder.

It reads an example as `Example.render()` and the end token. To each token's embedding it adds one
of the mark of its word (`word_marks.py`). The outputs see the text pooled: the hidden states of the
whole text, of the output and of the end token; how likely the language model finds the input and
the output; and the share of each mark. Attention is causal: with attention in both directions
coherence was learnt less well in the same time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine_dagster.errors import RefineError, first_line
from refine_dagster.judge.word_marks import Mark, Marked, marked_words, shifted
from refine_dagster.models.architecture import context_length, text_width
from refine_dagster.models.device import Device
from refine_dagster.models.padding import pad_right
from refine_dagster.models.special_tokens import start_tokens
from refine_dagster.prompts.example import NO_INPUT, Example

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import ModuleDict

# Longest text in tokens; longer ones lose their middle.
MAX_LENGTH = 512
# Mean state of the text, mean state of the output, state of the end token.
POOLS = 3
# Mean and lowest log-probability of a token, of the input and of the output.
LIKELIHOODS = 4
# Room for the shares of marks, of the input and of the output. With the log-probabilities they fill
# 32 numbers, so that rows of features are aligned as the width is: a matrix product rounds a row
# that is not aligned by its position in the batch.
MARK_SHARES = 14
# The linear outputs in order; all but the last are logits.
OUTPUTS = ("naturalness_if_understood", "coherence_if_understood", "understandability", "reward")
FORMAT = 2
# Deviation of the marks' embeddings before training, and the seed of their draw.
MARK_DEVIATION = 0.04
MARK_SEED = 1
BACKBONE = "backbone"
HEADS = "heads.safetensors"
CARD = "judge.json"


class JudgeError(RefineError):
    """A judge cannot be trained or loaded."""


@dataclass(frozen=True)
class Encoded:
    """An example in tokens, a value of `Mark` for each.

    `given` and `response` are the indices of the first tokens after `Input:` and `Output:`.
    """

    ids: tuple[int, ...]
    marks: tuple[int, ...]
    given: int
    response: int


@dataclass(frozen=True)
class Reading:
    """What the network computes of a batch of texts, in float32.

    Attributes:
        raw: shape (rows, 4), the outputs as they are, in the order of `OUTPUTS`.
        log_likelihood: shape (rows,), mean log-probability of a token of input and output.
    """

    raw: Tensor
    log_likelihood: Tensor


@dataclass(frozen=True)
class _Tokens:
    """Ids and marks of a batch, shape (rows, length); `given`, `response` and end, (rows, 3)."""

    ids: Tensor
    marks: Tensor
    starts: Tensor

    @property
    def of_input(self) -> Tensor:
        return (self._positions >= self.starts[:, 0:1]) & (self._positions < self.starts[:, 1:2])

    @property
    def of_output(self) -> Tensor:
        return (self._positions >= self.starts[:, 1:2]) & (self._positions < self.starts[:, 2:3])

    @property
    def _positions(self) -> Tensor:
        import torch

        return torch.arange(self.ids.shape[1], device=self.ids.device)[None, :]

    def features(self, states: Tensor, log_likelihoods: Tensor) -> Tensor:
        """Pooled states, log-probabilities of the tokens from the second on, shares of marks."""
        import torch

        of_input, of_output, end = self.of_input, self.of_output, self.starts[:, 2:3]
        rows = torch.arange(len(self.ids), device=self.ids.device)
        # Before the means: gradients are added up in the opposite order.
        last = states[rows, end[:, 0] - 1]
        features = [
            _mean(states, self._positions < end),
            _mean(states, of_output),
            last,
            *(_likelihoods(log_likelihoods, part[:, 1:]) for part in (of_input, of_output)),
            *(_shares(self.marks, part) for part in (of_input, of_output)),
        ]
        return torch.cat(features, dim=-1)


class Network:
    """Backbone (a causal language model) and heads (`new_heads`) in memory.

    Raises:
        JudgeError: the tokenizer is not a fast one, which gives the characters of each token.
    """

    def __init__(
        self, backbone: Any, heads: ModuleDict | None, tokenizer: Any, device: Device
    ) -> None:
        if not tokenizer.is_fast:
            raise JudgeError(
                f"{type(tokenizer).__name__} does not give the characters of each token, which "
                "the offline judge needs",
                where="config field base_model.id",
                fix="use a model with a tokenizer.json, or set judge.kind to `published`",
            )
        self.backbone = backbone
        self.heads = heads
        self.tokenizer = tokenizer
        self._device = device
        self.max_length = min(context_length(backbone.config), MAX_LENGTH)

    def encode(self, example: Example) -> Encoded:
        """Tokens of the example and the end token.

        An output that is too long keeps its start and its end and at most half of the room; so does
        the task, with the rest of the room.
        """
        question = f"Instruction: {example.instruction}\nInput:"
        prompt = f"{question} {example.input or NO_INPUT}\nOutput:"
        of_instruction, of_input, of_output = marked_words(
            example.instruction, example.input, example.output
        )
        of_task = shifted(of_instruction, len("Instruction: ")) + shifted(
            of_input, len(question) + 1
        )
        start = [(token, int(Mark.NONE)) for token in start_tokens(self.tokenizer)]
        task = start + self._tokens(prompt, of_task)
        given = min(len(start) + len(self._tokens(question, [])), len(task) - 1)
        answer = self._tokens(f" {example.output}", shifted(of_output, 1))
        answer.append((self.tokenizer.eos_token_id, Mark.NONE))
        room = self.max_length
        if len(task) + len(answer) > room:
            answer = _without_middle(answer, max(room // 2, room - len(task)))
            task = _without_middle(task, room - len(answer))
            given = min(given, len(task) // 2)
        ids, marks = zip(*task, *answer, strict=True)
        return Encoded(ids, marks, given, len(task))

    def read(self, batch: Sequence[Encoded], length: int) -> Reading:
        """Read texts, padded on the right to `length` tokens.

        Attention is causal, so no token sees the padding after it.
        """
        import torch

        assert self.heads is not None
        tokens = self._tokens_of(batch, length)
        embed, marks = self.backbone.get_input_embeddings(), self.heads["marks"](tokens.marks)
        embedded = embed(tokens.ids) + marks
        states = self.backbone.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits = self.backbone.get_output_embeddings()(states[:, :-1])
        # Of the tokens from the second on; the first is not predicted.
        log_likelihoods = -torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens.ids[:, 1:].flatten(), reduction="none"
        ).view(len(batch), length - 1)
        either = tokens.of_input | tokens.of_output
        return Reading(
            self.heads["outputs"](tokens.features(states, log_likelihoods)),
            _mean(log_likelihoods[..., None], either[:, 1:])[:, 0],
        )

    def features(self, batch: Sequence[Encoded], length: int) -> Tensor:
        """What the outputs see of texts when the backbone stays as it is, in float32.

        Shape (rows, features). Nothing is added to embeddings, and only tokens of input and output
        go through the output layer, a row at a time: a large vocabulary fills memory.
        """
        import torch

        tokens = self._tokens_of(batch, length)
        head = self.backbone.get_output_embeddings()
        with torch.inference_mode():
            states = self.backbone.base_model(tokens.ids, use_cache=False).last_hidden_state
            log_likelihoods = torch.zeros(len(batch), length - 1, device=states.device)
            for row, text in enumerate(batch):
                predicted = slice(text.given - 1, len(text.ids) - 1)
                log_likelihoods[row, predicted] = -torch.nn.functional.cross_entropy(
                    head(states[row, predicted]).float(),
                    tokens.ids[row, text.given : len(text.ids)],
                    reduction="none",
                )
            return tokens.features(states.float(), log_likelihoods)

    def _tokens_of(self, batch: Sequence[Encoded], length: int) -> _Tokens:
        import torch

        device, pad = self._device.name, self.tokenizer.pad_token_id
        ids, _ = pad_right([text.ids for text in batch], pad, length).tensors(device)
        marks, _ = pad_right([text.marks for text in batch], Mark.NONE, length).tensors(device)
        starts = torch.tensor(
            [[text.given, text.response, len(text.ids)] for text in batch], device=device
        )
        return _Tokens(ids, marks, starts)

    def _tokens(self, text: str, words: Marked) -> list[tuple[int, int]]:
        """Tokens of a text with their marks; a token has the mark of the word that it ends in."""
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        marks = [int(Mark.NONE)] * (len(text) + 1)
        for (start, end), mark in words:
            marks[start + 1 : end + 1] = [int(mark)] * (end - start)
        return [
            (token, marks[end])
            for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]


def damaged(what: str, where: Path) -> JudgeError:
    """The error of a judge's folder that cannot be used."""
    return JudgeError(what, where=str(where), fix="materialise feedback_judge again")


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a judge's folder; `backbone` is `trained` or `frozen`.

    Raises:
        JudgeError: files are missing, or of another format.
    """
    _check_files(folder, CARD, HEADS)
    card: dict[str, Any] = json.loads((folder / CARD).read_text("utf-8"))
    if card.get("format") != FORMAT:
        what = f"a judge of format {card.get('format')}; this version reads format {FORMAT}"
        raise damaged(what, folder / CARD)
    return {"backbone": "trained", **card}


def read_heads(folder: Path) -> dict[str, Tensor]:
    """The layers beside the backbone.

    Raises:
        JudgeError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / HEADS)
    except (OSError, SafetensorError) as error:
        raise damaged(f"the judge cannot be loaded: {first_line(error)}", folder) from error


def read_network(folder: Path, device: Device) -> Network:
    """Read a trained judge's backbone, heads and tokenizer, in float32.

    Raises:
        JudgeError: files are missing or damaged.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    _check_files(folder, f"{BACKBONE}/config.json", f"{BACKBONE}/tokenizer.json")
    logging.disable_progress_bar()
    try:
        backbone = AutoModelForCausalLM.from_pretrained(
            folder / BACKBONE, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder / BACKBONE, local_files_only=True)
        heads = new_heads(backbone)
        heads.load_state_dict(read_heads(folder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(f"the judge cannot be loaded: {first_line(error)}", folder) from error
    backbone.to(device.name).eval()
    return Network(backbone, heads.to(device.name).eval(), tokenizer, device)


def _check_files(folder: Path, *names: str) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise damaged(f"files of the judge are missing: {', '.join(missing)}", folder)


def write_network(network: Network, folder: Path, card: dict[str, Any]) -> None:
    """Write backbone, tokenizer, heads and a card; equal values give equal bytes."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    network.backbone.to("cpu").save_pretrained(folder / BACKBONE)
    network.tokenizer.save_pretrained(folder / BACKBONE)
    assert network.heads is not None
    write_heads(network.heads.state_dict(), folder, card)


def write_heads(heads: Mapping[str, Tensor], folder: Path, card: dict[str, Any]) -> None:
    """Write the layers beside the backbone, and a card."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: weight.cpu().contiguous() for name, weight in heads.items()}
    save_file(on_cpu, folder / HEADS, metadata={"format": "pt"})
    text = json.dumps({"format": FORMAT, **card}, sort_keys=True, indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def new_heads(backbone: Any) -> ModuleDict:
    """The layers beside the backbone.

    `outputs`: four linear outputs of the pooled features, all zero, so that an untrained judge
    answers one half to everything. `marks`: an embedding for each `Mark`, zero for `NONE`.
    """
    import torch

    outputs = torch.nn.Linear(
        POOLS * text_width(backbone) + LIKELIHOODS + 2 * MARK_SHARES, len(OUTPUTS)
    )
    torch.nn.init.zeros_(outputs.weight)
    torch.nn.init.zeros_(outputs.bias)
    width = backbone.get_input_embeddings().weight.shape[1]
    marks = torch.nn.Embedding(len(Mark), width, padding_idx=int(Mark.NONE))
    drawn = torch.randn(len(Mark), width, generator=torch.Generator().manual_seed(MARK_SEED))
    drawn[Mark.NONE] = 0.0
    marks.weight.data.copy_(MARK_DEVIATION * drawn)
    return torch.nn.ModuleDict({"outputs": outputs, "marks": marks})


def log_probabilities(raw: Tensor) -> Tensor:
    """Log-probabilities of naturalness, coherence and understandability, shape (rows, 3).

    Text that cannot be understood is neither natural nor an answer, so the first two are products
    with the third.
    """
    import torch

    logs = torch.nn.functional.logsigmoid(raw[:, :3])
    understood = logs[:, 2:]
    return torch.cat([logs[:, :2] + understood, understood], dim=-1)


def _mean(states: Tensor, chosen: Tensor) -> Tensor:
    weights = chosen.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def _likelihoods(log_likelihoods: Tensor, chosen: Tensor) -> Tensor:
    """Mean and lowest of the chosen log-probabilities, shape (rows, 2)."""
    import torch

    lowest = log_likelihoods.masked_fill(~chosen, 0.0).amin(dim=1, keepdim=True)
    return torch.cat([_mean(log_likelihoods[..., None], chosen), lowest], dim=-1)


def _shares(marks: Tensor, chosen: Tensor) -> Tensor:
    """The share of each mark among the chosen tokens, shape (rows, `MARK_SHARES`)."""
    import torch

    one_hot = torch.nn.functional.one_hot(marks, MARK_SHARES).to(torch.float32)
    return _mean(one_hot, chosen)


def _without_middle(tokens: list[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    if len(tokens) <= room:
        return tokens
    head = room // 2
    return tokens[:head] + tokens[len(tokens) - (room - head) :]
