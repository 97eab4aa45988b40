"""Training and generation on a CUDA card: tokens per second, peak memory, share of its bf16 rate.

    python benchmarks/gpu.py                # writes docs/results/gpu.md
    python benchmarks/gpu.py --rehearse     # the same steps with a tiny model on a CPU, prints only

A Llama of some 155 M parameters is made from scratch (nothing is downloaded), and this project's
own fine-tuning, GRPO and generation run on it in bfloat16. Its weights are random: the figures are
about speed, and nothing is learned that matters. Without CUDA the script says so and writes
nothing.

A model's work is counted as 2 operations a weight and token forward, twice that backward, and the
products of attention: with every weight trained 6 N + 12 L Q T a token (Chowdhery et al. 2022,
arXiv 2204.02311, appendix B), N weights of matrices, L layers, Q width of the queries, T tokens of
a sequence. A LoRA update needs no gradient of the frozen weights: 4 N + 12 L Q T. What gradient
checkpointing computes twice is counted once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from refine_dagster import progress
from refine_dagster.config.learning import ReinforcementConfig, SupervisedConfig
from refine_dagster.config.models import DeviceConfig
from refine_dagster.generation.request import Request, Sampling
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.judge.judge import PARTS, Part, Scores
from refine_dagster.models.device import device_session, session_figures
from refine_dagster.models.language_model import ModelRef, loaded_model, resolve_model
from refine_dagster.models.memory import ModelSize, model_size
from refine_dagster.offline.base_model import train_tokenizer
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.training.reinforcement import PolicyPrompt, train_policy
from refine_dagster.training.sft import fine_tune, training_example

REPORT = Path(__file__).parents[1] / "docs" / "results" / "gpu.md"
# Dense bfloat16 operations a second by the makers' data sheets; the first name found counts.
SHEET_RATES = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
# Steps that are not timed: kernels are chosen and memory is first taken in them.
WARM_UP = 5


@dataclass(frozen=True)
class Scale:
    """How large the run is."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocab: int
    length: int
    steps: int
    batch: int
    prompts: int
    new_tokens: int
    requests: int


CARD = Scale(1024, 12, 16, 2816, 8192, 512, 40, 32, 16, 128, 512)
REHEARSAL = Scale(64, 2, 2, 128, 512, 96, 7, 4, 2, 8, 8)


@dataclass(frozen=True)
class Figure:
    """One line of the report: tokens a second of some work, and what it took."""

    work: str
    tokens_a_second: float
    operations_a_token: float
    peak_memory_mb: int
    seconds: float


def matrix_weights(size: ModelSize) -> int:
    """Weights that are multiplied with every token: the linear layers and the head."""
    return size.linear + size.vocab * size.hidden


def forward_operations(size: ModelSize, length: int) -> int:
    """Operations to read one token of a sequence of `length`: 2 N + 4 L Q T."""
    return 2 * matrix_weights(size) + 4 * size.layers * size.query * length


def training_operations(size: ModelSize, length: int, trained: str) -> int:
    """Operations to train on one token of a sequence of `length`: `full` or `lora`."""
    attention = 12 * size.layers * size.query * length
    return (6 if trained == "full" else 4) * matrix_weights(size) + attention


def sheet_rate(card: str) -> float | None:
    """The card's dense bfloat16 rate by its data sheet, operations a second; None if unknown."""
    return next((rate for name, rate in SHEET_RATES.items() if name in card), None)


class Clock:
    """Notes the time at which every step of one task was told."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._names: list[str] = []
        self.times: list[float] = []

    def start(self, description: str, total: int | None) -> int:
        self._names.append(description)
        return len(self._names) - 1

    def advance(self, handle: int, steps: int, figures: dict[str, progress.Figure]) -> None:
        if self._names[handle] == self._work:
            self.times.append(perf_counter())

    def finish(self, handle: int) -> None: ...

    def note(self, message: str) -> None:
        print(message, flush=True)

    def seconds_a_step(self) -> float:
        """Mean of the steps after the first `WARM_UP`."""
        timed = self.times[WARM_UP:]
        return (timed[-1] - self.times[WARM_UP - 1]) / len(timed)


class EvenJudge:
    """Costs nothing and prefers no text."""

    fingerprint = "even"
    parts: tuple[Part, ...] = PARTS

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        return [{part.name: 0.5 for part in PARTS} for _ in examples]


def write_model(folder: Path, scale: Scale, examples: Sequence[Example]) -> ModelRef:
    """A Llama with random weights and a tokenizer of the primer's language."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    texts = [example.render() for example in examples]
    tokenizer = train_tokenizer(texts, scale.vocab, 2 * scale.length)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=scale.vocab,
        hidden_size=scale.hidden,
        intermediate_size=scale.feed_forward,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        max_position_embeddings=2 * scale.length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return resolve_model(str(folder))


