"""The resource `gpu` can set whatever the profile's `device` section can."""

from __future__ import annotations

from refine_dagster.config.models import DeviceConfig
from resources.models import GpuResource


def test_every_device_knob_is_followed_or_set() -> None:
    profile = DeviceConfig(device="cpu", threads=1, quantization="none", memory_share=0.5)
    assert GpuResource().config(profile) == profile
    own = GpuResource(threads=2, quantization="nf4").config(profile)
    changed = {"threads": 2, "quantization": "nf4"}
    assert own == profile.model_copy(update=changed)
    assert set(DeviceConfig.model_fields) <= set(GpuResource.model_fields)
