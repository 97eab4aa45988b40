"""Config of models: the device they run on, the base model, and what generates completions."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import model_validator

from refine_dagster.config.section import (
    ConfigSection,
    Count,
    Positive,
    Registered,
    setting,
)
from refine_dagster.registry import BACKENDS

_BASE_URL = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#@]*)?")


class DeviceConfig(ConfigSection):
    """CPU or GPU, dtype, threads, determinism, four-bit weights."""

    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "Where models run.")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = setting(
        "float32",
        "Dtype of model weights and activations; `auto` measures once whether the processor or "
        "card is faster with bfloat16.",
    )
    threads: int = setting(
        0, "CPU threads of PyTorch; 0 takes OMP_NUM_THREADS or the available cores.", ge=0
    )
    deterministic: bool = setting(
        True, "Refuse PyTorch operations that have no deterministic implementation."
    )
    quantization: Literal["none", "nf4"] = setting(
        "none",
        "`nf4` holds the language model's weights in four bits and trains a LoRA update over "
        "them (QLoRA). Needs bitsandbytes; fast on CUDA, slow on a CPU.",
    )
    memory_share: float = setting(
        0.9, "Largest share of the card's memory a session may use.", gt=0, le=1
    )


class BaseModelConfig(ConfigSection):
    """The model's id or folder; offline, its size and training."""

    id: str = setting(
        "offline",
        "`offline` trains a small Llama in the run; anything else is a Hugging Face id, a folder "
        "with config.json and weights, a .gguf file, or a model that `model fetch` knows.",
    )
    revision: str | None = setting(None, "Branch, tag or commit of a Hugging Face id.")
    hidden_size: int = setting(128, "Offline: width of the residual stream.", ge=32)
    layers: Count = setting(3, "Offline: number of decoder layers.")
    heads: Count = setting(4, "Offline: attention heads (width / heads >= 32).")
    previous_token_heads: int = setting(
        3,
        "Offline: heads of the first layer that are initialised to attend to previous tokens, "
        "the first head one token back, the second two, and so on; copying is built on them.",
        ge=0,
        serialization_alias="look_back_heads",  # its name in manifests of checkpoints
    )
    vocab_size: int = setting(1536, "Offline: entries of the byte-level BPE.", ge=300)
    context_length: int = setting(1024, "Offline: longest sequence in tokens.", ge=128)
    learn_seeds: bool = setting(
        True,
        "Offline: train on the seeds as well as the primer. If off, the model does not depend on "
        "the seeds, and an edited seed costs only the requests that depend on it.",
    )
    primer_tasks: int = setting(6000, "Offline: primer tasks to train on.", ge=50)
    steps: Count = setting(450, "Offline: optimiser steps.")
    batch_size: Count = setting(4, "Offline: sequences in a step.")
    sequence_length: int = setting(320, "Offline: tokens in a training sequence.", ge=32)
    output_weight: Positive = setting(
        3.0, "Offline: weight in the loss of the tokens of a task's output; other tokens weigh 1."
    )
    learning_rate: Positive = setting(
        4e-3, "Offline: peak learning rate of AdamW, for embeddings, norms and biases."
    )
    matrix_learning_rate: Positive = setting(
        0.02, "Offline: peak learning rate of Muon, for the layers' matrices."
    )


