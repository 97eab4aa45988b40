"""Tokens per CPU second of the backends beside plain `model.generate`.

Run it from the repository's root, on any causal model's folder, or on a Llama of 109 M random
weights that the script makes, with that folder's tokenizer:

    python benchmarks/generator.py refine_home/checkpoints/base_model/<hash>
    python benchmarks/generator.py MODEL --random --requests 16 --tokens 24

The requests are the pipeline's own: proposals after eight seed instructions, and instances of the
seeds' instructions, by the offline profile's config (no presence penalty: `generate` has none).
In each round every way answers all of them, one after the other; only the tokens of completions
count, up to and with the one that ends them. A way's ratio is taken within a round; medians.
CPU seconds are this process's: vLLM has to run in it (VLLM_ENABLE_V1_MULTIPROCESSING=0).
`generation_overhead.py` tells what the completions store and the requests' own noise cost.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import StoppingCriteriaList, StopStringCriteria

from refine_dagster.config.models import DeviceConfig, GeneratorConfig
from refine_dagster.config.profile import Profile, load_profile
from refine_dagster.generation.completions import CompletionsStore, open_generator
from refine_dagster.generation.request import Request, Sampling
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import (
    LoadedModel,
    load_tokenizer,
    loaded_model,
    resolve_model,
)
from refine_dagster.prompts.proposal import STOP, propose_prompt
from refine_dagster.refine_af.instances import instance_prompts, instance_requests
from refine_dagster.seeding import request_seed
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.self_instruct.decisions import Demonstration
from refine_dagster.self_instruct.rounds import demonstrations
from refine_dagster.warehouse.rows import make_row
from refine_dagster.warehouse.warehouse import Warehouse

RUN_SEED = "benchmark"
VOCABULARY = 32_000
# Logits of a fresh Llama hardly differ; with these a nucleus is as small as a trained model's.
LOGIT_DEVIATION = 5.0

console = Console(highlight=False, soft_wrap=True)
Answer = Callable[[Sequence[Request]], int]
Kinds = dict[str, list[Request]]


def random_llama(tokenizer_of: Path, folder: Path) -> None:
    """Write a Llama of 109 M random weights, with a tokenizer filled up to its vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_tokenizer(resolve_model(str(tokenizer_of)))
    tokenizer.add_tokens([f"<{number}>" for number in range(VOCABULARY - len(tokenizer))])
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=LOGIT_DEVIATION / config.hidden_size**0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def requests_of(
    profile: Profile, count_tokens: Callable[[str], int], count: int, tokens: int
) -> Kinds:
    """`count` proposals and as many instances, as the first round of the pipeline sends them."""
    config = profile.self_instruct
    seeds = [make_row("seed_tasks", one.row()) for one in read_seeds(profile.seeds.path).seeds]
    shown = [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in seeds
        if count_tokens(row["instruction"]) <= config.max_demonstration_tokens
    ]
    drawn = [demonstrations(shown, [], config, RUN_SEED, 0, place) for place in range(count)]
    sampling = Sampling(
        min(config.max_new_tokens, tokens), config.temperature, config.top_p, stop=STOP
    )
    texts = [propose_prompt([one.instruction for one in shown]) for shown in drawn]
    most = {"max_new_tokens": min(profile.instances.max_new_tokens, tokens)}
    instances = profile.instances.model_copy(update=most)
    prompts = instance_prompts(seeds[:count], seeds, count_tokens, instances, RUN_SEED)
    return {
        "propose": [
            Request("propose", text, sampling, request_seed(RUN_SEED, place))
            for place, text in enumerate(texts)
        ],
        "instance": instance_requests(prompts, instances, RUN_SEED),
    }


def plain(loaded: LoadedModel, batch_size: int) -> Answer:
    """`model.generate` on batches in the order given, padded to the longest."""
    tokenizer = loaded.tokenizer
    # Made once, as somebody would who calls `generate` again and again: it reads the vocabulary.
    stops: dict[tuple[str, ...], StoppingCriteriaList] = {}

    def answer(requests: Sequence[Request]) -> int:
        written = 0
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            sampling = batch[0].sampling
            assert isinstance(sampling, Sampling)
            if sampling.stop not in stops:
                ends = StopStringCriteria(tokenizer, list(sampling.stop))
                stops[sampling.stop] = StoppingCriteriaList([ends])
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
                    stopping_criteria=stops[sampling.stop],
                    pad_token_id=tokenizer.pad_token_id,
                )
            new = ids[:, inputs["input_ids"].shape[1] :]
            written += int((new != tokenizer.pad_token_id).sum())
        return written

    return answer


