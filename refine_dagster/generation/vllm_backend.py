"""Decoding with vLLM: continuous batches, shared prefixes from its cache, adapters without merging.

Prompts go to the engine as tokens and completions come back as tokens, turned by the same
`ModelText` as those of the transformers backend. Each request has a random generator of its own,
seeded by its seed, so its noise does not depend on its neighbours. Its logits do, in their last
digits: vLLM's matrix products have the shape of whatever is decoded together, and a token may flip
where two are almost as likely.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Union

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.model_text import ModelText, backend_fingerprint, model_text
from refine_dagster.generation.request import (
    Completion,
    FinishReason,
    Request,
    Role,
    Sampling,
    Scoring,
    scored_completion,
)
from refine_dagster.generation.vllm_engine import (
    SEQUENCES,
    VllmEngine,
    VllmError,
    check_can_run,
    vllm_engine,
)
from refine_dagster.models.device import Device
from refine_dagster.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from refine_dagster.models.language_model import ModelRef, check_text_alone


def as_one_adapter(adapters: Sequence[str], scratch: Path) -> tuple[str, int]:
    """One folder with the update of all adapters together, and its rank: the sum of theirs.

    vLLM takes one adapter a request. Each adapter was trained on the weights W + s1 B1 A1 + ...
    with all those before it, so their updates add up. The sum is a LoRA update too: the A matrices
    one below the other, the B matrices side by side, each B times its scale s = alpha / r (rsLoRA:
    alpha / sqrt(r)). Several adapters are written to `scratch` as one.
    """
    configs = [
        json.loads((Path(folder) / ADAPTER_CONFIG).read_text("utf-8")) for folder in adapters
    ]
    rank = sum(int(config["r"]) for config in configs)
    if len(adapters) == 1:
        return adapters[0], rank
    import torch
    from safetensors.torch import load_file, save_file

    stacked: dict[str, torch.Tensor] = {}
    start = 0
    for folder, config in zip(adapters, configs, strict=True):
        own = int(config["r"])
        scale = config["lora_alpha"] / (math.sqrt(own) if config.get("use_rslora") else own)
        for name, weights in load_file(Path(folder) / ADAPTER_WEIGHTS).items():
            is_a = ".lora_A." in name
            if name not in stacked:
                shape = (rank, weights.shape[1]) if is_a else (weights.shape[0], rank)
                # A module that an adapter leaves alone has zeros in its place.
                stacked[name] = torch.zeros(shape, dtype=weights.dtype)
            ranks = slice(start, start + own)
            if is_a:
                stacked[name][ranks] = weights
            else:
                stacked[name][:, ranks] = weights * scale
        start += own
    modules = sorted({module for config in configs for module in config["target_modules"]})
    scaled = {"r": rank, "lora_alpha": rank, "use_rslora": False}
    whole = configs[0] | scaled | {"target_modules": modules}
    save_file(stacked, scratch / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (scratch / ADAPTER_CONFIG).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return str(scratch), rank


# What vLLM takes; the transformers backend takes any.
HIGHEST_TEMPERATURE = 2.0
HIGHEST_PENALTY = 2.0


class VllmBackend:
    """Runs requests on an engine (implements `request.Backend`).

    Args:
        engine: gives the engine that runs the base model of `ref`; called with the first request.
        batch_size: completions yielded together.
        adapter: folder of one LoRA adapter with all of the model's updates.
    """

    name = "vllm"

    def __init__(
        self,
        engine: Callable[[], VllmEngine],
        text: ModelText,
        ref: ModelRef,
        device: Device,
        batch_size: int,
        adapter: str | None = None,
    ) -> None:
        self.fingerprint = backend_fingerprint("vllm", ref, device)
        self._engine = engine
        self._text = text
        self._batch_size = batch_size
        self._adapter = adapter
        self.count_tokens, self.cut = text.count_tokens, text.cut

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        """Yield batches of (position in `requests`, completion) in the order in which they end.

        The engine pauses while the caller handles a batch.

        Raises:
            PromptTooLongError: before anything is decoded, for a prompt that does not fit.
            VllmError: the sampling is beyond vLLM's range, or the engine has died.
        """
        plans = [self._plan(position, request) for position, request in enumerate(requests)]
        if not plans:
            return
        engine = self._engine()
        running: dict[str, tuple[_Plan, int]] = {}
        done: list[tuple[int, Completion]] = []
        try:
            for plan in plans:
                for number, (prompt, sampling) in enumerate(plan.questions()):
                    name = engine.submit(prompt, sampling, self._adapter)
                    running[name] = plan, number
            while running:
                for name, output, ended in engine.step():
                    plan, number = running[name]
                    if not ended:
                        if not plan.enough(output):
                            continue
                        engine.cancel([name])
                    del running[name]
                    if plan.take(number, output):
                        done.append((plan.position, plan.completion()))
                while len(done) >= self._batch_size:
                    yield done[: self._batch_size]
                    done = done[self._batch_size :]
            if done:
                yield done
        finally:
            engine.cancel(running)

    def _plan(self, position: int, request: Request) -> _Plan:
        prompt, sampling = self._text.prompt(request.prompt), request.sampling
        if isinstance(sampling, Scoring):
            labels = [self._text.label(label) for label in sampling.labels]
            self._text.check_length(request.role, len(prompt), max(map(len, labels)))
            return _Labels(position, prompt, labels)
        self._text.check_length(request.role, len(prompt), sampling.max_new_tokens)
        _check_range(sampling, request.role)
        return _Writing(position, prompt, sampling, request.seed, self._text)


@contextmanager
def vllm_backend(ref: ModelRef, device: Device, config: GeneratorConfig) -> Iterator[VllmBackend]:
    """A backend for a model with its adapters; the engine's memory is released at the end.

    The engine starts with the first request that is sent: where the store has every completion,
    none starts.

    Raises:
        ModelError: the model is multimodal.
    """
    check_can_run(device)
    check_text_alone(ref)
    base = replace(ref, adapters=())
    text = model_text(base, config.vllm_max_model_len)
    with ExitStack() as open_until_the_end:
        adapter, rank = None, 0
        if ref.adapters:
            scratch = open_until_the_end.enter_context(
                tempfile.TemporaryDirectory(prefix="refine_lora_")
            )
            adapter, rank = as_one_adapter(ref.adapters, Path(scratch))

        @cache
        def engine() -> VllmEngine:
            return open_until_the_end.enter_context(vllm_engine(base, text, device, config, rank))

        yield VllmBackend(engine, text, ref, device, config.batch_size or SEQUENCES, adapter)


# A request as questions to the engine.
_Plan = Union["_Writing", "_Labels"]


@dataclass
class _Writing:
    """A request for a text, by its position among the requests."""

    position: int
    prompt: list[int]
    sampling: Sampling
    seed: int
    text: ModelText
    output: Any = None

    def questions(self) -> list[tuple[list[int], Any]]:
        """(prompt tokens, `vllm.SamplingParams`) of each."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=self.sampling.max_new_tokens,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            presence_penalty=self.sampling.presence_penalty,
            stop=list(self.sampling.stop),
            stop_token_ids=sorted(self.text.eos),
            seed=self.seed,
            # Text is needed to find stop strings; the completion's is made from the tokens.
            detokenize=bool(self.sampling.stop),
            output_kind=RequestOutputKind.CUMULATIVE
            if self.sampling.lines
            else RequestOutputKind.FINAL_ONLY,
        )
        return [(self.prompt, params)]

    def enough(self, output: Any) -> bool:
        """Whether a question that is still being answered needs no more."""
        return self.text.at_list_end(self.prompt, list(output.token_ids), self.sampling)

    def take(self, number: int, output: Any) -> bool:
        """Keep the answer to a question; whether it was the last one."""
        self.output = output
        return True

    def completion(self) -> Completion:
        written = list(self.output.token_ids)
        finish: FinishReason = "length"
        if self.enough(self.output):
            finish = "stop"
        elif self.output.finish_reason == "stop":
            finish = "stop" if isinstance(self.output.stop_reason, str) else "eos"
        return self.text.completion(self.prompt, written, self.sampling, finish)


