"""The judge: one backbone, four outputs, which give the automated feedback on a triple.

The backbone is a copy of the base model's transformer body, fine-tuned with attention in both
directions; what it makes of the tokens is pooled over the whole text, over the output and at the
end, and four linear outputs read that: naturalness, coherence and understandability as
probabilities, and a Bradley-Terry reward (REFINE-AF's four indicators, methods A, stage 2). A
triple is read as `Triple.render()` and the end token.

A score must not depend on what else was scored in the same call, since it becomes part of a row's
content. So every pass through the network has one of a few fixed shapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from refine_dagster import progress
from refine_dagster.device import Device, give_back_memory
from refine_dagster.errors import RefineError
from refine_dagster.lineage.content import canonical_json, folder_files
from refine_dagster.refine_af.instance_prompt import Triple

DECIMALS = 6
# Rows of every pass, and the lengths in tokens that a pass may have; both are part of a score.
ROWS = 16
LENGTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512)
# A pass over a long text has fewer rows, so that attention's memory stays bounded.
MAX_TOKENS_A_PASS = 4096
POOLS = 3
OUTPUTS = ("naturalness", "coherence", "understandability", "reward_model")
PROBABILITIES = 3
FORMAT = 1
BACKBONE = "backbone"
HEADS = "heads.safetensors"
CARD = "judge.json"


class JudgeError(RefineError):
    """A judge cannot be trained or loaded."""


@dataclass(frozen=True)
class Scores:
    """A judge's opinion of a triple.

    Attributes:
        naturalness: probability that the text reads naturally, 0 to 1.
        coherence: probability that the output answers the task, 0 to 1.
        understandability: probability that the text can be understood, 0 to 1.
        reward_model: Bradley-Terry reward, a real number; only differences have a meaning.
    """

    naturalness: float
    coherence: float
    understandability: float
    reward_model: float


class Judge(Protocol):
    """Scores triples.

    Attributes:
        fingerprint: names everything that decides the scores.
    """

    fingerprint: str

    def score(self, triples: Sequence[Triple]) -> list[Scores]:
        """One `Scores` a triple, in order; a triple's scores do not depend on the others."""


@dataclass(frozen=True)
class Encoded:
    """A triple in tokens; `response` is where the output's tokens begin."""

    ids: tuple[int, ...]
    response: int


class Network:
    """Backbone and outputs in memory.

    Args:
        backbone: a `transformers` model that returns `last_hidden_state`.
        heads: `torch.nn.Linear(POOLS * width, 4)`, outputs in the order of `OUTPUTS`.
        tokenizer: the base model's.
        device: where both are.
    """

    def __init__(self, backbone: Any, heads: Any, tokenizer: Any, device: Device) -> None:
        self.backbone = backbone
        self.heads = heads
        self._tokenizer = tokenizer
        self._device = device
        context = getattr(backbone.config, "max_position_embeddings", None) or LENGTHS[-1]
        self.max_length = min(context, LENGTHS[-1])

    def encode(self, triple: Triple) -> Encoded:
        """Tokens of the triple and the end token.

        Of a triple that is too long, the output keeps its start and its end and at most half of the
        room, and the task keeps its start and its end in what is left.
        """
        prompt, _, _ = Triple(triple.instruction, triple.input, "").render().rpartition(" ")
        task = self._ids(prompt)
        answer = [*self._ids(f" {triple.output}"), self._tokenizer.eos_token_id]
        room = self.max_length
        if len(task) + len(answer) > room:
            answer = _without_middle(answer, max(room // 2, room - len(task)))
            task = _without_middle(task, room - len(answer))
        return Encoded((*task, *answer), len(task))

    def outputs(self, batch: Sequence[Encoded], length: int) -> Any:
        """The four raw outputs, float32, shape (rows, 4), of texts padded to `length` tokens."""
        import torch

        lengths = torch.tensor([len(one.ids) for one in batch])
        places = torch.arange(length)
        there = places[None, :] < lengths[:, None]
        answer = there & (places[None, :] >= torch.tensor([one.response for one in batch])[:, None])
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[*one.ids, *[pad] * (length - len(one.ids))] for one in batch])
        ids, there, answer = (part.to(self._device.name) for part in (ids, there, answer))
        # Every token sees every token: the mask hides padding only.
        hidden_from = torch.zeros(there.shape, dtype=torch.float32, device=there.device)
        hidden_from = hidden_from.masked_fill(~there, torch.finfo(torch.float32).min)
        attention = hidden_from[:, None, None, :].expand(-1, 1, length, -1).contiguous()
        states = self.backbone(
            input_ids=ids, attention_mask=attention, use_cache=False
        ).last_hidden_state
        last = states[torch.arange(len(batch)), lengths - 1]
        return self.heads(torch.cat([_mean(states, there), _mean(states, answer), last], dim=-1))

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