def by_backend(backend: Any) -> Answer:
    """A backend, asked for everything at once."""
    return lambda requests: sum(
        done.completion_tokens for batch in backend.generate(requests) for _, done in batch
    )


def rates(ways: dict[str, tuple[Answer, bool]], kinds: Kinds, rounds: int) -> None:
    """Print each way's tokens per CPU second; the flag is the device's deterministic mode."""
    found: dict[tuple[str, str], list[float]] = {(way, kind): [] for way in ways for kind in kinds}
    for number in range(rounds + 1):
        for kind, requests in kinds.items():
            for way, (answer, deterministic) in ways.items():
                with device_session(on_cpu(deterministic)):
                    begun = time.process_time()
                    # The first round warms up.
                    written = answer(requests if number else requests[:2])
                    found[way, kind].append(written / (time.process_time() - begun))
    table = Table("", *kinds, title="tokens per CPU second (times plain generate, by round)")
    first = next(iter(ways))
    for way in ways:
        cells = []
        for kind in kinds:
            rate = found[way, kind][1:]
            ratios = sorted(a / b for a, b in zip(rate, found[first, kind][1:], strict=True))
            spread = f"{statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}"
            cells.append(f"{statistics.median(rate):,.0f} ({spread})")
        table.add_row(way, *cells)
    console.print(table)


def on_cpu(deterministic: bool) -> DeviceConfig:
    return DeviceConfig(device="cpu", threads=1, deterministic=deterministic)


@dataclass(frozen=True)
class Subject:
    """What is measured: a model, the backend in both modes, and what is asked."""

    loaded: LoadedModel
    free: TransformersBackend
    exact: TransformersBackend
    kinds: Kinds
    batch_size: int
    rounds: int


@contextmanager
def subject(about: str) -> Iterator[Subject]:
    """Read the command line, load the model, tell what is about to be measured."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a causal language model")
    parser.add_argument("--random", action="store_true", help="take 109 M random weights instead")
    parser.add_argument("--requests", type=int, default=64, help="of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=10**6, help="at most so many new ones")
    given = parser.parse_args()
    profile, path = load_profile("offline"), given.model
    size = profile.generator.batch_size or 32
    with tempfile.TemporaryDirectory() as folder, device_session(on_cpu(False)) as device:
        if given.random:
            path = Path(folder)
            random_llama(given.model, path)
        with loaded_model(resolve_model(str(path)), device) as loaded:
            free = TransformersBackend(loaded, size)
            exact = replace(loaded, device=replace(device, deterministic=True))
            kinds = requests_of(profile, free.count_tokens, given.requests, given.tokens)
            weights = sum(weight.numel() for weight in loaded.model.parameters())
            console.print(
                f"Python {platform.python_version()}, torch {version('torch')}, transformers "
                f"{version('transformers')}; {weights / 1e6:.1f} M weights, {given.requests} "
                f"requests of each kind, batches of {size} (16 where deterministic), rounds: "
                f"{given.rounds}"
            )
            yield Subject(loaded, free, TransformersBackend(exact, size), kinds, size, given.rounds)


def main() -> None:
    with subject(__doc__) as one:
        ways = {
            "plain generate": (plain(one.loaded, one.batch_size), False),
            "backend, free": (by_backend(one.free), False),
            "backend, deterministic": (by_backend(one.exact), True),
        }
        with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
            if not find_spec("vllm"):
                console.print("vLLM: not installed")
            else:
                config = GeneratorConfig.model_validate({"backend": "vllm"})
                store = CompletionsStore(Warehouse(Path(folder) / "warehouse.duckdb"), "run")
                vllm = open_generator(one.loaded.ref, one.loaded.device, store, config)
                backend = opened.enter_context(vllm).backend
                ways["vLLM"] = (by_backend(backend), False)
            rates(ways, one.kinds, one.rounds)


if __name__ == "__main__":
    main()
