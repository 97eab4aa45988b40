"""A bill of materials of an exported dataset in CycloneDX 1.6: the data and models behind it.

Its parts are those that the ledger knows: seeds, base model, trained models, judge, dataset. Code
packages are not listed, as the ledger does not record them; the composition says incomplete.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from refine_dagster.hashing import file_hash
from refine_dagster.publishing.dataset_card import DatasetFacts
from refine_dagster.publishing.home_models import HomeModel
from refine_dagster.publishing.model_card import base_licence, base_name, seeds_licence

BOM = "bom.cdx.json"
DATASET_REF, SEEDS_REF = "dataset", "seed_tasks"


def ai_bom(
    folder: Path, facts: DatasetFacts, files: Mapping[str, str], licence: str | None
) -> dict[str, Any]:
    """The bill of an export whose data files lie in `folder`; JSON values.

    Args:
        files: split -> its data file, relative to the folder.
    """
    models = [model for model in facts.models if model.kind != "base"]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, facts.digest)}",
        "version": 1,
        "metadata": {"component": _dataset(folder, facts, files, licence)},
        "components": [
            _seeds(facts),
            _base(facts),
            *(_model(model) for model in models),
            *(_judge(facts)),
        ],
        "dependencies": [
            {
                "ref": DATASET_REF,
                "dependsOn": sorted({SEEDS_REF, *(model.name for model in facts.models)}),
            },
            *({"ref": model.name, "dependsOn": _made_from(model)} for model in facts.models),
            {"ref": SEEDS_REF},
        ],
        "compositions": [{"aggregate": "incomplete", "assemblies": [DATASET_REF]}],
    }


def _dataset(
    folder: Path, facts: DatasetFacts, files: Mapping[str, str], licence: str | None
) -> dict[str, Any]:
    return {
        "bom-ref": DATASET_REF,
        "type": "data",
        "name": "instruction-dataset",
        "version": facts.data_version,
        **({"licenses": [{"license": {"name": licence}}]} if licence else {}),
        "components": [
            {
                "bom-ref": name,
                "type": "file",
                "name": name,
                "hashes": [{"alg": "SHA-256", "content": file_hash(folder / name)}],
            }
            for name in files.values()
        ],
        "data": [{"type": "dataset", "name": "instruction-dataset", "description": "Synthetic."}],
    }


def _seeds(facts: DatasetFacts) -> dict[str, Any]:
    return {
        "bom-ref": SEEDS_REF,
        "type": "data",
        "name": "seed tasks",
        "description": f"{facts.seeds} tasks, written by people. "
        + seeds_licence(facts.packaged_seeds),
        "data": [{"type": "dataset", "name": "seed tasks"}],
    }


def _base(facts: DatasetFacts) -> dict[str, Any]:
    base = facts.base
    return {
        "bom-ref": "base",
        "type": "machine-learning-model",
        "name": base_name(base),
        "version": base["revision"] or base["fingerprint"],
        "description": base_licence(base),
        "hashes": [{"alg": "SHA-256", "content": base["fingerprint"]}]
        if len(base["fingerprint"]) == 64
        else [],
        "modelCard": {"modelParameters": {"task": "text-generation"}},
        "properties": [{"name": "parameters", "value": str(base["parameters"])}],
    }


def _model(model: HomeModel) -> dict[str, Any]:
    task = "reinforcement-learning" if model.kind == "instructor" else "text-generation"
    datasets = [{"ref": SEEDS_REF}] if SEEDS_REF in model.learnt_from else []
    return {
        "bom-ref": model.name,
        "type": "machine-learning-model",
        "name": model.name,
        "version": model.fingerprint,
        "modelCard": {
            "modelParameters": {"task": task, **({"datasets": datasets} if datasets else {})}
        },
        "properties": [
            {"name": "checkpoint", "value": model.checkpoint_hash or "none"},
            *(
                {"name": f"learnt from {name}", "value": f"{rows} rows"}
                for name, rows in model.learnt_from.items()
            ),
        ],
    }


def _judge(facts: DatasetFacts) -> list[dict[str, Any]]:
    return [
        {
            "bom-ref": "judge",
            "type": "machine-learning-model",
            "name": f"judge, {row['kind']}",
            "version": row["fingerprint"],
            "modelCard": {"modelParameters": {"task": "text-classification"}},
        }
        for row in facts.judges
    ]


def _made_from(model: HomeModel) -> list[str]:
    """The components that a model was made from, as far as they are in the bill."""
    made = {SEEDS_REF} if SEEDS_REF in model.learnt_from else set()
    if model.kind != "base":
        made.add("base")
    if model.kind == "policy":
        made.add("judge")
    return sorted(made)
