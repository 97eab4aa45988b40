"""What describes an export to machines and authorities is read by the tools of its standards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refine_dagster.home import Home
from refine_dagster.publishing.ai_bom import BOM
from refine_dagster.publishing.croissant import CROISSANT
from refine_dagster.publishing.dataset_folder import DatasetOptions, export_dataset_folder
from refine_dagster.publishing.home_models import find_model
from refine_dagster.publishing.layouts import LayoutName
from refine_dagster.publishing.model_card import read_facts
from refine_dagster.publishing.training_summary import TO_FILL_IN, training_summary
from refine_dagster.warehouse.warehouse import Warehouse


def exported(home: Home, layout: LayoutName) -> Path:
    options = DatasetOptions(licence="cc-by-4.0")
    return export_dataset_folder(home, layout, home.root.parent / "out", options).folder


@pytest.mark.parametrize("layout", ["alpaca", "hf", "messages"])
def test_croissant_is_valid(small_home: Home, layout: LayoutName) -> None:
    import mlcroissant

    folder = exported(small_home, layout)
    dataset = mlcroissant.Dataset(jsonld=folder / CROISSANT)
    assert list(dataset.metadata.ctx.issues.errors) == []
    written = json.loads((folder / CROISSANT).read_text(encoding="utf-8"))
    assert "http://mlcommons.org/croissant/1.1" in written["conformsTo"]
    assert written["rai:hasSyntheticData"] is True
    if layout == "alpaca":
        read = [
            {name.partition("/")[2]: value.decode() for name, value in record.items()}
            for record in dataset.records("train")
        ]
        lines = (folder / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        assert read == [json.loads(line) for line in lines]


def test_the_bill_of_materials_is_valid(small_home: Home) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (exported(small_home, "alpaca") / BOM).read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    refs = {part["bom-ref"] for part in bill["components"]} | {"dataset"}
    assert {"base", "policy", "judge", "seed_tasks"} <= refs
    named = {name for line in bill["dependencies"] for name in line.get("dependsOn", [])}
    assert named <= refs


def test_the_summary_of_training_content_has_the_templates_sections(small_home: Home) -> None:
    warehouse = Warehouse(small_home.warehouse)
    text = training_summary(read_facts(warehouse, find_model(warehouse, "policy")))
    for heading in ("1. General information", "2. Data sources", "3. Data processing"):
        assert f"## {heading}" in text
    assert "### 2.5 Synthetic data" in text
    assert "| instructions | too_similar | 1 |" in text
    # The small warehouse's seeds are a user's.
    assert f"licence is not recorded. {TO_FILL_IN}" in text
