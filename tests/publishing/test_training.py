"""TRL's trainers take exported datasets, and exported models to train on them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refine_dagster.home import Home
from refine_dagster.publishing.dataset_folder import export_dataset_folder
from refine_dagster.publishing.layouts import LayoutName
from refine_dagster.publishing.model_folder import export_model
from tests.builders.model_home import model_home

LAYOUTS: tuple[LayoutName, ...] = ("messages", "prompt-completion", "preference")


@pytest.mark.slow
def test_trl_takes_a_model_and_the_datasets(
    small_home: Home, tiny_model_folder: Path, tmp_path: Path
) -> None:
    models, _ = model_home(tmp_path / "models", tiny_model_folder)
    model = export_model(models, "base", tmp_path / "model").folder
    folders = [
        export_dataset_folder(small_home, layout, tmp_path / layout).folder for layout in LAYOUTS
    ]
    arguments = [str(model), str(tmp_path / "scratch"), *map(str, folders)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    child = subprocess.run(
        [sys.executable, "-m", "tests.publishing.training", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    losses = json.loads(child.stdout.splitlines()[-1])
    assert list(losses) == list(LAYOUTS)
    assert all(loss > 0 for loss in losses.values())
    # Before the first step policy and reference are one model: the loss is that of a coin.
    assert math.isclose(losses["preference"], math.log(2), abs_tol=1e-3)