def long_examples(tokenizer: Any, examples: Sequence[Example], scale: Scale) -> list[Example]:
    """Examples whose training examples have nearly `length` tokens."""
    joined, words = [], " ".join(example.render() for example in examples).split()
    take = scale.length // 2
    for start in range(0, scale.batch * 4 * 7, 7):
        text = (words[start:] + words[:start])[: scale.length]
        one = Example("Go on.", "", " ".join(text))
        while len(training_example(tokenizer, one)["input_ids"]) > scale.length:
            text = text[: -max(1, len(text) // 20)]
            one = Example("Go on.", "", " ".join(text))
        assert len(text) > take // 4
        joined.append(one)
    return joined


def measure(config: DeviceConfig, scale: Scale, folder: Path) -> list[Figure]:
    """All work, each in a session of its own."""
    examples = [task.example for task in primer_tasks(400, 1)]
    ref = write_model(folder / "model", scale, examples)
    size = model_size(ref)
    print(f"model of {size.parameters / 1e6:.1f} M parameters", flush=True)
    return [
        _fine_tuning(ref, size, config, scale, examples, folder),
        *(
            _reinforcement(ref, size, config, scale, examples, folder, weights)
            for weights in ("lora", "full")
        ),
        _generation(ref, size, config, scale, examples),
    ]


def _fine_tuning(
    ref: ModelRef,
    size: ModelSize,
    config: DeviceConfig,
    scale: Scale,
    examples: Sequence[Example],
    folder: Path,
) -> Figure:
    from refine_dagster.models.language_model import load_tokenizer

    tokenizer = load_tokenizer(ref)
    examples = long_examples(tokenizer, examples, scale)
    lengths = [len(training_example(tokenizer, one)["input_ids"]) for one in examples]
    mean = sum(lengths) / len(lengths)
    supervised = SupervisedConfig(batch_size=scale.batch, max_tokens=scale.length)

    def train(device: Any) -> None:
        out = folder / "tuned"
        fine_tune(
            ref, examples, supervised, out, steps=scale.steps, device=device, run_seed="benchmark"
        )

    clock, told = _timed("fine-tuning", config, train)
    rate = scale.batch * mean / clock.seconds_a_step()
    operations = training_operations(size, round(mean), "lora")
    return _figure("fine-tuning, LoRA", rate, operations, told)


def _reinforcement(
    ref: ModelRef,
    size: ModelSize,
    config: DeviceConfig,
    scale: Scale,
    examples: Sequence[Example],
    folder: Path,
    weights: str,
) -> Figure:
    """Tokens are those of rollouts and their prompts; seconds those of sampling and update."""
    from refine_dagster.models.language_model import load_tokenizer

    settings = {
        "steps": scale.steps // 2 + WARM_UP,
        "prompts_per_step": scale.prompts,
        "weights": weights,
        "learning_rate": 1e-6,
        "max_kl": 1e6,
        "min_diversity_share": 0.0,
        "max_invalid_rise": 1.0,
    }
    reinforcement = ReinforcementConfig.model_validate(settings)
    prompts = [
        PolicyPrompt.of(one.instruction, f"Instruction: {one.instruction}\nInput:")
        for one in examples[: scale.prompts * 4]
    ]
    tokenizer = load_tokenizer(ref)
    asked = sum(len(tokenizer(one.prompt)["input_ids"]) for one in prompts) / len(prompts)
    lengths: list[float] = []

    def train(device: Any) -> None:
        trained = train_policy(
            ref,
            prompts,
            Feedback(EvenJudge(), PRESETS["balanced"], -1.0),
            reinforcement,
            folder / weights,
            max_new_tokens=scale.new_tokens,
            device=device,
            run_seed="benchmark",
        )
        lengths.extend(step.length for step in trained.steps[WARM_UP:])

    clock, told = _timed("reinforcement", config, train)
    written = sum(lengths) / len(lengths)
    rollouts = scale.prompts * reinforcement.group_size
    rate = rollouts * (asked + written) / clock.seconds_a_step()
    length = round(asked + written)
    # Written, read by policy and reference, and trained on.
    operations = 2 * forward_operations(size, length) + training_operations(size, length, weights)
    return _figure(f"GRPO, {weights}", rate, operations, told)


def _generation(
    ref: ModelRef, size: ModelSize, config: DeviceConfig, scale: Scale, examples: Sequence[Example]
) -> Figure:
    sampling = Sampling(max_new_tokens=scale.new_tokens, temperature=1.0)
    requests = [
        Request("propose", f"Instruction: {examples[n % 400].instruction}", sampling, n)
        for n in range(scale.requests)
    ]
    rate = 0.0

    def generate(device: Any) -> None:
        nonlocal rate
        with loaded_model(ref, device) as loaded:
            backend = TransformersBackend(loaded, None)
            list(backend.generate(requests[: max(2, scale.requests // 16)]))
            begun = perf_counter()
            done = [one for batch in backend.generate(requests) for _, one in batch]
            rate = sum(one.completion_tokens for one in done) / (perf_counter() - begun)

    _, told = _timed("propose requests", config, generate)
    return _figure("generation", rate, forward_operations(size, scale.new_tokens), told)


def _timed(
    work: str, config: DeviceConfig, run: Callable[[Any], None]
) -> tuple[Clock, dict[str, Any]]:
    clock = Clock(work)
    with progress.reporting(clock), device_session(config) as device:
        run(device)
    return clock, session_figures(device)


def _figure(work: str, rate: float, operations: float, told: dict[str, Any]) -> Figure:
    figure = Figure(work, rate, operations, told["peak_memory_mb"], told["seconds"])
    print(figure, flush=True)
    return figure


def matmul_rate(edge: int = 8192, times: int = 50) -> float:
    """Operations a second of square bfloat16 products on the card: what it gives at best."""
    import torch

    left, right = (torch.randn(edge, edge, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        left @ right
    torch.cuda.synchronize()
    begun = perf_counter()
    for _ in range(times):
        left @ right
    torch.cuda.synchronize()
    return 2 * edge**3 * times / (perf_counter() - begun)


def report(figures: Sequence[Figure], told: dict[str, Any], parameters: int, best: float) -> str:
    """The Markdown page."""
    import torch
    import transformers
    import trl

    sheet = sheet_rate(told["hardware"])
    of_sheet = "unknown" if sheet is None else f"{sheet / 1e12:.0f} T"
    rows = [
        f"| {one.work} | {one.tokens_a_second:,.0f} | {one.peak_memory_mb:,} | "
        f"{_share(one, best)} | {_share(one, sheet)} | {one.seconds:.0f} |"
        for one in figures
    ]
    return "\n".join(
        [
            "# On a card",
            "",
            "    python benchmarks/gpu.py",
            "",
            f"A Llama of {parameters / 1e6:.0f} M parameters made from scratch, bfloat16, on",
            f"{told['hardware']}, driver {told['driver']}; torch {torch.__version__},",
            f"transformers {transformers.__version__}, trl {trl.__version__}. bf16 rate: measured",
            f"{best / 1e12:.0f} T operations a second (8192-wide products), data sheet {of_sheet}.",
            "",
            "| work | tokens/s | peak MiB | of the measured rate | of the data sheet | seconds |",
            "|---|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "Operations a token as in the script's first lines. GRPO's tokens are prompts and",
            "rollouts over whole steps, sampling included; seconds are the whole session's.",
            "",
        ]
    )


def _share(figure: Figure, rate: float | None) -> str:
    if rate is None:
        return "unknown"
    return f"{figure.tokens_a_second * figure.operations_a_token / rate:.1%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the page; 2 without a card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU, prints only")
    rehearse = parser.parse_args(arguments).rehearse
    import torch

    with tempfile.TemporaryDirectory() as folder:
        if rehearse:
            config = DeviceConfig(device="cpu", threads=1, deterministic=False)
            figures = measure(config, REHEARSAL, Path(folder))
            print(json.dumps([one.work for one in figures]))
            return 0
        if not torch.cuda.is_available():
            print(
                "There is no CUDA device here: nothing was measured and nothing was written.",
                file=sys.stderr,
            )
            return 2
        config = DeviceConfig(device="cuda", dtype="bfloat16", deterministic=False)
        figures = measure(config, CARD, Path(folder))
        size = model_size(resolve_model(str(Path(folder) / "model")))
    with device_session(config) as device:
        best = matmul_rate()
    page = report(figures, session_figures(device), size.parameters, best)
    REPORT.write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