@dataclass
class _Labels:
    """A request for scores: for every start of a label, how likely is the token after it?

    Labels that share a start share its question, and all questions share the prompt in the cache.
    """

    position: int
    prompt: list[int]
    labels: list[list[int]]
    likely: dict[int, dict[int, float]] = field(default_factory=dict)

    @cached_property
    def starts(self) -> dict[tuple[int, ...], set[int]]:
        """Each start of a label -> the tokens that follow it."""
        after: dict[tuple[int, ...], set[int]] = {}
        for label in self.labels:
            for at, token in enumerate(label):
                after.setdefault(tuple(label[:at]), set()).add(token)
        return after

    def questions(self) -> list[tuple[list[int], Any]]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        def params(tokens: set[int]) -> SamplingParams:
            return SamplingParams(
                max_tokens=1,
                temperature=0.0,
                logprob_token_ids=sorted(tokens),
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )

        return [([*self.prompt, *start], params(tokens)) for start, tokens in self.starts.items()]

    def enough(self, output: Any) -> bool:
        return False

    def take(self, number: int, output: Any) -> bool:
        self.likely[number] = {token: entry.logprob for token, entry in output.logprobs[0].items()}
        return len(self.likely) == len(self.starts)

    def completion(self) -> Completion:
        after = {start: self.likely[number] for number, start in enumerate(self.starts)}
        scores = [
            sum(after[tuple(label[:at])][token] for at, token in enumerate(label))
            for label in self.labels
        ]
        return scored_completion(scores, len(self.prompt), [len(label) for label in self.labels])


def _check_range(sampling: Sampling, role: Role) -> None:
    temperature, penalty = sampling.temperature, sampling.presence_penalty
    if temperature > HIGHEST_TEMPERATURE or abs(penalty) > HIGHEST_PENALTY:
        raise VllmError(
            f"vLLM takes temperatures up to {HIGHEST_TEMPERATURE:g} and presence penalties of "
            f"at most {HIGHEST_PENALTY:g}, not {temperature:g} and {penalty:g}",
            where=f"request of role {role}",
            fix="lower them, or set generator.backend to `transformers`",
        )
