"""Exported models load in other tools as they are, and say what the home's models say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from refine_dagster.config.models import DeviceConfig
from refine_dagster.errors import RefineError
from refine_dagster.hashing import folder_files
from refine_dagster.home import Home
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import ModelRef, loaded_model
from refine_dagster.prompts.example import zero_shot_prompt
from refine_dagster.publishing.home_models import (
    figures_of,
    find_model,
    home_models,
    model_ref,
)
from refine_dagster.publishing.model_folder import export_model
from refine_dagster.publishing.new_folder import read_manifest
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.rows import parents
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.model_home import SCORES, model_home
from tests.builders.rows import row
from tests.builders.warehouse import commit

PROMPT = zero_shot_prompt("Count the words.", "cat dog sun")


@pytest.fixture(scope="module")
def made(
    tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Home, dict[str, ModelRef]]:
    return model_home(tmp_path_factory.mktemp("models") / "home", tiny_model_folder)


@pytest.fixture(scope="module")
def home(made: tuple[Home, dict[str, ModelRef]]) -> Home:
    return made[0]


@pytest.fixture(scope="module")
def exported(home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The arm `refine_af`, merged and as an adapter."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        "merged": export_model(home, "refine_af", folder / "merged").folder,
        "adapter": export_model(home, "refine_af", folder / "adapter", layout="adapter").folder,
    }


def answer(ref: ModelRef) -> dict[str, Any]:
    """What `loading.py` finds, by the project's own loading."""
    config = DeviceConfig(device="cpu", threads=1)
    with device_session(config) as device, loaded_model(ref, device) as loaded:
        asked = loaded.tokenizer(PROMPT, return_tensors="pt")
        written = loaded.model.generate(**asked, max_new_tokens=12, do_sample=False)
        logits = loaded.model(**asked).logits[0, -1].tolist()
        return {"tokens": written[0].tolist(), "logits": logits}


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two answers' logits."""
    pairs = zip(one["logits"], other["logits"], strict=True)
    return max(abs(here - there) for here, there in pairs)


def test_models_are_found_with_all_their_adapters(
    made: tuple[Home, dict[str, ModelRef]],
) -> None:
    home, refs = made
    warehouse, store = Warehouse(home.warehouse), CheckpointStore(home.checkpoints)
    assert [model.name for model in home_models(warehouse)] == list(refs)
    for name, ref in refs.items():
        assert model_ref(warehouse, store, find_model(warehouse, name)) == ref
    assert len(refs["policy"].adapters) == 2
    with pytest.raises(RefineError, match=r"no model 'nobody'.*\n.*base, start, policy"):
        find_model(warehouse, "nobody")


def test_figures_are_of_the_very_model(home: Home, tmp_path: Path) -> None:
    warehouse = Warehouse(home.warehouse)
    (own,) = figures_of(warehouse, find_model(warehouse, "refine_af"))
    assert own.value == sum(SCORES["refine_af"]) / 3
    assert own.low is not None
    assert own.high is not None
    assert min(SCORES["refine_af"]) <= own.low < own.value < own.high <= max(SCORES["refine_af"])
    copy = Warehouse(tmp_path / "copy.duckdb")
    copy.path.write_bytes(warehouse.path.read_bytes())
    base = parents(copy.read("base_model").to_dicts(), "base_model", "base")
    commit(copy, "fine_tuned_model", [row("fine_tuned_model", base, arm="refine_af", steps=9)])
    assert figures_of(copy, find_model(copy, "refine_af")) == []


def test_a_model_of_a_former_base_is_stale_and_still_found(home: Home, tmp_path: Path) -> None:
    copy = Warehouse(tmp_path / "copy.duckdb")
    copy.path.write_bytes(home.warehouse.read_bytes())
    store = CheckpointStore(home.checkpoints)
    before = model_ref(copy, store, find_model(copy, "refine_af"))
    assert not find_model(copy, "refine_af").stale
    commit(copy, "base_model", [row("base_model", fingerprint="another")])
    model = find_model(copy, "refine_af")
    assert model.stale
    assert model_ref(copy, store, model) == before


def test_a_fresh_process_loads_both(
    made: tuple[Home, dict[str, ModelRef]], exported: dict[str, Path], tmp_path: Path
) -> None:
    arguments = [str(exported["merged"]), str(exported["adapter"]), str(tmp_path)]
    child = subprocess.run(
        [sys.executable, "-m", "tests.publishing.loading", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    expected = answer(made[1]["refine_af"])
    for layout in ("merged", "adapter"):
        assert found[layout]["tokens"] == expected["tokens"]
        assert apart(found[layout], expected) < 1e-3
    assert found["adapters"] == 1
    assert found["loss"] > 0
    assert apart(expected, answer(made[1]["base"])) > 0.05


def test_a_policy_on_its_start_is_one_adapter(
    made: tuple[Home, dict[str, ModelRef]], tmp_path: Path
) -> None:
    home, refs = made
    folder = export_model(home, "policy", tmp_path / "policy", layout="adapter").folder
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["base_model_name_or_path"]) == (8, str(folder / "base"))
    whole = ModelRef(str(folder / "base"), "base", adapters=(str(folder),))
    assert apart(answer(whole), answer(refs["policy"])) < 1e-3
    assert apart(answer(refs["start"]), answer(refs["policy"])) > 0.05


def test_the_folder_says_what_it_is(home: Home, exported: dict[str, Path]) -> None:
    folder = exported["merged"]
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest["name"] == "refine_af"
    files = folder_files(folder)
    del files["refine-dagster.json"]
    assert manifest["files"] == files
    card = (folder / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["library_name"] == "transformers"
    assert "license" not in metadata
    assert "| refine_af | 21 | 15.00 to 30.00 |" in card
    assert "| base | 2 | 0 | 1 | 7 | -2.00 to +18.00 |" in card
    assert "their licence is not recorded" in card
    assert str(home.root.parent) not in card


def test_wrong_exports_are_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(RefineError, match="has no adapter"):
        export_model(home, "base", tmp_path / "base", layout="adapter")
    assert not (tmp_path / "base").exists()
