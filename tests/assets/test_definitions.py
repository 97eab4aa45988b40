"""The definitions are compared with a snapshot, so that a change of the graph is deliberate.

`REFRESH_SNAPSHOT=1 python -m pytest tests/assets/test_definitions.py` rewrites the snapshot; read
its diff before you commit it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.screening import NAMES
from refine_dagster.definitions import build_definitions
from refine_dagster.home import Home

SNAPSHOT = Path(__file__).parent / "definitions_snapshot.json"
REPOSITORY = Path(__file__).parents[2]
JOBS = ("everything", "dataset_only", "train_only")
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "vllm",
    "numba",
    "stable_baselines3",
    "gymnasium",
    "matplotlib",
)


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    home = Home(tmp_path_factory.mktemp("definitions") / "home")
    return build_definitions("offline", home=home)


def test_definitions_are_as_recorded(definitions: dg.Definitions) -> None:
    found = snapshot(definitions)
    if os.environ.get("REFRESH_SNAPSHOT"):
        text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False)
        SNAPSHOT.write_text(text + "\n", encoding="utf-8")
    recorded = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    for section in sorted({*found, *recorded}):
        assert found.get(section) == recorded.get(section), f"{section}: {__doc__}"


def test_every_asset_is_described_owned_and_grouped(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        name = spec.key.to_user_string()
        assert spec.description, name
        assert spec.owners, name
        assert spec.kinds, name
        assert spec.group_name not in (None, "default"), name
        assert spec.code_version, name


def test_every_check_is_described_and_blocks_unless_people_decide(
    definitions: dg.Definitions,
) -> None:
    warn = set(NAMES.values())
    checks = check_specs(definitions)
    assert checks
    for check in checks:
        assert check.blocking == (check.name not in warn), check.key
        assert check.description, check.key


def test_jobs_divide_the_graph(definitions: dg.Definitions) -> None:
    """`dataset_only` then `train_only` make what `everything` makes, but for the marts."""
    selected = {job: set(job_assets(definitions, job)) for job in JOBS}
    groups = {s.key.to_user_string(): s.group_name for s in definitions.resolve_all_asset_specs()}
    assert selected["everything"] == set(groups)
    assert not selected["dataset_only"] & selected["train_only"]
    rest = selected["everything"] - selected["dataset_only"] - selected["train_only"]
    assert {groups[asset] for asset in rest} == {"marts"}


def test_loading_is_light_and_leaves_no_trace(tmp_path: Path) -> None:
    """The code location imports no model library, makes no file and opens no database."""
    code = (
        "import sys, duckdb\n"
        "def refuse(*args, **kwargs): raise AssertionError('a database was opened')\n"
        "duckdb.connect = refuse\n"
        "import refine_dagster.definitions\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = alone([sys.executable, "-c", code], tmp_path)
    assert result.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [[], ["run"], ["status"], ["seeds", "check"], ["show"], ["export"], ["ui"]]
)
def test_help_is_light_and_leaves_no_trace(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from refine_dagster.cli import app\n"
        f"sys.argv = ['refine-dagster', *{arguments!r}, '--help']\n"
        "try:\n"
        "    app()\n"
        "finally:\n"
        f"    names = ('dagster', 'duckdb', 'polars', *{HEAVY!r})\n"
        "    print([name for name in names if name in sys.modules])\n"
    )
    result = alone([sys.executable, "-c", code], tmp_path)
    assert "Usage: refine-dagster" in result.stdout
    assert result.stdout.strip().splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []


def test_dagster_validates_the_workspace(tmp_path: Path) -> None:
    """What `make ui` loads."""
    dagster_home = tmp_path / "dagster"
    dagster_home.mkdir()
    (dagster_home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    command = [sys.executable, "-m", "dagster", "definitions", "validate"]
    result = alone(
        [*command, "-w", str(REPOSITORY / "workspace.yaml")],
        tmp_path,
        DAGSTER_HOME=str(dagster_home),
    )
    assert "All code locations passed validation" in result.stdout + result.stderr
    assert not (tmp_path / "home").exists()


def alone(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` with no home yet and no profile chosen; it must succeed."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("REFINE_")}
    kept.pop("DAGSTER_HOME", None)
    result = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "REFINE_HOME": str(folder / "home"), **environment},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


def snapshot(definitions: dg.Definitions) -> dict[str, Any]:
    """The parts of the definitions that somebody outside relies on."""
    checks = check_specs(definitions)
    assets = {}
    for spec in definitions.resolve_all_asset_specs():
        name = spec.key.to_user_string()
        assets[name] = {
            "group": spec.group_name,
            "kinds": sorted(spec.kinds),
            "owners": sorted(spec.owners),
            "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
            "described": bool(spec.description),
            "automated": spec.automation_condition is not None,
            "blocking_checks": sorted(
                check.name for check in checks if check.asset_key == spec.key and check.blocking
            ),
            "other_checks": sorted(
                check.name for check in checks if check.asset_key == spec.key and not check.blocking
            ),
        }
    return {
        "assets": assets,
        "jobs": {job: job_assets(definitions, job) for job in JOBS},
        "all_jobs": sorted(job.name for job in definitions.resolve_all_job_defs()),
        "resources": sorted(definitions.resources or {}),
        "sensors": {
            sensor.name: sensor.default_status.value
            for sensor in definitions.get_repository_def().sensor_defs
        },
    }


def check_specs(definitions: dg.Definitions) -> list[dg.AssetCheckSpec]:
    """Every check, those that SQL models bring along included."""
    found = {}
    for definition in [*(definitions.assets or ()), *(definitions.asset_checks or ())]:
        assert isinstance(definition, dg.AssetsDefinition)
        for spec in definition.check_specs:
            found[spec.key] = spec
    return [found[key] for key in sorted(found, key=lambda key: key.to_user_string())]


def job_assets(definitions: dg.Definitions, job: str) -> list[str]:
    """The keys that a job materialises, sorted."""
    layer = definitions.resolve_job_def(job).asset_layer
    return sorted(key.to_user_string() for key in layer.selected_asset_keys)
