"""Stage 1 beside its peers: accepted instructions per CPU second, on one model.

Run it from the repository's root, on any causal model's folder:

    python benchmarks/peer.py refine_home/checkpoints/base_model/<hash> --rounds 6

- `refine-dagster`: the engine's loop (`self_instruct/rounds.py`) on its backend, in both modes.
- `as published`: the Self-Instruct loop written afresh from its description (arXiv 2212.10560): six
  seeds and two earlier machine-made instructions drawn at random, `model.generate` on a padded
  batch, the heuristics, and `rouge_score` against the whole pool for every candidate, on texts
  tokenised once and in one process.
- `distilabel`, where it is installed: its `SelfInstruct` task on `TransformersLLM`, with its own
  prompt, and `MinHashDedup`; it has no other filter.

All send the same number of requests of the same length at the same temperature and nucleus, without
a presence penalty, which `generate` has not. The first two show the same prompt's wording and parse
alike. Reading the model is not counted.
"""

from __future__ import annotations

import argparse
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rouge_score import rouge_scorer

from refine_dagster.device import device_session
from refine_dagster.generation.request import Completion, Request
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.knobs import DeviceKnobs, SelfInstructKnobs
from refine_dagster.language_model import LoadedModel, loaded_model, resolve_model
from refine_dagster.lineage.rows import Parent, make_row
from refine_dagster.profile import load_profile
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.self_instruct.decisions import Demonstration
from refine_dagster.self_instruct.heuristics import first_verdict
from refine_dagster.self_instruct.parsing import parse_task_list
from refine_dagster.self_instruct.prompts import STOP, propose_prompt
from refine_dagster.self_instruct.rounds import Proposer, propose

SALT = "peer"
# What distilabel is told of the model's use; its prompt asks for it.
APPLICATION = "AI assistant"

console = Console(highlight=False, soft_wrap=True)


@dataclass
class Outcome:
    """What one way came to; CPU seconds of all, and of generating alone."""

    candidates: int
    accepted: int
    cpu_s: float
    generation_s: float

    def cells(self) -> list[str]:
        rest = self.cpu_s - self.generation_s
        return [
            str(self.candidates),
            str(self.accepted),
            f"{self.cpu_s:.1f}",
            f"{rest / self.cpu_s:.1%}",
            f"{rest / self.candidates * 1e3:.2f}" if self.candidates else "",
            f"{self.accepted / self.cpu_s:.2f}",
        ]


def ours(
    loaded: LoadedModel, seeds: list[Demonstration], knobs: SelfInstructKnobs, batch_size: int
) -> Outcome:
    """The engine's loop; all but generation counts as filter."""
    backend = TransformersBackend(loaded, batch_size)
    spent = [0.0]

    def complete(requests: Sequence[Request]) -> list[Completion]:
        begun = time.process_time()
        answers = [one for batch in backend.generate(requests) for one in batch]
        spent[0] += time.process_time() - begun
        return [completion for _, completion in sorted(answers, key=lambda one: one[0])]

    me = Parent("base_model", "0" * 32, "generator")
    proposer = Proposer(complete, backend.count_tokens, backend.fingerprint, "model", me)
    begun = time.process_time()
    made = propose(seeds, proposer, knobs, SALT)
    cpu_s = time.process_time() - begun
    return Outcome(len(made.rows), made.accepted, cpu_s, spent[0])


def published(loaded: LoadedModel, seeds: list[Demonstration], knobs: SelfInstructKnobs) -> Outcome:
    """The loop as its description has it."""
    draw = random.Random(SALT)
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    given = [one.instruction for one in seeds]
    short = [
        text
        for text in given
        if len(loaded.tokenizer(text)["input_ids"]) <= knobs.max_demonstration_tokens
    ]
    pool = [scorer._tokenizer.tokenize(text) for text in given]
    machine: list[str] = []
    candidates, generation_s, start = 0, 0.0, time.process_time()
    for _ in range(knobs.max_rounds):
        prompts = []
        for _ in range(knobs.requests_per_round):
            earlier = draw.sample(machine, min(knobs.machine_demonstrations, len(machine)))
            wanted = knobs.human_demonstrations + knobs.machine_demonstrations - len(earlier)
            shown = [*draw.sample(short, wanted), *earlier]
            draw.shuffle(shown)
            prompts.append(propose_prompt(shown))
        begun = time.process_time()
        texts = generated(loaded, prompts, knobs)
        generation_s += time.process_time() - begun
        for text, finished in texts:
            for piece in parse_task_list(text, finished=finished):
                candidates += 1
                if piece.problem or first_verdict(piece.text):
                    continue
                tokens = scorer._tokenizer.tokenize(piece.text)
                scores = [rouge_scorer._score_lcs(tokens, other).fmeasure for other in pool]
                if max(scores) <= knobs.novelty_threshold:
                    pool.append(tokens)
                    machine.append(piece.text)
    return Outcome(candidates, len(machine), time.process_time() - start, generation_s)


