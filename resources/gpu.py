"""Resource `gpu`: the device that models run on, for a session at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from refine_dagster.config.models import DeviceConfig
from refine_dagster.models.device import Device, device_session


class GpuResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The device; a field left unset follows the profile's `device` section."""

    device: str | None = Field(
        default=None, description="Where models run: auto, cpu, cuda or mps."
    )
    dtype: str | None = Field(
        default=None, description="Dtype of weights: float32, bfloat16 or float16."
    )
    threads: int | None = Field(default=None, description="CPU threads; 0 takes what is free.")
    deterministic: bool | None = Field(
        default=None, description="Refuse operations without a deterministic implementation."
    )
    quantization: str | None = Field(
        default=None, description="Weights of language models: none, or nf4 for four bits."
    )
    memory_share: float | None = Field(
        default=None, description="Largest share of the card's memory a session may take."
    )

    def config(self, profile: DeviceConfig) -> DeviceConfig:
        """The profile's config with this resource's settings over them."""
        own = {name: getattr(self, name) for name in DeviceConfig.model_fields}
        return profile.changed("device", own, "resource gpu")

    @contextmanager
    def session(self, profile: DeviceConfig) -> Iterator[Device]:
        """Open the device; at the end its memory is free and every setting is as before."""
        with device_session(self.config(profile)) as device:
            yield device
