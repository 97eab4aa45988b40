"""Croissant metadata of an exported dataset, version 1.1 with the RAI vocabulary and PROV-O terms.

Search engines and loaders read it (`mlcroissant.Dataset("croissant.json")`). Row lineage has no
standard field: `lineage.jsonl` is named as a file of the distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refine_dagster.hashing import file_hash
from refine_dagster.publishing.bundle import LINEAGE
from refine_dagster.publishing.dataset_card import DatasetFacts
from refine_dagster.publishing.dataset_rows import ExportRow
from refine_dagster.publishing.model_card import base_name

CROISSANT = "croissant.json"
VERSIONS = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
_ENCODINGS = {
    ".jsonl": "application/jsonlines",
    ".csv": "text/csv",
    ".parquet": "application/x-parquet",
}
_TYPES = {bool: "sc:Boolean", int: "sc:Integer", float: "sc:Float", str: "sc:Text"}
# The context of the standard; its terms are those of docs.mlcommons.org/croissant.
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        term: f"cr:{term}"
        for term in (
            "arrayShape",
            "citeAs",
            "column",
            "containedIn",
            "equivalentProperty",
            "extract",
            "field",
            "fileObject",
            "fileProperty",
            "fileSet",
            "format",
            "includes",
            "isArray",
            "isLiveDataset",
            "jsonPath",
            "key",
            "md5",
            "parentField",
            "path",
            "recordSet",
            "references",
            "regex",
            "repeated",
            "replace",
            "samplingRate",
            "separator",
            "source",
            "subField",
            "transform",
        )
    },
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}


def croissant(
    folder: Path,
    facts: DatasetFacts,
    parts: Mapping[str, Sequence[ExportRow]],
    files: Mapping[str, str],
    licence: str | None,
) -> dict[str, Any]:
    """The metadata of an export whose files lie in `folder`; JSON values.

    Args:
        parts: split -> its rows. files: split -> its data file, relative to the folder.
    """
    total = sum(map(len, parts.values()))
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(VERSIONS),
        "name": "instruction-dataset",
        "description": f"{total} instructions with inputs and outputs, written by language models "
        f"from {facts.seeds} seed tasks by Self-Instruct, TeaMs-RL and REFINE-AF.",
        **({"license": f"https://spdx.org/licenses/{licence}"} if licence else {}),
        "inLanguage": facts.language,
        # The place in the ledger grows with every change of the home.
        "version": f"{facts.sequence}.0.0",
        "keywords": ["synthetic", "instruction-tuning", "refine-dagster"],
        "distribution": [
            *(_file(folder, name) for name in files.values()),
            _file(folder, LINEAGE),
        ],
        "recordSet": [_record_set(split, files[split], parts[split]) for split in parts],
        **_responsible(facts),
        **_provenance(facts),
    }


def _file(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": _ENCODINGS[path.suffix],
        "sha256": file_hash(path),
    }


def _record_set(split: str, file: str, rows: Sequence[ExportRow]) -> dict[str, Any]:
    columns = list(rows[0].values)
    values = {name: [row.values[name] for row in rows] for name in columns}
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/{name}",
                "name": name,
                "dataType": _type_of(values[name]),
                "source": {"fileObject": {"@id": file}, "extract": {"column": name}},
            }
            for name in columns
        ],
    }


def _type_of(values: Sequence[Any]) -> str:
    """The type of a column; lists and mappings are described as texts of JSON."""
    kinds = {type(value) for value in values if value is not None}
    return _TYPES.get(kinds.pop(), "sc:Text") if len(kinds) == 1 else "sc:Text"


def _responsible(facts: DatasetFacts) -> dict[str, Any]:
    judges = "an automated judge scores every example"
    return {
        "rai:hasSyntheticData": True,
        "rai:dataCollection": "A language model proposes instructions from demonstrations and an "
        "instructor evolves seed tasks; a policy writes an input and an output for each.",
        "rai:dataCollectionType": "Software Collection",
        "rai:dataPreprocessingProtocol": "Candidates are rejected by rules: format, length, and "
        "ROUGE-L with seeds and earlier instructions. Each decision is kept with its rule.",
        "rai:dataAnnotationProtocol": f"No person annotates; {judges}.",
        "rai:machineAnnotationTools": [
            f"{model.name} {model.fingerprint[:12]}" for model in facts.models
        ],
        "rai:dataLimitations": "Outputs are a language model's and were checked by nobody; a high "
        "reward does not prove a right answer.",
        "rai:dataBiases": "Instructions resemble the seed tasks in kind, length and language. "
        "Biases of the base model were not measured.",
        "rai:dataUseCases": "Instruction tuning and its study.",
        "rai:personalSensitiveInformation": "Not checked at the export.",
    }


def _provenance(facts: DatasetFacts) -> dict[str, Any]:
    return {
        "prov:wasDerivedFrom": {
            "@type": "prov:Entity",
            "prov:label": f"{facts.seeds} seed tasks, written by people",
        },
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"refine-dagster, ledger line {facts.sequence}, {facts.digest}",
            "prov:used": {
                "@type": "prov:Entity",
                "prov:label": f"base model {base_name(facts.base)}, {facts.base['fingerprint']}",
            },
        },
    }
