"""The judge's network: a copy of the base model with four linear outputs, and its folder.

An example is read as `Example.render()` and the end token. Each token's embedding has added to it
the one of its mark, which says where its word stands in the other parts of the example
(`word_match.py`). The text is pooled: what the transformer body makes of the tokens, over the whole
text, over the output and at the end; how much the tokens of input and output surprise the language
model; and the share of each mark. Attention stays causal: with attention in both directions
coherence was learnt less well in the same time.

Which words of an output stand in its task: exact-match marks beside the judge's tokens.

Most of what makes a short answer right is that it holds the task's own words, all of them, none
twice, in the order asked for. A transformer of a million parameters does not find that out: trained
within the offline profile's minutes it has no circuit that compares two words, and so tells a right
answer from a wrong one of the same kind no better than a coin does. Comparing words needs no
learning, though. So every word is marked by an exact comparison, as readers of question answering
were given an exact-match feature beside each embedding (Chen et al., arXiv 1704.00051), and the
network is left with what it can learn: which marks the right answer to such a task has. Answers
that hold no word of their task, such as sums and facts, are judged little better for it.

The marks say nothing of what is right: copying the input gets the same marks in a task that asks to
join words and in one that asks to sort them. `judge_training.py` teaches the difference.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from refine_dagster.errors import RefineError, first_line
from refine_dagster.hashing import readable_json
from refine_dagster.models.device import Device
from refine_dagster.prompts.example import NO_INPUT, Example

WORD = re.compile(r"[^\W_]+")
# Two words are alike that share their beginning but for so many letters, and at least so many.
TAIL = 2
STEM = 3


class Mark(IntEnum):
    """What is known of a word; `NONE` also marks everything that is no word."""

    NONE = 0
    # Words of the output.
    NEW = 1
    """In neither the input nor the instruction."""
    LIKE = 2
    """Like a word of the task, such as its plural."""
    INSTRUCTED = 3
    """In the instruction only."""
    STARTS = 4
    """The first word taken from the input."""
    NEXT = 5
    """In the input, right after the word taken before it."""
    ONWARD = 6
    """In the input, farther on than the word taken before it."""
    BACK = 7
    """In the input, before the word taken before it."""
    AGAIN = 8
    """In the input, but the output has taken it as often as it stands there."""
    # Words of the task.
    TAKEN = 9
    """A word of the input that the output has."""
    LEFT = 10
    """A word of the input that the output has not."""
    ECHOED = 11
    """A word of the instruction that the output has."""
    UNUSED = 12
    """A word of the instruction that the output has not."""


Span = tuple[int, int]
Marked = list[tuple[Span, Mark]]


def marked_words(instruction: str, given: str, output: str) -> tuple[Marked, Marked, Marked]:
    """The words of instruction, input and output, each with its place in its text and its mark.

    Upper and lower case are equal. A word that stands in instruction and input counts as the
    input's. Where there is no input, the instruction is what words are taken from.

    >>> _, given, output = marked_words("Reverse it.", "one two", "two one")
    >>> [mark.name for _, mark in output], [mark.name for _, mark in given]
    (['STARTS', 'BACK'], ['TAKEN', 'TAKEN'])
    """
    asked, told, said = (_words(text) for text in (instruction, given, output))
    answer = {word for _, word in said}
    source = told if told and given != NO_INPUT else asked
    return (
        [(span, Mark.ECHOED if word in answer else Mark.UNUSED) for span, word in asked],
        [(span, Mark.TAKEN if word in answer else Mark.LEFT) for span, word in told],
        _output_marks(said, [word for _, word in source], {word for _, word in asked}),
    )


def _words(text: str) -> list[tuple[Span, str]]:
    return [(found.span(), found.group().lower()) for found in WORD.finditer(text)]


def _output_marks(
    said: Sequence[tuple[Span, str]], source: Sequence[str], asked: set[str]
) -> Marked:
    places: dict[str, list[int]] = {}
    for place, word in enumerate(source):
        places.setdefault(word, []).append(place)
    known = sorted({*source, *asked})
    marks: Marked = []
    before: int | None = None
    for span, word in said:
        free = places.get(word)
        if free:
            # Of several equal words, the one that goes on from the last, else the first.
            at = free.pop(bisect_left(free, before + 1) % len(free) if before is not None else 0)
            marks.append((span, _step(before, at)))
            before = at
        elif free is not None:
            marks.append((span, Mark.AGAIN))
        elif word in asked:
            marks.append((span, Mark.INSTRUCTED))
        else:
            marks.append((span, Mark.LIKE if _has_like(word, known) else Mark.NEW))
    return marks


def _step(before: int | None, at: int) -> Mark:
    if before is None:
        return Mark.STARTS
    if at == before + 1:
        return Mark.NEXT
    return Mark.ONWARD if at > before else Mark.BACK


def _has_like(word: str, known: Sequence[str]) -> bool:
    """Whether a known word shares all but the last letters with this one; numbers are never alike.

    Words that share a beginning are neighbours in the sorted list.
    """
    stem = word[: max(STEM, len(word) - TAIL)]
    if len(stem) < STEM or not word.isalpha():
        return False
    at = bisect_left(known, stem)
    return at < len(known) and known[at].startswith(stem) and len(known[at]) <= len(word) + TAIL


# Longest text in tokens; longer ones lose their middle.
MAX_LENGTH = 512
# Mean state of the text, mean state of the output, state of the end token.
POOLS = 3
# Mean and lowest log-probability of a token, of the input and of the output.
SURPRISES = 4
# Places for the shares of marks, of the input and of the output. With the surprises they fill 32
# numbers, so that rows of features are aligned as the width is: a matrix product rounds a row that
# is not by its place in the batch.
MARK_PLACES = 14
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
    """An example in tokens; where the tokens after `Input:` and those after `Output:` begin.

    `marks` are values of `Mark`, one a token.
    """

    ids: tuple[int, ...]
    marks: tuple[int, ...]
    given: int
    response: int


@dataclass(frozen=True)
class Reading:
    """What the network makes of a batch of texts, as tensors in float32.

    Attributes:
        raw: shape (rows, 4), the outputs before any squashing, in the order of `OUTPUTS`.
        log_likelihood: shape (rows,), mean log-probability of a token of input and output.
    """

    raw: Any
    log_likelihood: Any


class Network:
    """Backbone and outputs in memory.

    Args:
        backbone: a causal language model of `transformers`.
        heads: what `new_heads` makes: the outputs' linear layer and the marks' embedding.
        tokenizer: the base model's; one of `tokenizers`, as words are found by their places.
        device: where both are.

    Raises:
        JudgeError: the tokenizer does not say where in the text a token stands.
    """

    def __init__(self, backbone: Any, heads: Any, tokenizer: Any, device: Device) -> None:
        if not tokenizer.is_fast:
            raise JudgeError(
                f"the offline judge needs the places of tokens, and {type(tokenizer).__name__} "
                "gives none",
                where="knob base_model.id",
                fix="take a model with a tokenizer.json, or set judge.kind to `published`",
            )
        self.backbone = backbone
        self.heads = heads
        self.tokenizer = tokenizer
        self._device = device
        context = getattr(backbone.config, "max_position_embeddings", None) or MAX_LENGTH
        self.max_length = min(context, MAX_LENGTH)

    def encode(self, example: Example) -> Encoded:
        """Tokens of the example and the end token.

        Of an example that is too long, the output keeps its start and its end and at most half of
        the room, and the task keeps its start and its end in what is left.
        """
        question = f"Instruction: {example.instruction}\nInput:"
        given_text = example.input or NO_INPUT
        prompt = f"{question} {given_text}\nOutput:"
        marks = marked_words(example.instruction, example.input, example.output)
        at_input = len(question) + 1
        of_task = _shifted(marks[0], len("Instruction: ")) + _shifted(marks[1], at_input)
        task = self._tokens(prompt, of_task)
        given = min(len(self._tokens(question, [])), len(task) - 1)
        answer = self._tokens(f" {example.output}", _shifted(marks[2], 1))
        answer.append((self.tokenizer.eos_token_id, Mark.NONE))
        room = self.max_length
        if len(task) + len(answer) > room:
            answer = _without_middle(answer, max(room // 2, room - len(task)))
            task = _without_middle(task, room - len(answer))
            given = min(given, len(task) // 2)
        whole = [*task, *answer]
        return Encoded(
            tuple(token for token, _ in whole), tuple(mark for _, mark in whole), given, len(task)
        )

    def read(self, batch: Sequence[Encoded], length: int) -> Reading:
        """Read texts, padded on the right to `length` tokens.

        Attention is causal, so no token of a text sees the padding after it.
        """
        import torch

        pad = self.tokenizer.pad_token_id
        table = [[*one.ids, *[pad] * (length - len(one.ids))] for one in batch]
        ids = torch.tensor(table, device=self._device.name)
        marks = torch.tensor(
            [[*one.marks, *[Mark.NONE] * (length - len(one.ids))] for one in batch],
            device=self._device.name,
        )
        ends = torch.tensor(
            [[one.given, one.response, len(one.ids)] for one in batch], device=self._device.name
        )
        given, response, end = ends[:, 0:1], ends[:, 1:2], ends[:, 2:3]
        places = torch.arange(length, device=self._device.name)[None, :]
        embedded = self.backbone.get_input_embeddings()(ids) + self.heads["marks"](marks)
        states = self.backbone.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits = self.backbone.get_output_embeddings()(states[:, :-1])
        # The token at place p is foretold at p - 1; the first is foretold by nothing.
        told = -torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        ).view(len(batch), length - 1)
        of_input = (places >= given) & (places < response)
        of_output = (places >= response) & (places < end)
        last = states[torch.arange(len(batch), device=ids.device), end[:, 0] - 1]
        features = [
            _mean(states, places < end),
            _mean(states, of_output),
            last,
            *(_surprise(told, part[:, 1:]) for part in (of_input, of_output)),
            *(_shares(marks, part) for part in (of_input, of_output)),
        ]
        either = of_input | of_output
        return Reading(
            self.heads["outputs"](torch.cat(features, dim=-1)),
            _mean(told[..., None], either[:, 1:])[:, 0],
        )

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


def read_network(folder: Path, device: Device) -> Network:
    """Read backbone, outputs and tokenizer from a judge's folder, in float32."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    parts = (CARD, HEADS, f"{BACKBONE}/config.json", f"{BACKBONE}/tokenizer.json")
    missing = [name for name in parts if not (folder / name).is_file()]
    if missing:
        raise JudgeError(
            f"not a whole judge, missing: {', '.join(missing)}",
            where=str(folder),
            fix="materialise feedback_judge again",
        )
    card = json.loads((folder / CARD).read_text("utf-8"))
    if card.get("format") != FORMAT:
        raise JudgeError(
            f"a judge of format {card.get('format')}, and this version reads format {FORMAT}",
            where=str(folder / CARD),
            fix="materialise feedback_judge again",
        )
    logging.disable_progress_bar()
    try:
        backbone = AutoModelForCausalLM.from_pretrained(
            folder / BACKBONE, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder / BACKBONE, local_files_only=True)
        heads = new_heads(backbone)
        heads.load_state_dict(load_file(folder / HEADS))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise JudgeError(
            f"the judge cannot be loaded: {first_line(error)}",
            where=str(folder),
            fix="materialise feedback_judge again",
        ) from error
    backbone.to(device.name).eval()
    return Network(backbone, heads.to(device.name).eval(), tokenizer, device)


