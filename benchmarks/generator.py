"""Tokens per CPU second of the transformers backend beside plain `model.generate`.

Run it from the repository's root, on any causal model's folder:

    python benchmarks/generator.py refine_home/checkpoints/base_model/<hash>
    python benchmarks/generator.py MODEL --requests 96 --rounds 5

The requests are the pipeline's: proposals after eight seed instructions, and instances of the
seeds' instructions, by the offline profile's knobs, without the presence penalty, which `generate`
has not. Every way answers all of them, one after the other in each round, by turns; only the tokens
of the completions count, those up to the stop string. Rates are medians over rounds.

Then, apart: what the completions store adds to a backend, what choosing tokens by each request's
own noise costs beside one `torch.multinomial` for the batch, and how much of the prompts' tokens
all prompts of a batch begin with.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from refine_dagster.device import device_session
from refine_dagster.evaluation.answers import predict
from refine_dagster.evaluation.super_ni import load_tasks
from refine_dagster.generation import transformers_backend
from refine_dagster.generation.request import Completion, Request, Sampling, request_seed
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.knobs import DeviceKnobs
from refine_dagster.language_model import LoadedModel, loaded_model, resolve_model
from refine_dagster.lineage.completions import CompletionsStore
from refine_dagster.lineage.rows import make_row
from refine_dagster.lineage.warehouse import Warehouse
from refine_dagster.profile import Profile, load_profile
from refine_dagster.refine_af.instances import instance_prompts, instance_requests, seed_triples
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.self_instruct.decisions import Demonstration
from refine_dagster.self_instruct.prompts import STOP, propose_prompt
from refine_dagster.self_instruct.rounds import demonstrations

console = Console(highlight=False, soft_wrap=True)
Answer = Callable[[Sequence[Request]], int]
Kinds = dict[str, list[Request]]


def requests_of(profile: Profile, backend: TransformersBackend, count: int) -> list[Request]:
    """`count` proposals and as many instances, as the first round of the pipeline sends them."""
    knobs, salt = profile.self_instruct, profile.salt
    seeds = [make_row("seed_tasks", one.row()) for one in read_seeds(profile.seeds.path).seeds]
    shown = [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in seeds
        if backend.count_tokens(row["instruction"]) <= knobs.max_demonstration_tokens
    ]
    sampling = Sampling(knobs.max_new_tokens, knobs.temperature, knobs.top_p, stop=STOP)
    proposals = [
        Request(
            "propose",
            propose_prompt(
                [one.instruction for one in demonstrations(shown, [], knobs, salt, 0, place)]
            ),
            sampling,
            request_seed(salt, "propose", 0, place),
        )
        for place in range(count)
    ]
    given = seeds[:count]
    prompts = instance_prompts(
        given, seed_triples(seeds), backend.count_tokens, profile.instances, salt
    )
    return proposals + instance_requests(prompts, profile.instances, salt)


def plain(loaded: LoadedModel, batch_size: int, in_order: bool = True) -> Answer:
    """`model.generate` on batches in the order given, or by length; padded to the longest."""

    def answer(requests: Sequence[Request]) -> int:
        tokenizer, written = loaded.tokenizer, 0
        if not in_order:
            requests = sorted(requests, key=lambda one: len(tokenizer(one.prompt)["input_ids"]))
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            sampling = batch[0].sampling
            assert isinstance(sampling, Sampling)
            inputs = tokenizer([one.prompt for one in batch], return_tensors="pt", padding=True)
            with torch.inference_mode():
                ids = loaded.model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    do_sample=True,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=0,
                    max_new_tokens=sampling.max_new_tokens,
                    stop_strings=list(sampling.stop),
                    tokenizer=tokenizer,
                    pad_token_id=tokenizer.pad_token_id,
                )
            new = ids[:, inputs["input_ids"].shape[1] :]
            written += int((new != tokenizer.pad_token_id).sum())
        return written

    return answer


def by_backend(backend: TransformersBackend, batch_size: int | None = None) -> Answer:
    """The backend; with a batch size, batch by batch in the order given, not sorted by length."""

    def answer(requests: Sequence[Request]) -> int:
        size = batch_size or len(requests)
        parts = [requests[start : start + size] for start in range(0, len(requests), size)]
        return sum(
            done.completion_tokens
            for part in parts
            for batch in backend.generate(part)
            for _, done in batch
        )

    return answer


def rates(ways: dict[str, Answer], kinds: Kinds, rounds: int) -> None:
    """Print each way's tokens per CPU second on each kind of request."""
    found: dict[str, dict[str, list[float]]] = {way: {kind: [] for kind in kinds} for way in ways}
    for number in range(rounds + 1):
        for kind, requests in kinds.items():
            for way, answer in ways.items():
                begun = time.process_time()
                written = answer(requests)
                # The first round warms up.
                if number:
                    found[way][kind].append(written / (time.process_time() - begun))
    table = Table(title="tokens per CPU second (times plain generate)")
    table.add_column("")
    for kind in kinds:
        table.add_column(kind, justify="right")
    first = found[next(iter(ways))]
    for way, of_kind in found.items():
        table.add_row(
            way,
            *(
                f"{statistics.median(of_kind[kind]):,.0f} "
                f"({statistics.median(of_kind[kind]) / statistics.median(first[kind]):.2f})"
                for kind in kinds
            ),
        )
    console.print(table)


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