class GeneratorConfig(ConfigSection):
    """What runs the language model, and what a run may send."""

    backend: Annotated[str, Registered(BACKENDS)] = setting(
        "transformers",
        "What runs the language model: `transformers`; `vllm`, which needs the extra "
        "`refine-dagster[vllm]`; `endpoint`, servers with OpenAI's interface; or one that another "
        "package registers.",
    )
    batch_size: int | None = setting(
        32, "Requests decoded and committed together; null finds it from free memory.", ge=1
    )
    max_requests: int | None = setting(
        None, "Budget: requests a run may send to the backend; null is no limit.", ge=1
    )
    max_tokens: int | None = setting(
        None, "Budget: tokens (prompt and completion) a run may send; null is no limit.", ge=1
    )
    max_cost: float | None = setting(
        None,
        "Budget: money a run may spend by `prices`; null is no limit.",
        gt=0,
        exclude_if=lambda cost: cost is None,
    )
    prices: dict[str, float] = setting(
        {},
        "Prices: of a million tokens of prompts (`prompt`), of a million tokens of completions "
        "(`completion`), and of a request (`request`), in any currency.",
        exclude_if=lambda prices: not prices,
    )
    reuse_other_backends: bool = setting(
        False,
        "Answer from completions that other backends wrote with the same model, where this "
        "backend has none of its own; rows then name those.",
    )
    vllm_memory_share: float = setting(
        0.5, "vLLM: share of the memory that the engine may hold.", gt=0, le=0.95
    )
    vllm_max_model_len: int | None = setting(
        None, "vLLM: longest sequence in tokens; null is the model's context length.", ge=16
    )

    # Fields of `endpoint` are left out of hashes where they are as by default.
    endpoint_urls: tuple[str, ...] = setting(
        (),
        "Endpoint: base URLs of the servers, such as `http://localhost:8000/v1`. Requests are "
        "shared among them.",
        exclude_if=lambda urls: not urls,
    )
    endpoint_model: str | None = setting(
        None,
        "Endpoint: the model's name on the servers.",
        exclude_if=lambda name: name is None,
    )
    endpoint_key_env: str | None = setting(
        None,
        "Endpoint: the environment variable that holds the key; the key itself is never stored.",
        exclude_if=lambda name: name is None,
    )
    endpoint_api: Literal["auto", "completions", "chat"] = setting(
        "auto",
        "Endpoint: `completions` continues prompts as they are; `chat` sends them as a message in "
        "the model's chat template; `auto` takes the first where the server has it.",
        exclude_if=lambda api: api == "auto",
    )
    endpoint_local: tuple[Literal["labels", "trained"], ...] = setting(
        (),
        "Endpoint: what local weights answer instead: `labels`, the reviewer's log-probabilities "
        "(with base_model), `trained`, the models that the run trains.",
        exclude_if=lambda kinds: not kinds,
    )
    endpoint_concurrency: int = setting(
        32,
        "Endpoint: most requests in flight to a server; fewer where it says that it is busy.",
        ge=1,
        le=1024,
        exclude_if=lambda most: most == 32,
    )
    endpoint_timeout_s: Positive = setting(
        600.0,
        "Endpoint: seconds that a server may take to answer a request.",
        exclude_if=lambda seconds: seconds == 600.0,
    )

    def deciding(self) -> dict[str, Any]:
        """The section with the fields that decide which completions are reused; {} by default."""
        names = {"backend", "reuse_other_backends"}
        if self.backend == "endpoint":
            names |= {"endpoint_model", "endpoint_api", "endpoint_local"}
        set_here = self.model_dump(mode="json", include=names, exclude_defaults=True)
        return {"generator": set_here} if set_here else {}

    @model_validator(mode="after")
    def _prices_agree(self) -> Self:
        if self.max_cost is not None and not self.prices:
            raise ValueError("max_cost needs prices")
        if unknown := sorted(set(self.prices) - {"prompt", "completion", "request"}):
            raise ValueError(f"prices are of prompt, completion and request, not {unknown[0]!r}")
        if not all(0 <= price < math.inf for price in self.prices.values()):
            raise ValueError("prices has a price below 0")
        return self

    @model_validator(mode="after")
    def _names_its_servers(self) -> Self:
        if self.backend == "endpoint" and not (self.endpoint_urls and self.endpoint_model):
            raise ValueError("backend `endpoint` needs endpoint_urls and endpoint_model")
        if len(set(self.endpoint_urls)) < len(self.endpoint_urls):
            raise ValueError("endpoint_urls has a URL twice")
        for url in self.endpoint_urls:
            if not _BASE_URL.fullmatch(url):
                # The URL itself is not quoted: it may hold a password.
                raise ValueError(
                    "endpoint_urls takes URLs such as http://localhost:8000/v1, without user, "
                    "password or query; a key belongs in the variable of endpoint_key_env"
                )
        return self