class TrainedJudge:
    """A judge read from a folder."""

    def __init__(self, network: Network, fingerprint: str) -> None:
        self._network = network
        self.fingerprint = fingerprint

    def score(self, triples: Sequence[Triple]) -> list[Scores]:
        """Scores, rounded to six decimals; equal triples are read once."""
        found: dict[Triple, Scores] = {}
        waiting: dict[int, list[Triple]] = {}
        encoded = {triple: self._network.encode(triple) for triple in dict.fromkeys(triples)}
        for triple, one in encoded.items():
            waiting.setdefault(padded_length(len(one.ids), self._network.max_length), []).append(
                triple
            )
        with progress.task("judging", len(encoded)) as advance:
            for length, ready in sorted(waiting.items()):
                rows = max(1, min(ROWS, MAX_TOKENS_A_PASS // length))
                for start in range(0, len(ready), rows):
                    chunk = ready[start : start + rows]
                    batch = [encoded[triple] for triple in chunk]
                    found.update(zip(chunk, self._pass(batch, rows, length), strict=True))
                    advance(len(chunk))
        return [found[triple] for triple in triples]

    def _pass(self, batch: list[Encoded], rows: int, length: int) -> list[Scores]:
        import torch

        # Rows that nobody asked for fill the pass up to its fixed shape.
        filled = batch + [batch[0]] * (rows - len(batch))
        with torch.no_grad():
            raw = self._network.outputs(filled, length)[: len(batch)]
            values = torch.cat([raw[:, :PROBABILITIES].sigmoid(), raw[:, PROBABILITIES:]], dim=-1)
        return [
            Scores(
                **{name: round(value, DECIMALS) for name, value in zip(OUTPUTS, row, strict=True)}
            )
            for row in values.double().cpu().tolist()
        ]


@contextmanager
def loaded_judge(folder: Path, device: Device) -> Iterator[Judge]:
    """Load the judge that `train_judge` wrote; give its memory back at the end.

    Raises:
        JudgeError: the folder does not hold a whole judge, or one of another format.
    """
    judge = TrainedJudge(read_network(folder, device), judge_fingerprint(folder))
    try:
        yield judge
    finally:
        del judge
        give_back_memory(device)


def judge_fingerprint(folder: Path) -> str:
    """The name of the judge in `folder`: sha256 over its files and their names, 64 hex digits."""
    text = canonical_json(["judge", folder_files(folder)])
    return hashlib.sha256(text.encode()).hexdigest()


def read_network(folder: Path, device: Device) -> Network:
    """Read backbone, outputs and tokenizer from a judge's folder, in float32."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer
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
        backbone = AutoModel.from_pretrained(
            folder / BACKBONE, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder / BACKBONE, local_files_only=True)
        heads = new_heads(backbone)
        heads.load_state_dict(load_file(folder / HEADS))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise JudgeError(
            f"the judge cannot be loaded: {str(error).strip().splitlines()[0]}",
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
    network._tokenizer.save_pretrained(folder / BACKBONE)
    heads = {name: weight.cpu().contiguous() for name, weight in network.heads.state_dict().items()}
    save_file(heads, folder / HEADS, metadata={"format": "pt"})
    text = json.dumps({"format": FORMAT, **card}, sort_keys=True, indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def new_heads(backbone: Any) -> Any:
    """Four linear outputs, all zero: an untrained judge answers one half to everything."""
    import torch

    heads = torch.nn.Linear(POOLS * backbone.config.hidden_size, len(OUTPUTS))
    torch.nn.init.zeros_(heads.weight)
    torch.nn.init.zeros_(heads.bias)
    return heads


def padded_length(tokens: int, longest: int) -> int:
    """The shortest of the fixed lengths, or `longest`, that holds `tokens`."""
    return next((length for length in LENGTHS if tokens <= length < longest), longest)


def _mean(states: Any, chosen: Any) -> Any:
    weights = chosen.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def _without_middle(ids: list[int], room: int) -> list[int]:
    if len(ids) <= room:
        return ids
    head = room // 2
    return ids[:head] + ids[len(ids) - (room - head) :]