def write_network(network: Network, folder: Path, card: dict[str, Any]) -> None:
    """Write backbone, tokenizer, outputs and a card; equal values give equal bytes."""
    from safetensors.torch import save_file
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    network.backbone.to("cpu").save_pretrained(folder / BACKBONE)
    network.tokenizer.save_pretrained(folder / BACKBONE)
    heads = {name: weight.cpu().contiguous() for name, weight in network.heads.state_dict().items()}
    save_file(heads, folder / HEADS, metadata={"format": "pt"})
    text = readable_json({"format": FORMAT, **card})
    (folder / CARD).write_text(text, encoding="utf-8")


def new_heads(backbone: Any) -> Any:
    """The layers beside the backbone, a `torch.nn.ModuleDict`.

    `outputs`: four linear outputs of the pooled features, all zero, so that an untrained judge
    answers one half to everything. `marks`: an embedding for each `Mark`, zero for `NONE`.
    """
    import torch

    width = backbone.config.hidden_size
    outputs = torch.nn.Linear(POOLS * width + SURPRISES + 2 * MARK_PLACES, len(OUTPUTS))
    torch.nn.init.zeros_(outputs.weight)
    torch.nn.init.zeros_(outputs.bias)
    marks = torch.nn.Embedding(len(Mark), width, padding_idx=int(Mark.NONE))
    drawn = torch.randn(len(Mark), width, generator=torch.Generator().manual_seed(MARK_SEED))
    drawn[Mark.NONE] = 0.0
    marks.weight.data.copy_(MARK_DEVIATION * drawn)
    return torch.nn.ModuleDict({"outputs": outputs, "marks": marks})


