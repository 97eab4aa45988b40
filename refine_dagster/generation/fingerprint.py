"""Names of a model as a backend runs it."""

from __future__ import annotations

import hashlib

from refine_dagster.device import Device
from refine_dagster.generation.knobs import BackendName
from refine_dagster.language_model import ModelRef
from refine_dagster.lineage.content import canonical_json


def backend_fingerprint(backend: BackendName, ref: ModelRef, device: Device) -> str:
    """Names model, backend, and what its rounding depends on; 64 hex digits.

    vLLM has no mode in which a completion does not depend on its neighbours' shapes, so there the
    device's `deterministic` changes nothing and is no part of the name.
    """
    parts: list[str | bool] = [backend, ref.fingerprint, device.dtype]
    if backend == "transformers":
        parts.append(device.deterministic)
    if device.quantization != "none":
        parts.append(device.quantization)
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
