"""Stage 1 beside its peers: accepted instructions per CPU second, on one model.

Run it from the repository's root, on any causal model's folder:

    python benchmarks/peer.py refine_home/checkpoints/base_model/<hash> --rounds 5

- `refine-dagster`: the engine's loop (`self_instruct/rounds.py`) on its backend, in both modes.
- `as published`: the Self-Instruct loop written afresh from its description (arXiv 2212.10560): six
  seeds and two earlier machine-made instructions drawn at random, `model.generate` on a padded
  batch, the heuristics, and for every candidate `rouge_score` against the whole pool, in one
  process and on texts that were tokenised once.
- `distilabel`, where it is installed: its `SelfInstruct` task on `TransformersLLM`, with its own
  prompt, one seed instruction in each, and `MinHashDedup`; it has no other filter.

All send the same number of requests of the same length at the same temperature and nucleus, without
a presence penalty, which `generate` has not. The first two have one wording of the prompt and one
parser. Since the filters differ, what each accepts is put through one and the same at the end: the
heuristics, and ROUGE-L below the threshold against the seeds and what was accepted before.
Reading the model is not counted. Ways take turns; medians over repeats.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from generator import on_cpu
from rich.console import Console
from rich.table import Table
from rouge_score import rouge_scorer, tokenizers

from refine_dagster.config.dataset import SelfInstructConfig
from refine_dagster.config.profile import load_profile
from refine_dagster.generation.request import Completion, Request
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import LoadedModel, loaded_model, resolve_model
from refine_dagster.novelty import NoveltyFilter
from refine_dagster.prompts.proposal import STOP, parse_task_list, propose_prompt
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.self_instruct.decisions import Demonstration, InstructionDecider
from refine_dagster.self_instruct.heuristics import first_rejection
from refine_dagster.self_instruct.rounds import Proposer, propose
from refine_dagster.warehouse.rows import Parent, make_row

console = Console(highlight=False, soft_wrap=True)


@dataclass
class Outcome:
    """What one way came to; CPU seconds of all, and of generating alone."""

    candidates: int
    accepted: list[str]
    cpu_s: float
    generation_s: float


def ours(
    folder: Path, seeds: list[Demonstration], config: SelfInstructConfig, deterministic: bool
) -> Outcome:
    """The engine's loop."""
    spent = [0.0]
    with (
        device_session(on_cpu(deterministic)) as device,
        loaded_model(resolve_model(str(folder)), device) as loaded,
    ):
        backend = TransformersBackend(loaded, config.requests_per_round)

        def complete(requests: Sequence[Request]) -> list[Completion]:
            begun = time.process_time()
            answers = [one for batch in backend.generate(requests) for one in batch]
            spent[0] += time.process_time() - begun
            return [completion for _, completion in sorted(answers, key=lambda one: one[0])]

        me = Parent("base_model", "0" * 32, "generator")
        proposer = Proposer(
            complete,
            lambda requests: [False] * len(requests),
            backend.count_tokens,
            lambda request: request.key(backend.fingerprint),
            "model",
            me,
        )
        begun = time.process_time()
        made = propose(seeds, proposer, config, "peer")
        cpu_s = time.process_time() - begun
    decider = InstructionDecider(seeds, config)
    decider.decide(made.rows)
    texts = [one.instruction for one in decider.accepted]
    return Outcome(len(made.rows), texts, cpu_s, spent[0])


def published(folder: Path, seeds: list[Demonstration], config: SelfInstructConfig) -> Outcome:
    """The loop as its description has it."""
    with (
        device_session(on_cpu(False)) as device,
        loaded_model(resolve_model(str(folder)), device) as loaded,
    ):
        draw, tokenizer = random.Random(1), tokenizers.DefaultTokenizer(use_stemmer=False)
        short = [
            one.instruction
            for one in seeds
            if len(loaded.tokenizer(one.instruction)["input_ids"])
            <= config.max_demonstration_tokens
        ]
        pool = [tokenizer.tokenize(one.instruction) for one in seeds]
        machine: list[str] = []
        candidates, generation_s, start = 0, 0.0, time.process_time()
        for _ in range(config.max_rounds):
            prompts = []
            for _ in range(config.requests_per_round):
                earlier = draw.sample(machine, min(config.machine_demonstrations, len(machine)))
                wanted = config.human_demonstrations + config.machine_demonstrations - len(earlier)
                shown = [*draw.sample(short, wanted), *earlier]
                draw.shuffle(shown)
                prompts.append(propose_prompt(shown))
            begun = time.process_time()
            texts = generated(loaded, prompts, config)
            generation_s += time.process_time() - begun
            for text, finished in texts:
                for candidate in parse_task_list(text, finished=finished):
                    candidates += 1
                    if candidate.problem or first_rejection(candidate.text):
                        continue
                    tokens = tokenizer.tokenize(candidate.text)
                    scores = [rouge_scorer._score_lcs(tokens, other).fmeasure for other in pool]
                    if max(scores) < config.novelty_threshold:
                        pool.append(tokens)
                        machine.append(candidate.text)
        cpu_s = time.process_time() - start
    return Outcome(candidates, machine, cpu_s, generation_s)