def overheads(backend: TransformersBackend, kinds: Kinds, rounds: int) -> None:
    """Print what the completions store and the choice of tokens cost beside the model."""
    table = Table(title="share of the backend's CPU seconds")
    for column in ("", "store", "choosing tokens", "one multinomial a step", "both, net"):
        table.add_column(column, justify="right" if column else "left")
    choose = transformers_backend.choose_tokens
    chosen = [0.0, 0.0]

    def metered(logits: Any, *given: Any) -> Any:
        begun = time.process_time()
        tokens = choose(logits, *given)
        chosen[0] += time.process_time() - begun
        begun = time.process_time()
        torch.multinomial(torch.softmax(torch.from_numpy(logits), dim=-1), 1)
        chosen[1] += time.process_time() - begun
        return tokens

    for kind, requests in kinds.items():
        shares = []
        for _ in range(rounds):
            chosen[:] = [0.0, 0.0]
            with tempfile.TemporaryDirectory() as folder:
                store = CompletionsStore(Warehouse(Path(folder) / "store.duckdb"), "benchmark")
                one = Metered(backend)
                transformers_backend.choose_tokens = metered
                begun = time.process_time()
                store.complete(one, requests)  # type: ignore[arg-type]
                whole = time.process_time() - begun
                transformers_backend.choose_tokens = choose
            alone = one.cpu_s - chosen[1]
            shares.append(((whole - one.cpu_s) / alone, chosen[0] / alone, chosen[1] / alone))
        store_share, own, plainly = (statistics.median(part) for part in zip(*shares, strict=True))
        net = store_share + own - plainly
        table.add_row(kind, *(f"{x:.1%}" for x in (store_share, own, plainly, net)))
    console.print(table)


def evaluation_prompts(profile: Profile, backend: TransformersBackend) -> list[list[str]]:
    """The held-out tasks' prompts, task by task."""
    knobs = profile.evaluation
    found = []
    for task in load_tasks(knobs.tasks, knobs.max_instances, knobs.split):
        asked: list[Request] = []

        def listed(requests: Sequence[Request], to: list[Request] = asked) -> list[Completion]:
            to += requests
            return [Completion("", "eos", 0, 0)] * len(requests)

        predict(listed, backend.cut, [task], knobs)
        found.append([one.prompt for one in asked])
    return found


def shared_prefixes(
    loaded: LoadedModel, backend: TransformersBackend, profile: Profile, kinds: Kinds
) -> None:
    """Print what prompts begin with in common, and what reading it once could gain."""
    groups = {kind: [[one.prompt for one in requests]] for kind, requests in kinds.items()}
    groups["evaluation, by task"] = evaluation_prompts(profile, backend)
    table = Table(title="prompt tokens that all prompts of a group begin with")
    for column in ("", "mean prompt", "shared", "CPU share of reading prompts", "at most to gain"):
        table.add_column(column, justify="right" if column else "left")
    for kind, prompts in groups.items():
        ids = [[loaded.tokenizer(one)["input_ids"] for one in group] for group in prompts]
        tokens = sum(len(one) for group in ids for one in group)
        # The first prompt of each group is read whole in any case.
        once = sum(shared(group) * (len(group) - 1) for group in ids)
        of_reading, gain = "", ""
        if kind in kinds:
            reading = sum(prefill_s(loaded, group) for group in ids)
            begun = time.process_time()
            by_backend(backend)(kinds[kind])
            share = reading / (time.process_time() - begun)
            of_reading, gain = f"{share:.0%}", f"{share * once / tokens:.1%}"
        count = sum(map(len, ids))
        table.add_row(kind, f"{tokens / count:.0f}", f"{once / tokens:.0%}", of_reading, gain)
    console.print(table)


def shared(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with."""
    return sum(1 for _ in takewhile(lambda place: len(set(place)) == 1, zip(*prompts)))  # noqa: B905


def prefill_s(loaded: LoadedModel, prompts: list[list[int]]) -> float:
    """CPU seconds in which the model reads prompts, sixteen at a time and sorted by length."""
    ordered = sorted(prompts, key=len)
    begun = time.process_time()
    for start in range(0, len(ordered), 16):
        batch = ordered[start : start + 16]
        inputs = torch.tensor([[0] * (len(batch[-1]) - len(one)) + one for one in batch])
        with torch.inference_mode():
            loaded.model(input_ids=inputs, logits_to_keep=1)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a causal language model")
    parser.add_argument("--requests", type=int, default=64, help="of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    profile = load_profile("offline")
    size = profile.generator.batch_size
    console.print(
        f"Python {platform.python_version()}, torch {version('torch')}, "
        f"transformers {version('transformers')}, numpy {version('numpy')}; "
        f"{given.requests} requests of each kind, batches of {size}, one thread"
    )
    knobs = DeviceKnobs(device="cpu", threads=1)
    with (
        device_session(knobs) as device,
        loaded_model(resolve_model(str(given.model)), device) as loaded,
    ):
        exact = TransformersBackend(loaded, size)
        free_device = replace(device, deterministic=False)
        free = TransformersBackend(replace(loaded, device=free_device), size)
        asked = requests_of(profile, exact, given.requests)
        kinds = {
            kind: [one for one in asked if one.role == kind] for kind in ("propose", "instance")
        }
        # Lengths differ most where a batch has both.
        kinds["both, mixed"] = [one for pair in zip(*kinds.values(), strict=True) for one in pair]
        ways = {
            "plain generate": plain(loaded, size),
            "plain generate, sorted by length": plain(loaded, size, in_order=False),
            "backend, free, batches as given": by_backend(free, size),
            "backend, free": by_backend(free),
            "backend, deterministic": by_backend(exact),
        }
        rates(ways, kinds, given.rounds)
        overheads(exact, kinds, given.rounds)
        shared_prefixes(loaded, free, profile, kinds)


if __name__ == "__main__":
    main()