def log_probabilities(raw: Any) -> Any:
    """Log-probabilities of naturalness, coherence and understandability, shape (rows, 3)."""
    import torch

    logs = torch.nn.functional.logsigmoid(raw[:, :3])
    understood = logs[:, 2:]
    return torch.cat([logs[:, :2] + understood, understood], dim=-1)


def _mean(states: Any, chosen: Any) -> Any:
    weights = chosen.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def _surprise(told: Any, chosen: Any) -> Any:
    """Mean and lowest of the chosen log-probabilities, shape (rows, 2)."""
    import torch

    lowest = told.masked_fill(~chosen, 0.0).amin(dim=1, keepdim=True)
    return torch.cat([_mean(told[..., None], chosen), lowest], dim=-1)


def _shares(marks: Any, chosen: Any) -> Any:
    """The share of each mark among the chosen tokens, shape (rows, `MARK_PLACES`)."""
    import torch

    found = torch.nn.functional.one_hot(marks, MARK_PLACES).to(torch.float32)
    return _mean(found, chosen)


def _shifted(words: Marked, by: int) -> Marked:
    return [((start + by, end + by), mark) for (start, end), mark in words]


def _without_middle(ids: list[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    if len(ids) <= room:
        return ids
    head = room // 2
    return ids[:head] + ids[len(ids) - (room - head) :]
