"""The wheel: all that is needed is inside, and it works away from the checkout.

Installing the dependencies again would fetch two gigabytes in every test run. So the wheel goes
alone into an empty environment, and a `.pth` line lets that one see the packages installed here.
Python does not read the `.pth` files of a folder added in this way, so the editable install that
they point to stays out of sight; the tests hold that by the place each package is imported from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from refine_dagster.home import Home
from refine_dagster.warehouse.warehouse import Warehouse

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("refine_dagster", "assets", "resources", "dbt_like_sql")
DATA = (
    "dbt_like_sql/**/*.sql",
    "refine_dagster/config/profiles/*.yaml",
    "refine_dagster/languages.yaml",
    "refine_dagster/seeds/packaged.jsonl",
    "refine_dagster/evaluation/held_out/*.json",
    "refine_dagster/evaluation/held_out_more/*.json",
    "refine_dagster/offline/*.yaml",
    "refine_dagster/warehouse/migrations/*.sql",
    "refine_dagster/py.typed",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    # Without its build backend here, `build` fetches it into an environment of its own.
    here = ["--no-isolation"] if find_spec("hatchling") else []
    run(
        [sys.executable, "-m", "build", "--wheel", *here, "--outdir", str(out), str(REPOSITORY)],
        out,
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the wheel and nothing else of its own."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    scripts = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python")]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], folder)
    (site,) = folder.glob("lib/python*/site-packages")
    around = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site / "dependencies.pth").write_text("\n".join(around) + "\n", encoding="utf-8")
    return scripts


def run(command: list[str], folder: Path) -> str:
    """Run a command in `folder`, without anything of this project in the environment."""
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith("REFINE_") and name not in ("DAGSTER_HOME", "PYTHONPATH")
    }
    result = subprocess.run(
        command, cwd=folder, env=kept, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_holds_all_files_of_its_packages_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    info = {name for name in packed if ".dist-info/" in name}
    in_checkout = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert packed - info == in_checkout
    for pattern in DATA:
        found = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob(pattern)}
        assert found, pattern
        assert found <= packed, pattern
    assert any(name.endswith(".dist-info/entry_points.txt") for name in info)


def test_packages_come_from_the_wheel(scripts: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys, assets, resources, refine_dagster.definitions\n"
        "from refine_dagster.sql_models.reading import MODELS_FOLDER\n"
        "names = ('refine_dagster', 'refine_dagster.definitions', 'assets', 'resources')\n"
        "files = {name: sys.modules[name].__file__ for name in names}\n"
        "print(json.dumps({**files, 'sql': str(MODELS_FOLDER)}))"
    )
    told = json.loads(run([str(scripts / "python"), "-c", code], tmp_path))
    for name, file in told.items():
        assert Path(file).is_relative_to(scripts.parent), f"{name} is imported from {file}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_runs_from_another_folder(scripts: Path, tmp_path: Path) -> None:
    """Without `REFINE_HOME`, everything lands in `refine_home` of the folder one is in."""
    command = [str(scripts / "refine-dagster"), "run", "--select", "seed_tasks or stg_seed_tasks"]
    told = run(command, tmp_path)
    assert "seed_tasks: " in told
    assert [path.name for path in tmp_path.iterdir()] == ["refine_home"]
    warehouse = Warehouse(Home(tmp_path / "refine_home").warehouse)
    seeds = warehouse.read("seed_tasks").height
    assert seeds >= 150
    assert warehouse.query("SELECT count(*) FROM staging.stg_seed_tasks").item() == seeds
    shown = run([str(scripts / "refine-dagster"), "show", "seed_tasks", "--limit", "1"], tmp_path)
    assert f"1 of {seeds} rows" in shown
