"""The judge's network: a copy of the base model with four linear outputs, and its folder.

A triple is read as `Triple.render()` and the end token. Each token's embedding has added to it the
one of its mark, which says where its word stands in the other parts of the triple
(`word_match.py`). The text is pooled: what the transformer body makes of the tokens, over the whole
text, over the output and at the end; how much the tokens of input and output surprise the language
model; and the share of each mark. Attention stays causal: with attention in both directions
coherence was learnt less well in the same time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_dagster.device import Device
from refine_dagster.errors import RefineError, first_line
from refine_dagster.refine_af.instance_prompt import NO_INPUT, Triple
from refine_dagster.refine_af.word_match import Mark, Marked, marked_words

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
    """A triple in tokens; where the tokens after `Input:` and those after `Output:` begin.

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

    def encode(self, triple: Triple) -> Encoded:
        """Tokens of the triple and the end token.

        Of a triple that is too long, the output keeps its start and its end and at most half of the
        room, and the task keeps its start and its end in what is left.
        """
        question = f"Instruction: {triple.instruction}\nInput:"
        given_text = triple.input or NO_INPUT
        prompt = f"{question} {given_text}\nOutput:"
        marks = marked_words(triple.instruction, triple.input, triple.output)
        at_input = len(question) + 1
        of_task = _shifted(marks[0], len("Instruction: ")) + _shifted(marks[1], at_input)
        task = self._tokens(prompt, of_task)
        given = min(len(self._tokens(question, [])), len(task) - 1)
        answer = self._tokens(f" {triple.output}", _shifted(marks[2], 1))
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
    text = json.dumps({"format": FORMAT, **card}, sort_keys=True, indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


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
