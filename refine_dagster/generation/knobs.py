"""The profile's section `generator`: what runs the language model, and what a run may send."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from refine_dagster.knobs import Knobs

BackendName = Literal["transformers", "vllm"]


class GeneratorKnobs(Knobs):
    backend: BackendName = Field(
        "transformers",
        description="What runs the language model; `vllm` needs the extra `refine-dagster[vllm]`.",
    )
    batch_size: int | None = Field(
        32,
        ge=1,
        description="Requests decoded together and committed together; null finds it from memory.",
    )
    max_requests: int | None = Field(
        None, ge=1, description="Budget: requests a run may send to the backend; null is no limit."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Budget: tokens (prompt and completion) a run may send; null: none."
    )
    reuse_other_backends: bool = Field(
        False,
        description="Answer from completions that the other backend wrote on the same model, where "
        "this one has none of its own; rows then name those.",
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
        """What decides which completions are lent and is not as by default; JSON values.

        The other knobs bound cost. Under the name of the section, so that it can be put beside
        other sections; without any such knob there is no section.
        """
        set_here = self.model_dump(
            mode="json", include={"backend", "reuse_other_backends"}, exclude_defaults=True
        )
        return {"generator": set_here} if set_here else {}