def generated(
    loaded: LoadedModel, prompts: list[str], knobs: SelfInstructKnobs
) -> list[tuple[str, bool]]:
    """Texts by `model.generate`, cut at the stop string, and whether each came to an end."""
    inputs = loaded.tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        ids = loaded.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            temperature=knobs.temperature,
            top_p=knobs.top_p,
            top_k=0,
            max_new_tokens=knobs.max_new_tokens,
            stop_strings=list(STOP),
            tokenizer=loaded.tokenizer,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
    # A row that ended before the longest has padding behind.
    full = (new != loaded.tokenizer.pad_token_id).sum(dim=1) == knobs.max_new_tokens
    return [
        (text.split(STOP[0])[0], STOP[0] in text or not cut_off)
        for text, cut_off in zip(texts, full.tolist(), strict=True)
    ]


def distilabel(folder: Path, seeds: list[Demonstration], knobs: SelfInstructKnobs) -> Outcome:
    """distilabel's own task and filter, on as many seed instructions as there are requests."""
    from distilabel.models import TransformersLLM
    from distilabel.steps import MinHashDedup
    from distilabel.steps.tasks import SelfInstruct

    llm = TransformersLLM(
        model=str(folder),
        device="cpu",
        generation_kwargs={
            "max_new_tokens": knobs.max_new_tokens,
            "temperature": knobs.temperature,
            "top_p": knobs.top_p,
            "do_sample": True,
        },
    )
    task = SelfInstruct(llm=llm, application_description=APPLICATION, num_instructions=5)
    dedup = MinHashDedup(tokenizer="ngrams", n=3, threshold=knobs.novelty_threshold)
    task.load()
    dedup.load()
    draw = random.Random(SALT)
    texts = [one.instruction for one in seeds]
    made: list[str] = []
    start, generation_s = time.process_time(), 0.0
    for _ in range(knobs.max_rounds):
        inputs = [{"input": draw.choice(texts)} for _ in range(knobs.requests_per_round)]
        begun = time.process_time()
        rows = next(task.process(inputs))
        generation_s += time.process_time() - begun
        made += [text for row in rows for text in row["instructions"]]
    marked = [{"text": text} for text in made]
    kept: list[Any] = next(dedup.process(marked)) if marked else []
    accepted = sum(bool(row["keep_row_after_minhash_filtering"]) for row in kept)
    return Outcome(len(made), accepted, time.process_time() - start, generation_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a causal language model")
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    profile = load_profile("offline")
    knobs = profile.self_instruct.model_copy(
        update={
            "target": 10**6,
            "max_rounds": given.rounds,
            "stall_rounds": given.rounds,
            "presence_penalty": 0.0,
        }
    )
    rows = [make_row("seed_tasks", one.row()) for one in read_seeds("packaged").seeds]
    seeds = [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in rows
    ]
    with_peer = find_spec("distilabel") is not None
    packages = ["torch", "transformers", "rouge-score", *(["distilabel"] if with_peer else [])]
    console.print(
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + f"; {len(seeds)} seeds, {given.rounds * knobs.requests_per_round} requests"
    )
    found: dict[str, Outcome] = {}
    with (
        device_session(DeviceKnobs(device="cpu", threads=1)) as device,
        loaded_model(resolve_model(str(given.model)), device) as loaded,
    ):
        free = replace(loaded, device=replace(device, deterministic=False))
        ways: dict[str, Callable[[], Outcome]] = {
            "refine-dagster, free": lambda: ours(free, seeds, knobs, profile.generator.batch_size),
            "refine-dagster, deterministic": lambda: ours(
                loaded, seeds, knobs, profile.generator.batch_size
            ),
            "as published": lambda: published(loaded, seeds, knobs),
        }
        if with_peer:
            ways["distilabel"] = lambda: distilabel(given.model, seeds, knobs)
        for name, way in ways.items():
            found[name] = way()
            console.print(name, ", ".join(found[name].cells()))
    table = Table()
    columns = ("", "candidates", "accepted", "CPU seconds", "of it not generating")
    for column in (*columns, "ms of that a candidate", "accepted a CPU second"):
        table.add_column(column, justify="right" if column else "left")
    for name, outcome in found.items():
        table.add_row(name, *outcome.cells())
    console.print(table)


if __name__ == "__main__":
    main()
