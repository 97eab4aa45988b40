"""What the completions store and the requests' own noise cost beside the model's own work.

Run it from the repository's root, with the arguments of `generator.py`:

    python benchmarks/generation_overhead.py refine_home/checkpoints/base_model/<hash>

Requests are answered through a `CompletionsStore` over a new warehouse, whose schema is in place.
Shares are of the CPU seconds of the backend alone, medians over rounds:

- the store: keys, look-up, and the commit of each batch;
- each request's own uniform numbers, and choosing the token at each in its row's distribution;
- transformers' own way, on the same logits at the same moment: its temperature and nucleus for the
  whole batch, finished rows included as in `generate`, and one `multinomial`. What the two before
  take more than this is what noise of one's own costs, net.

At last, what reading the beginning that all prompts share once instead of for each could save.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from generator import Kinds, by_backend, console, subject
from numpy.typing import NDArray
from rich.table import Table
from transformers.generation import TemperatureLogitsWarper, TopPLogitsWarper

from refine_dagster.generation import decoding
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.request import Completion, Request, Sampling
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.language_model import LoadedModel
from refine_dagster.warehouse.warehouse import Warehouse


class Metered:
    """A backend whose own CPU seconds are counted, so that the rest is the store's."""

    name = "metered"

    def __init__(self, backend: TransformersBackend) -> None:
        self.fingerprint = backend.fingerprint
        self._backend = backend
        self.cpu_s = 0.0

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        batches = self._backend.generate(requests)
        while True:
            begun = time.process_time()
            batch = next(batches, None)
            self.cpu_s += time.process_time() - begun
            if batch is None:
                return
            yield batch


def overheads(name: str, backend: TransformersBackend, kinds: Kinds, rounds: int) -> None:
    """Print what the completions store and the requests' own noise cost beside the model."""
    names = ("store", "uniform numbers", "choosing by them", "transformers' own", "noise, net")
    table = Table(name, *names, title="share of the backend's CPU seconds")
    choose, spent = decoding.next_tokens, [0.0, 0.0, 0.0]

    def metered(rows: Sequence[decoding.Writing], logits: NDArray[np.float32]) -> list[int]:
        begun = time.process_time()
        uniforms = [next(row.noise) if row.sampling.temperature > 0 else 0.0 for row in rows]
        drawn = time.process_time()
        written, samplings = [row.written for row in rows], [row.sampling for row in rows]
        tokens = decoding.choose_tokens(logits, written, samplings, uniforms)
        chosen = time.process_time()
        scores = torch.from_numpy(logits)
        scores = TemperatureLogitsWarper(samplings[0].temperature)(None, scores)
        scores = TopPLogitsWarper(samplings[0].top_p)(None, scores)
        torch.multinomial(torch.softmax(scores, dim=-1), 1).squeeze(1).tolist()
        ended = time.process_time()
        for place, seconds in enumerate((drawn - begun, chosen - drawn, ended - chosen)):
            spent[place] += seconds
        return tokens

    for kind, requests in kinds.items():
        shares = []
        for _ in range(rounds):
            spent[:] = [0.0, 0.0, 0.0]
            with tempfile.TemporaryDirectory() as folder:
                warehouse = Warehouse(Path(folder) / "warehouse.duckdb")
                warehouse.query("SELECT 1")
                one = Metered(backend)
                decoding.next_tokens = metered
                begun = time.process_time()
                CompletionsStore(warehouse, "run").complete(one, requests)  # type: ignore[arg-type]
                whole = time.process_time() - begun
                decoding.next_tokens = choose
            alone = one.cpu_s - spent[2]
            parts = [whole - one.cpu_s, *spent, spent[0] + spent[1] - spent[2]]
            shares.append([part / alone for part in parts])
        table.add_row(kind, *(f"{statistics.median(x):.1%}" for x in zip(*shares, strict=True)))
    console.print(table)


def shared_beginnings(loaded: LoadedModel, backend: TransformersBackend, kinds: Kinds) -> None:
    """Print how much of the prompts all begin with, and what reading that once could save."""
    for kind, requests in kinds.items():
        ids = [loaded.tokenizer(one.prompt)["input_ids"] for one in requests]
        tokens = sum(map(len, ids))
        same = sum(1 for _ in takewhile(lambda at: len(set(at)) == 1, zip(*ids)))  # noqa: B905
        sampling = Sampling(max_new_tokens=1)
        asked = [replace(one, sampling=sampling) for one in requests]
        begun = time.process_time()
        by_backend(backend)(asked)
        reading = time.process_time() - begun
        by_backend(backend)(requests)
        share = reading / (time.process_time() - begun - reading)
        again = same * (len(ids) - 1) / tokens
        console.print(
            f"{kind}: {tokens / len(ids):.0f} tokens a prompt, the first {same} in all prompts; "
            f"reading prompts is {share:.0%} of the time, at most {share * again:.0%} to save"
        )


def main() -> None:
    with subject(__doc__) as one:
        for backend, name in ((one.free, "free"), (one.exact, "deterministic")):
            overheads(name, backend, one.kinds, one.rounds)
        shared_beginnings(one.loaded, one.free, one.kinds)


if __name__ == "__main__":
    main()