def generated(
    loaded: LoadedModel, prompts: list[str], config: SelfInstructConfig
) -> list[tuple[str, bool]]:
    """Texts by `model.generate`, cut at the stop string, and whether each came to an end."""
    inputs = loaded.tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        ids = loaded.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=0,
            max_new_tokens=config.max_new_tokens,
            stop_strings=list(STOP),
            tokenizer=loaded.tokenizer,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
    full = (new != loaded.tokenizer.pad_token_id).sum(dim=1) == config.max_new_tokens
    return [
        (text.split(STOP[0])[0], STOP[0] in text or not cut_off)
        for text, cut_off in zip(texts, full.tolist(), strict=True)
    ]


def distilabel(folder: Path, seeds: list[Demonstration], config: SelfInstructConfig) -> Outcome:
    """distilabel's own task and filter; each request has a seed instruction as its context."""
    from distilabel.models import TransformersLLM  # type: ignore[import-not-found]
    from distilabel.steps import MinHashDedup  # type: ignore[import-not-found]
    from distilabel.steps.tasks import SelfInstruct  # type: ignore[import-not-found]

    sampling = {"temperature": config.temperature, "top_p": config.top_p, "repetition_penalty": 1.0}
    llm = TransformersLLM(
        model=str(folder),
        device="cpu",
        generation_kwargs={"max_new_tokens": config.max_new_tokens, **sampling},
    )
    task = SelfInstruct(llm=llm, num_instructions=5)
    dedup = MinHashDedup(tokenizer="ngrams", n=3, threshold=config.novelty_threshold)
    task.load()
    dedup.load()
    draw = random.Random(1)
    made: list[str] = []
    start, generation_s = time.process_time(), 0.0
    for _ in range(config.max_rounds):
        chosen = draw.sample(seeds, config.requests_per_round)
        begun = time.process_time()
        rows = next(task.process([{"input": one.instruction} for one in chosen]))
        generation_s += time.process_time() - begun
        made += [text for row in rows for text in row["instructions"]]
    kept: list[Any] = next(dedup.process([{"text": text} for text in made]))
    accepted = [row["text"] for row in kept if row["keep_row_after_minhash_filtering"]]
    return Outcome(len(made), accepted, time.process_time() - start, generation_s)


def by_one_filter(texts: list[str], seeds: list[Demonstration], config: SelfInstructConfig) -> int:
    """How many of the texts pass the heuristics and stand out from seeds and one another."""
    novelty = NoveltyFilter(config.novelty_threshold, config.refuse_at)
    novelty.preload([one.instruction for one in seeds])
    good = [text for text in texts if first_rejection(text) is None]
    return sum(decision.kept for decision in novelty.accept(good))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a causal language model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    endless = {"target": 10**6, "max_rounds": given.rounds, "stall_rounds": given.rounds}
    profile = load_profile("offline")
    config = profile.self_instruct.model_copy(update={**endless, "presence_penalty": 0.0})
    rows = [make_row("seed_tasks", one.row()) for one in read_seeds(profile.seeds.path).seeds]
    seeds = [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in rows
    ]
    ways: dict[str, Callable[[], Outcome]] = {
        "refine-dagster, free": lambda: ours(given.model, seeds, config, False),
        "refine-dagster, deterministic": lambda: ours(given.model, seeds, config, True),
        "as published": lambda: published(given.model, seeds, config),
    }
    packages = ["torch", "transformers", "rouge-score"]
    if find_spec("distilabel"):
        ways["distilabel"] = lambda: distilabel(given.model, seeds, config)
        packages.append("distilabel")
    console.print(
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + f"; {len(seeds)} seeds, {given.rounds * config.requests_per_round} requests of at most "
        f"{config.max_new_tokens} tokens, {given.repeats} repeats"
    )
    runs: dict[str, list[Outcome]] = {name: [] for name in ways}
    for _ in range(given.repeats):
        for name, way in ways.items():
            runs[name].append(way())
    columns = ("candidates", "accepted", "by one filter", "CPU s", "not generating")
    table = Table("", *columns, "accepted / CPU s", "by one filter / CPU s")
    for name, outcomes in runs.items():
        one = sorted(outcomes, key=lambda run: run.cpu_s)[len(outcomes) // 2]
        same = by_one_filter(one.accepted, seeds, config)
        cpu_s = statistics.median(run.cpu_s for run in outcomes)
        rest = statistics.median(run.cpu_s - run.generation_s for run in outcomes)
        counts = (one.candidates, len(one.accepted), same)
        rates = (len(one.accepted) / cpu_s, same / cpu_s)
        table.add_row(
            name, *map(str, counts), f"{cpu_s:.1f}", f"{rest:.2f}", *(f"{x:.2f}" for x in rates)
        )
    console.print(table)


if __name__ == "__main__":
    main()
