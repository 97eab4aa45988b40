"""`refine-dagster compare` on a home that a real run made: killed, resumed, widened."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars
import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.comparison.arms import method_arm, parse_arms, parse_methods
from refine_dagster.comparison.methods import read_method_calls
from refine_dagster.comparison.study import CellResult, Study, StudyError, plan_study, read_inputs
from refine_dagster.comparison.trial import run_study, run_trial
from refine_dagster.config.profile import Profile, load_profile
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.super_ni import PACKAGED, load_tasks
from refine_dagster.home import Home
from refine_dagster.teams_rl.evolution import evolution_calls
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL

CONFIG = {
    "reinforcement.steps": 2,
    "reinforcement.prompts_per_step": 2,
    "reinforcement.held_out_samples": 1,
    "evaluation.max_instances": 1,
    "evaluation.max_new_tokens": 8,
}


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile(SMALL, CONFIG, environment={})


def planned(home: Home, profile: Profile, arms: str, *sizes: int, seeds: int = 1) -> Study:
    inputs = read_inputs(Warehouse(home.warehouse), home.checkpoints)
    config = profile.evaluation
    tasks = load_tasks(PACKAGED, config.max_instances, config.split)[:6]
    return plan_study(inputs, profile, parse_arms(arms, profile), sizes, seeds, tasks)


def content(cells: list[CellResult]) -> list[Any]:
    """Cells without seconds."""
    return [
        {
            **vars(cell),
            "seconds": 0,
            "policy": {**vars(cell.policy), "seconds": 0} if cell.policy else None,
        }
        for cell in cells
    ]


@pytest.fixture(scope="module")
def compared(
    built_home: Home, profile: Profile, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, Path, list[CellResult]]:
    """A study of four arms, computed in processes of its own."""
    root = tmp_path_factory.mktemp("comparisons")
    study = planned(built_home, profile, "base,seeds_only,self_instruct,grpo/refine_af", 8, 16)
    return study, root, run_study(study, root)


def test_every_place_of_the_plan_has_its_cell(
    compared: tuple[Study, Path, list[CellResult]],
) -> None:
    study, _, cells = compared
    found = [(cell.arm, cell.random_seed, cell.size) for cell in cells]
    assert found == [
        ("base", 0, 0),
        ("seeds_only", 1, 8),
        ("seeds_only", 1, 16),
        ("self_instruct", 1, 8),
        ("self_instruct", 1, 16),
        ("grpo/refine_af", 1, 8),
        ("grpo/refine_af", 1, 16),
    ]
    names = [task.name for task in study.tasks]
    for cell in cells:
        assert [task.task for task in cell.tasks] == names
        assert all(0 <= task.rouge_l <= 100 for task in cell.tasks)
        assert (cell.policy is not None) == cell.arm.startswith("grpo")
        assert (cell.dataset is None) == (cell.arm == "base")
        if cell.dataset is not None and cell.arm != "seeds_only":
            assert 0 < cell.dataset.rows <= cell.size


def test_the_home_is_only_read(
    built_home: Home, compared: tuple[Study, Path, list[CellResult]]
) -> None:
    assert not (built_home.root / "comparisons").exists()
    roles = Warehouse(built_home.warehouse).query(
        "SELECT count(*) FROM store.completions WHERE run_id LIKE 'comparison%'"
    )
    assert roles.item() == 0


def test_a_cell_that_is_lost_is_made_again_alike(
    compared: tuple[Study, Path, list[CellResult]], tmp_path: Path
) -> None:
    study, root, cells = compared
    shutil.copytree(root, tmp_path / "copy")
    folder = tmp_path / "copy" / study.name
    store = Warehouse(folder / "seed_1" / "warehouse.duckdb")
    asked = store.query("SELECT count(*) FROM store.completions").item()
    for lost in folder.glob("cells/grpo*size_16*"):
        lost.unlink()
    assert run_trial(study, 1, folder) == 1
    assert content(run_study(study, tmp_path / "copy")) == content(cells)
    # Policy, fine-tuned model and answers were found again; nothing was asked twice.
    assert store.query("SELECT count(*) FROM store.completions").item() == asked


def test_an_undisturbed_trial_gives_the_same(
    compared: tuple[Study, Path, list[CellResult]],
    built_home: Home,
    profile: Profile,
    tmp_path: Path,
) -> None:
    """Other arms and sizes beside it change nothing of a cell."""
    study = planned(built_home, profile, "self_instruct", 16)
    assert study.name == compared[0].name
    [cell] = run_study(study, tmp_path)
    assert content([cell]) == content([one for one in compared[2] if one.size == 16][1:2])


def test_sizes_beyond_the_pool_are_refused(built_home: Home, profile: Profile) -> None:
    with pytest.raises(StudyError, match="no such size: 0, 999; the pool has"):
        planned(built_home, profile, "base", 8, 999, 0)


def test_a_home_without_a_pool_is_told_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RefineError, match=r"needs seed_tasks, .* there are no rows"):
        read_inputs(Warehouse(tmp_path / "warehouse.duckdb"), tmp_path)


def test_the_error_of_a_trial_comes_back_whole(
    compared: tuple[Study, Path, list[CellResult]], tmp_path: Path
) -> None:
    study, _, _ = compared
    home = tmp_path / "checkpoints"
    lost = plan_study(
        type(study.inputs)(**{**vars(study.inputs), "checkpoints": home}),
        study.profile,
        study.arms,
        study.sizes,
        1,
        study.tasks,
    )
    with pytest.raises(RefineError, match=r"random seed 1: .*folder is gone[\s\S]*materialise"):
        run_study(lost, tmp_path / "study")


def test_the_command_writes_a_report(
    compared: tuple[Study, Path, list[CellResult]],
    built_home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, root, cells = compared
    home = Home(tmp_path / "home")
    shutil.copytree(built_home.root, home.root)
    shutil.copytree(root, home.root / "comparisons")
    monkeypatch.setenv("REFINE_HOME", str(home.root))
    monkeypatch.setattr(
        "refine_dagster.evaluation.super_ni.load_tasks", lambda *_: list(study.tasks)
    )
    config = [word for name, value in CONFIG.items() for word in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(
        app,
        [
            *("compare", "--arms", "base,seeds_only,self_instruct,grpo/refine_af"),
            *("--sizes", "8,16"),
            *("--random-seeds", "1", "--profile", SMALL, "--out", str(tmp_path / "out"), *config),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [
        "comparison.md",
        "comparison_scores.csv",
        "comparison_sizes.png",
        "comparison_tasks.png",
    ]
    page = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    for arm in ("base", "seeds_only", "self_instruct", "grpo/refine_af"):
        assert f"| {arm} |" in page
    lines = (tmp_path / "out" / "comparison_scores.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(cells) * len(study.tasks)
    assert "grpo/refine_af" in result.output


def test_methods_are_compared_at_equal_calls(
    built_home: Home, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(built_home.root, home.root)
    warehouse = Warehouse(home.warehouse)
    calls = read_method_calls(warehouse, profile.self_instruct)
    # The home's calls, as its completions store and its ledger of calls have them.
    proposals = warehouse.query(
        "SELECT count(DISTINCT completion_key) FROM main.raw_instructions"
    ).item()
    evolved = warehouse.read("evolved_instructions").to_dicts()
    [instructor] = warehouse.read("instructor_policy").to_dicts()
    counted = evolution_calls(evolved, instructor)
    assert calls.totals == {
        "self_instruct": proposals,
        "teams_rl": sum(counted.generation.values()),
    }
    assert calls.training == sum(counted.training.values()) > 0

    config = profile.evaluation
    tasks = load_tasks(PACKAGED, config.max_instances, config.split)[:6]
    arms = parse_methods("self_instruct,teams_rl,both", "base", profile)
    inputs = read_inputs(warehouse, home.checkpoints)
    study = plan_study(inputs, profile, arms, [], 1, tasks, calls)
    pool = {row["instruction"] for row in inputs.pool if row["method"] == "self_instruct"}
    shares = {method_arm(one.method).name: one for one in study.shares}
    # Its target bounds the home's pool, and not what its calls brought.
    of_loop = calls.share("self_instruct", proposals).instructions
    assert pool < {row["instruction"] for row in of_loop}

    root = home.root / "comparisons"
    folder = root / study.name
    assert run_trial(study, 1, folder) == 4
    cells = run_study(study, root)
    rows = {cell.arm: cell.dataset.rows if cell.dataset else 0 for cell in cells}
    assert rows["method/self_instruct"] > 0
    assert rows["method/both"] > 0
    tuned = [
        one
        for one in (folder / "seed_1/checkpoints/fine_tuned_model").iterdir()
        if one.name != "manifests"
    ]
    assert len(tuned) == sum(count > 0 for count in rows.values())
    for cell in cells[1:]:
        assert cell.size == calls.most
        assert rows[cell.arm] <= len(shares[cell.arm].instructions)
        if not rows[cell.arm]:
            # It learned nothing; the small model's first rewrites are seldom kept.
            assert [one.rouge_l for one in cell.tasks] == [one.rouge_l for one in cells[0].tasks]
    store = Warehouse(folder / "seed_1" / "warehouse.duckdb")
    asked = store.query("SELECT count(*) FROM store.completions").item()
    for lost in folder.glob("cells/method-both*"):
        lost.unlink()
    assert run_trial(study, 1, folder) == 1
    assert content(run_study(study, root)) == content(cells)
    assert store.query("SELECT count(*) FROM store.completions").item() == asked

    monkeypatch.setenv("REFINE_HOME", str(home.root))
    monkeypatch.setattr("refine_dagster.evaluation.super_ni.load_tasks", lambda *_: tasks)
    words = [word for name, value in CONFIG.items() for word in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(
        app,
        [
            *("compare", "--methods", "self_instruct,teams_rl,both", "--arms", "base"),
            *("--random-seeds", "1", "--profile", SMALL, "--out", str(tmp_path / "out"), *words),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "## Calls" in page
    assert f"made {proposals} proposals" in page
    for cell in cells[1:]:
        share = shares[cell.arm]
        spent = " | ".join(str(share.spent[role]) for role in ("propose", "rewrite", "review"))
        had = f"{share.candidates} | {len(share.instructions)} | {rows[cell.arm]}.0"
        line = f"| {cell.arm} | {calls.most} | {spent} | {share.training} | {had} |"
        assert line in page
        assert sum(share.spent.values()) in range(calls.most - 2, calls.most + 1)


def test_answers_and_pairs_are_chosen_by_criteria(
    built_home: Home, profile: Profile, tmp_path: Path
) -> None:
    arms = "own_answers,self_instruct,best/agreement,best/influence,dpo/influence"
    study = planned(built_home, profile, arms, 8)
    cells = {cell.arm: cell for cell in run_study(study, tmp_path)}
    for cell in cells.values():
        assert [loss.task for loss in cell.losses.tasks] == [task.task for task in cell.tasks]
        assert all(loss.loss > 0 for loss in cell.losses.tasks)
        assert cell.dataset is not None
        assert cell.dataset.rows > 0
    assert cells["dpo/influence"].policy is not None
    rows = {
        path.stem: polars.read_parquet(path)
        for path in tmp_path.glob(f"{study.name}/seed_1/rows/*.parquet")
    }
    pairs = rows["dpo-influence__pairs"]
    assert pairs.height > 0
    assert (pairs["chosen_reward"] > pairs["rejected_reward"]).all()
    own = rows["self_instruct__size_8"]
    for name in ("agreement", "influence"):
        answers = rows[f"best-{name}__size_8"]
        questions = own.filter(polars.col("format_valid")).height
        assert answers.height == 8 * questions
        valid = answers.filter(polars.col("format_valid"))
        assert valid[name].is_not_null().all()
        best = valid.filter(polars.col("rule") != "not_best")
        assert best["instruction_id"].n_unique() == best.height
        passed_over = valid.filter(polars.col("rule") == "not_best")
        assert (passed_over["value"] <= passed_over["threshold"]).all()
        roles = {parent["role"] for parents in answers["parents"] for parent in parents}
        assert {"instruction", "policy", "judge"} <= roles
