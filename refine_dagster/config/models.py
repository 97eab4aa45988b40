"""Config of models: the device they run on, the base model, and what generates completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from refine_dagster.config.registered import Registered
from refine_dagster.config.section import ConfigSection
from refine_dagster.registry import BACKENDS


class DeviceConfig(ConfigSection):
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where models run.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Dtype of model weights and activations."
    )
    threads: int = Field(
        0,
        ge=0,
        description="CPU threads of PyTorch; 0 takes OMP_NUM_THREADS or the available cores.",
    )
    deterministic: bool = Field(
        True, description="Refuse PyTorch operations that have no deterministic implementation."
    )
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="`nf4` holds the language model's weights in four bits and trains a LoRA "
        "update over them (QLoRA). Needs bitsandbytes; fast on CUDA, slow on a "
        "CPU.",
    )
    memory_share: float = Field(
        0.9, gt=0, le=1, description="Largest share of the card's memory a session may use."
    )


class BaseModelConfig(ConfigSection):
    id: str = Field(
        "offline",
        description="`offline` trains a small Llama in the run; anything else is a Hugging "
        "Face id or a folder with config.json and weights.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face id.")
    hidden_size: int = Field(128, ge=32, description="Offline: width of the residual stream.")
    layers: int = Field(3, ge=1, description="Offline: number of decoder layers.")
    heads: int = Field(4, ge=1, description="Offline: attention heads (width / heads >= 32).")
    previous_token_heads: int = Field(
        3,
        ge=0,
        serialization_alias="look_back_heads",  # its name in manifests of checkpoints
        description="Offline: heads of the first layer that are initialised to attend to "
        "previous tokens, the first head one token back, the second two, and so "
        "on; copying is built on them.",
    )
    vocab_size: int = Field(1536, ge=300, description="Offline: entries of the byte-level BPE.")
    context_length: int = Field(1024, ge=128, description="Offline: longest sequence in tokens.")
    learn_seeds: bool = Field(
        True,
        description="Offline: train on the seeds as well as the primer. If off, the model "
        "does not depend on the seeds, and an edited seed costs only the requests"
        " that depend on it.",
    )
    primer_tasks: int = Field(6000, ge=50, description="Offline: primer tasks to train on.")
    steps: int = Field(450, ge=1, description="Offline: optimiser steps.")
    batch_size: int = Field(4, ge=1, description="Offline: sequences in a step.")
    sequence_length: int = Field(320, ge=32, description="Offline: tokens in a training sequence.")
    output_weight: float = Field(
        3.0,
        gt=0,
        description="Offline: weight in the loss of the tokens of a task's output; other "
        "tokens weigh 1.",
    )
    learning_rate: float = Field(
        4e-3,
        gt=0,
        description="Offline: peak learning rate of AdamW, for embeddings, norms and biases.",
    )
    matrix_learning_rate: float = Field(
        0.02, gt=0, description="Offline: peak learning rate of Muon, for the layers' matrices."
    )


class GeneratorConfig(ConfigSection):
    backend: Annotated[str, Registered(BACKENDS)] = Field(
        "transformers",
        description="What runs the language model: `transformers`; `vllm`, which needs the extra "
        "`refine-dagster[vllm]`; or one that another package registers.",
    )
    batch_size: int | None = Field(
        32,
        ge=1,
        description="Requests decoded and committed together; null finds it from free memory.",
    )
    max_requests: int | None = Field(
        None, ge=1, description="Budget: requests a run may send to the backend; null is no limit."
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Budget: tokens (prompt and completion) a run may send; null is no limit.",
    )
    reuse_other_backends: bool = Field(
        False,
        description="Answer from completions that other backends wrote with the same model, "
        "where this backend has none of its own; rows then name those.",
    )
    vllm_memory_share: float = Field(
        0.5, gt=0, le=0.95, description="vLLM: share of the memory that the engine may hold."
    )
    vllm_max_model_len: int | None = Field(
        None,
        ge=16,
        description="vLLM: longest sequence in tokens; null is the model's context length.",
    )

    def deciding(self) -> dict[str, Any]:
        """What decides which completions are reused and is not the default; JSON values.

        The other config bound cost. Under the name of the section, so that it can be put beside
        other sections; without any such config field there is no section.
        """
        set_here = self.model_dump(
            mode="json", include={"backend", "reuse_other_backends"}, exclude_defaults=True
        )
        return {"generator": set_here} if set_here else {}
