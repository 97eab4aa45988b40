"""SQL models: what is read from a file, what is refused, and what the packaged marts compute."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.sql_models.execution import materialize, run_checks
from refine_dagster.sql_models.model import Check, SqlModel, SqlModelError
from refine_dagster.sql_models.reading import read_models
from refine_dagster.warehouse.tables import TABLES, graph_assets
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.fake_judge import PART_NAMES, scores_of
from tests.builders.small_warehouse import BASE, JUDGE, POLICY, small_warehouse
from tests.builders.warehouse import commit, new_warehouse

GOOD = """-- Seeds by name.
--
-- Second paragraph.
-- materialized: table
WITH named AS (SELECT seed_id, name, input FROM seed_tasks)
SELECT
    seed_id AS id,  -- The id, twice
                    -- as good. #unique #not_null
    n.name,
    upper(n.input) || '-- no, #this is text' AS loud,  -- #accepted{A, B}
    (SELECT count(*) FROM lineage.materializations) AS runs
FROM named AS n;
"""


def _write(folder: Path, **texts: str) -> Path:
    for place, text in texts.items():
        layer, name = place.split("__")
        (folder / layer).mkdir(parents=True, exist_ok=True)
        (folder / layer / f"{name}.sql").write_text(text, encoding="utf-8")
    return folder


def _read(folder: Path, **texts: str) -> dict[str, SqlModel]:
    return {model.name: model for model in read_models(_write(folder, **texts))}


def _problems(folder: Path, **texts: str) -> list[tuple[str, int, str]]:
    with pytest.raises(SqlModelError) as caught:
        read_models(_write(folder, **texts))
    return [(found.file, found.line, found.message) for found in caught.value.problems]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """The small warehouse with every packaged model materialized, all checks passed."""
    warehouse = small_warehouse(tmp_path_factory.mktemp("marts") / "warehouse.duckdb")
    for model in read_models():
        materialize(warehouse, model)
        failed = [one for one in run_checks(warehouse, model) if not one.passed]
        assert failed == []
    return warehouse


def _rows(warehouse: Warehouse, sql: str) -> list[dict[str, Any]]:
    return warehouse.query(sql).to_dicts()


# --- Reading a file ------------------------------------------------------------------------------


def test_everything_that_a_file_says(tmp_path: Path) -> None:
    model = _read(tmp_path, staging__seeds_by_name=GOOD)["seeds_by_name"]
    assert model.description == "Seeds by name.\n\nSecond paragraph."
    assert (model.layer, model.materialized) == ("staging", "table")
    assert model.query.startswith("WITH named")
    assert model.query.endswith("named AS n")
    assert model.reads == ("lineage.materializations", "main.seed_tasks")
    assert model.depends_on == graph_assets()
    by_name = {column.name: column for column in model.columns}
    assert list(by_name) == ["id", "name", "loud", "runs"]
    assert by_name["id"].description == "The id, twice as good."
    assert by_name["id"].checks == (Check("unique", "id"), Check("not_null", "id"))
    assert by_name["loud"].checks == (Check("accepted", "loud", ("A", "B")),)
    assert by_name["loud"].description == ""
    assert by_name["name"].description == TABLES["seed_tasks"].columns["name"][1]


def test_folder_decides_between_view_and_table(tmp_path: Path) -> None:
    models = _read(
        tmp_path,
        staging__a="-- A.\nSELECT seed_id FROM seed_tasks",
        marts__b="-- B.\nSELECT seed_id FROM staging.a",
        marts__c="-- C.\n-- materialized: view\nSELECT seed_id FROM marts.b",
    )
    assert {name: one.materialized for name, one in models.items()} == {
        "a": "view",
        "b": "table",
        "c": "view",
    }
    assert list(models) == ["a", "b", "c"]
    assert models["c"].depends_on == ("b",)
    assert models["c"].description == "C."


def test_store_comes_after_all_that_call_models(tmp_path: Path) -> None:
    model = _read(tmp_path, marts__m="-- M.\nSELECT key FROM store.completions")["m"]
    assert model.depends_on == (
        "evaluation_report",
        "evolved_instructions",
        "instruction_dataset",
        "instructor_policy",
        "raw_instructions",
        "reward_scored_instructions",
        "rl_policy_checkpoint",
    )


def test_common_table_expressions_are_no_dependencies(tmp_path: Path) -> None:
    text = (
        "-- M.\nWITH RECURSIVE base_model AS (SELECT row_id FROM main.seed_tasks), walk AS "
        "(SELECT row_id FROM base_model UNION SELECT row_id FROM walk) "
        "SELECT row_id FROM walk, range(3) AS r(i)"
    )
    assert _read(tmp_path, marts__m=text)["m"].reads == ("main.seed_tasks",)


def test_cosmetic_edit_keeps_the_version(tmp_path: Path) -> None:
    first = "-- One.\nSELECT seed_id, count(*) AS n FROM seed_tasks GROUP BY seed_id"
    cosmetic = (
        "-- Two.\nselect\n  seed_id, -- key #unique\n  COUNT( * ) as n\n"
        "from seed_tasks\ngroup by seed_id;"
    )
    other = first.replace("GROUP BY", "WHERE name <> '' GROUP BY")
    versions = [
        _read(tmp_path / str(place), marts__m=text)["m"].version
        for place, text in enumerate((first, cosmetic, other))
    ]
    assert versions[0] == versions[1] != versions[2]
    assert len(versions[0]) == 64


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    plain = _read(tmp_path / "1", marts__m=GOOD)["m"]
    (tmp_path / "2" / "marts").mkdir(parents=True)
    (tmp_path / "2" / "marts" / "m.sql").write_bytes(
        b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()
    )
    (windows,) = read_models(tmp_path / "2")
    assert (windows.version, windows.description) == (plain.version, plain.description)
    assert windows.columns == plain.columns


def test_origins_of_columns(tmp_path: Path) -> None:
    text = """-- M.
WITH seeds AS (SELECT row_id, seed_id || name AS label FROM seed_tasks),
shown AS (SELECT r.row_id, u.parent.row_id AS seed FROM raw_instructions AS r,
          unnest(r.parents) AS u(parent))
SELECT shown.row_id AS candidate, list(seeds.label) AS labels, count(*) AS n, 1 AS one,
       max(d.reward) AS best
FROM shown JOIN seeds ON seeds.row_id = shown.seed, instance_decisions AS d GROUP BY candidate
UNION ALL SELECT key, NULL, prompt_tokens, 2, seconds FROM store.completions
"""
    model = _read(tmp_path, marts__m=text)["m"]
    found = {
        column.name: [(o.relation, o.column, o.asset) for o in column.origins]
        for column in model.columns
    }
    assert found == {
        "candidate": [
            ("main.raw_instructions", "row_id", "raw_instructions"),
            ("store.completions", "key", None),
        ],
        "labels": [
            ("main.seed_tasks", "name", "seed_tasks"),
            ("main.seed_tasks", "seed_id", "seed_tasks"),
        ],
        "n": [("store.completions", "prompt_tokens", None)],
        "one": [],
        "best": [
            ("main.instance_decisions", "reward", "instruction_dataset"),
            ("store.completions", "seconds", None),
        ],
    }


def test_star_is_spelt_out_and_described(tmp_path: Path) -> None:
    models = _read(
        tmp_path,
        staging__a="-- A.\nSELECT * EXCLUDE (parents), 1 AS one FROM evaluation_report",
        marts__b="-- B.\nSELECT * FROM staging.a",
    )
    names = [column.name for column in models["b"].columns]
    assert names == ["row_id", *TABLES["evaluation_report"].columns, "one"]
    assert models["b"].columns[1].description == TABLES["evaluation_report"].columns["arm"][1]
    assert [(o.relation, o.column) for o in models["b"].columns[1].origins] == [
        ("staging.a", "arm")
    ]


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("SELECT 1 AS a", 1, "no description"),
        ("-- M.\n\nSELECT 1 AS a;\nSELECT 2 AS b", 3, "one SELECT"),
        ("-- M.\nDROP TABLE seed_tasks", 2, "one SELECT"),
        ("-- M.\n", 1, "one SELECT"),
        ("-- M.\nSELECT a FROM\nWHERE (", 3, "not readable as SQL"),
        ("-- M.\n-- materialized: cube\nSELECT 1 AS a", 2, "view or table, not 'cube'"),
        ("-- M.\n-- owner: me\nSELECT 1 AS a", 2, "unknown directive 'owner'"),
        ("-- M.\nSELECT row_id\nFROM nowhere", 3, "unknown table nowhere"),
        ("-- M.\nSELECT row_id\nFROM\n  staging.seed_tasks", 4, "did you mean main.seed_tasks?"),
        ("-- M.\nSELECT a FROM read_csv('x.csv')", 2, "reads what no asset makes"),
        ("-- M.\nSELECT\n 1 AS a, -- #uniqe\n 2 AS b", 3, "unknown tag #uniqe"),
        ("-- M.\nSELECT\n 1 AS a -- #accepted", 3, "#accepted names no value"),
        ("-- M.\nSELECT\n 1 AS a -- #unique{x}", 3, "#unique takes no values"),
        ("-- M.\nSELECT\n 1 AS a -- #unique #unique", 3, "#unique occurs twice"),
        ("-- M.\nSELECT\n * -- #unique\nFROM seed_tasks", 3, "a tag needs a column"),
        ("-- M.\nSELECT\n 1 AS a,\n count(*)\nFROM seed_tasks", 4, "add AS name"),
        ("-- M.\nSELECT\n 1 AS a,\n 2 AS A", 4, "column 'A' occurs twice"),
        ("-- M.\nSELECT\n s.sed_id AS a\nFROM seed_tasks AS s", 3, "Unknown column: sed_id"),
        ("-- M.\nSELECT\n sed_id AS a\nFROM seed_tasks", 3, "main.seed_tasks has no 'sed_id'"),
        ("-- M.\nSELECT 1 AS a UNION ALL BY NAME SELECT 2 AS a", 2, "UNION BY NAME"),
        ("-- M.\nSELECT a\nFROM marts.m", 3, "reads itself: marts.m -> marts.m"),
    ],
)
def test_one_problem(tmp_path: Path, text: str, line: int, message: str) -> None:
    ((file, found_line, found_message),) = _problems(tmp_path, marts__m=text)
    assert (file, found_line) == ("marts/m.sql", line)
    assert message in found_message


def test_all_problems_of_all_files_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "stray.sql").write_text("-- S.\nSELECT 1 AS a", encoding="utf-8")
    (tmp_path / "marts").mkdir()
    (tmp_path / "marts" / "latin.sql").write_bytes(b"-- caf\xe9\nSELECT 1 AS a")
    (tmp_path / "marts" / "Upper.sql").write_text("-- U.\nSELECT 1 AS a", encoding="utf-8")
    found = _problems(
        tmp_path,
        staging__a="SELECT x FROM marts.b -- #odd",
        marts__b="-- B.\nSELECT x\nFROM staging.a, nowhere",
        marts__seed_tasks="-- Taken.\nSELECT 1 AS a",
        staging__c="-- C.\nSELECT 1 AS a",
        marts__c="-- C.\nSELECT 1 AS a",
    )
    told = [f"{file}:{line} {message}" for file, line, message in found]
    for part in (
        "stray.sql:1 a model lives in staging/ or in marts/",
        "marts/latin.sql:1 not UTF-8 at byte 6",
        "marts/Upper.sql:1 a file name is",
        "staging/a.sql:1 no description",
        "marts/b.sql:3 unknown table nowhere",
        "marts/seed_tasks.sql:1 the name 'seed_tasks' belongs to",
        "staging/c.sql:1 the name 'c' belongs to marts/c.sql already",
    ):
        assert any(line.startswith(part) for line in told), part
    assert sum("reads itself" in line for line in told) == 1
    assert len(told) == 8


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SqlModelError, match="there is no model here"):
        read_models(tmp_path)


# --- Materializing and checking ------------------------------------------------------------------


def test_content_hash_is_of_content(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "w.duckdb")

    def made(number: int, select: str, layer: str = "marts") -> str:
        models = _read(tmp_path / str(number), **{f"{layer}__m": f"-- M.\n{select}"})
        return materialize(warehouse, models["m"]).content_hash

    first = made(1, "SELECT i FROM range(3) AS r(i)")
    assert made(2, "SELECT i FROM range(3) AS r(i) ORDER BY i DESC") == first
    assert made(3, "SELECT i FROM range(3) AS r(i)", layer="staging") == first
    assert made(4, "SELECT i FROM range(4) AS r(i)") != first
    assert made(5, "SELECT i FROM range(3) AS r(i) UNION ALL SELECT 1") != first
    assert made(6, "SELECT i AS j FROM range(3) AS r(i)") != first
    nothing = made(7, "SELECT i FROM range(0) AS r(i)")
    assert nothing != made(8, "SELECT i::VARCHAR AS i FROM range(0) AS r(i)")


def test_table_may_become_a_view_and_back(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    for number, kind in enumerate(("table", "view", "view", "table")):
        text = f"-- A model's text.\n-- materialized: {kind}\nSELECT 1 AS a -- It's one."
        materialize(warehouse, _read(tmp_path / str(number), marts__m=text)["m"])
        shown = _rows(
            warehouse,
            "SELECT table_type FROM information_schema.tables WHERE table_schema = 'marts'",
        )
        assert shown == [{"table_type": "VIEW" if kind == "view" else "BASE TABLE"}]
    (comments,) = _rows(
        warehouse,
        "SELECT t.comment AS model, c.comment AS a FROM duckdb_tables() AS t "
        "JOIN duckdb_columns() AS c USING (schema_name, table_name) WHERE schema_name = 'marts'",
    )
    assert comments == {"model": "A model's text.", "a": "It's one."}


def test_failing_query_names_file_and_leaves_the_old_table(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    good = _read(tmp_path / "1", marts__m="-- M.\nSELECT 1 AS a")["m"]
    materialize(warehouse, good)
    bad = _read(tmp_path / "2", marts__m="-- M.\nSELECT CAST('x' AS INTEGER) AS a")["m"]
    with pytest.raises(SqlModelError, match=r"marts/m\.sql:1: DuckDB cannot run marts\.m"):
        materialize(warehouse, bad)
    assert _rows(warehouse, "SELECT a FROM marts.m") == [{"a": 1}]


def test_model_over_one_never_made(tmp_path: Path) -> None:
    models = _read(
        tmp_path, staging__a="-- A.\nSELECT 1 AS x", marts__b="-- B.\nSELECT x FROM staging.a"
    )
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    with pytest.raises(SqlModelError, match=r"staging"):
        materialize(warehouse, models["b"])


def test_checks_find_bad_rows(tmp_path: Path) -> None:
    text = """-- M.
SELECT
    id,                -- #unique #not_null
    label AS "value"   -- #accepted{a,b}
FROM (VALUES (1, 'a'), (1, 'b'), (2, 'c'), (NULL, 'c'), (NULL, NULL), (3, 'd')) AS v(id, label)
"""
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    model = _read(tmp_path, marts__m=text)["m"]
    assert materialize(warehouse, model).rows == 6
    found = {one.check.name: one for one in run_checks(warehouse, model)}
    assert {name: (one.passed, one.failing_rows, one.examples) for name, one in found.items()} == {
        "unique_id": (False, 2, ("1",)),
        "not_null_id": (False, 2, (None,)),
        "accepted_value": (False, 3, ("c", "d")),
    }


def test_checks_pass_on_good_rows(tmp_path: Path) -> None:
    text = "-- M.\nSELECT i AS id -- #unique #not_null #accepted{0,1,2}\nFROM range(3) AS r(i)"
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    model = _read(tmp_path, marts__m=text)["m"]
    materialize(warehouse, model)
    assert [one.passed for one in run_checks(warehouse, model)] == [True] * 3


# --- The packaged models -------------------------------------------------------------------------


def test_packaged_columns_are_all_described_and_as_made(made: Warehouse) -> None:
    models = read_models()
    named = {model.name for model in models}
    assert {"yield_funnel", "dataset_profile", "request_ledger", "reward_by_policy",
            "reward_part_correlations", "dataset_lineage"} <= named  # fmt: skip
    for model in models:
        assert [column.name for column in model.columns if not column.description] == []
        made_columns = made.query(f"SELECT * FROM {model.relation} LIMIT 0").columns
        assert made_columns == [column.name for column in model.columns]


def test_yield_funnel(made: Warehouse) -> None:
    found = made.query("SELECT stage, round, outcome, rule, rows FROM marts.yield_funnel").rows()
    base, refined = "base policy instances", "refined policy instances"
    assert found == [
        ("instructions", 0, "in", "all", 3),
        ("instructions", 0, "kept", "kept", 1),
        ("instructions", 0, "rejected", "too_similar", 1),
        ("instructions", 0, "failed", "unparsed", 1),
        ("instructions", 1, "in", "all", 3),
        ("instructions", 1, "kept", "kept", 2),
        ("instructions", 1, "rejected", "too_short", 1),
        (base, None, "in", "all", 3),
        (base, None, "kept", "kept", 1),
        (base, None, "rejected", "low_reward", 1),
        (base, None, "failed", "format", 1),
        (refined, None, "in", "all", 3),
        (refined, None, "kept", "kept", 2),
        (refined, None, "rejected", "low_reward", 1),
    ]


def test_funnel_balances(made: Warehouse) -> None:
    found = made.query(
        "SELECT round, rows_in, kept, rejected, failed, kept_share, unaccounted "
        "FROM marts.funnel_balance ORDER BY stage, round"
    ).rows()
    assert found == [
        (None, 3, 1, 1, 1, 0.333333, 0),
        (0, 3, 1, 1, 1, 0.333333, 0),
        (1, 3, 2, 1, 0, 0.666667, 0),
        (None, 3, 2, 1, 0, 0.666667, 0),
    ]


def test_funnel_that_loses_a_row_fails_its_check(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    decisions = warehouse.read("instruction_decisions").to_dicts()
    kept = [row for row in decisions if row["rule"] != "too_short"]
    commit(warehouse, "instruction_decisions", {"instruction_decisions": kept})
    models = {model.relation: model for model in read_models()}
    funnel = models["marts.yield_funnel"]
    for relation in (*funnel.reads, funnel.relation, "marts.funnel_balance"):
        materialize(warehouse, models[relation])
    checked = run_checks(warehouse, models["marts.funnel_balance"])
    failed = [one for one in checked if not one.passed]
    assert [(one.check.name, one.examples) for one in failed] == [("accepted_unaccounted", ("1",))]


def test_dataset_profile(made: Warehouse) -> None:
    seeds, scored, dataset = _rows(made, "SELECT * FROM marts.dataset_profile")
    assert seeds == {
        "source": "seed_tasks",
        "method": "seeds",
        "rows": 3,
        "instructions": 3,
        "first_words": 3,
        "input_share": 0.666667,
        "mean_instruction_words": 4.0,
        "mean_input_words": 2.5,
        "mean_output_words": 1.666667,
        "mean_reward": None,
        "reward_p10": None,
        "reward_p50": None,
        "reward_p90": None,
    }
    assert (scored["source"], scored["rows"], scored["mean_input_words"]) == (
        "reward_scored_instructions",
        1,
        None,
    )
    assert dataset == {
        "source": "instruction_dataset",
        "method": "self_instruct",
        "rows": 2,
        "instructions": 2,
        "first_words": 2,
        "input_share": 0.5,
        "mean_instruction_words": 4.5,
        "mean_input_words": 1.0,
        "mean_output_words": 1.5,
        "mean_reward": 2.0,
        "reward_p10": 1.2,
        "reward_p50": 2.0,
        "reward_p90": 2.8,
    }


def test_request_ledger(made: Warehouse) -> None:
    assert made.query("SELECT * FROM marts.request_ledger").rows() == [
        ("instance", BASE, 1, 7, 3, 0.25, 12.0, 0, 1, 0, 0),
        ("propose", BASE, 2, 30, 20, 2.0, 10.0, 1, 0, 1, 0),
    ]


def test_reward_by_policy(made: Warehouse) -> None:
    base, refined = scores_of(0.6, 0.4, 0.4, 0.5), scores_of(0.7, 0.5, 0.5, 1.0)
    assert made.query("SELECT * FROM marts.reward_by_policy").rows() == [
        ("base policy", 1, BASE, "none", 3, 0.666667, 0.333333, base, 0.5, 1.5),
        ("refined policy", 1, POLICY, "grpo", 3, 1.0, 0.666667, refined, 1.0, 2.0),
    ]


def test_reward_part_correlations(made: Warehouse) -> None:
    rows = _rows(made, "FROM marts.reward_part_correlations")
    names = sorted(PART_NAMES)
    pairs = [*product(["reward"], names), *combinations(names, 2)]
    columns = ("stage", "policy", "rows", "first", "second")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        (stage, policy, count, *pair)
        for stage, policy, count in (("base policy", BASE, 2), ("refined policy", POLICY, 3))
        for pair in pairs
    ]
    base, refined = (
        {(row["first"], row["second"]): row["correlation"] for row in rows if row["stage"] == stage}
        for stage in ("base policy", "refined policy")
    )
    # Two instances: any two parts that vary are in one line; understandability is 0.4 in both.
    assert base["coherence", "naturalness"] == base["reward", "reward_model"] == 1.0
    assert base["naturalness", "understandability"] is None
    assert base["reward", "understandability"] is None
    # Naturalness 0.9, 0.7, 0.5 and coherence 0.8, 0.6, 0.1: 0.14 / sqrt(0.08 * 0.26).
    assert refined["coherence", "naturalness"] == pytest.approx(0.970725, abs=1e-6)
    # Rewards 3, 1, -1 and parts 2, 1, 0 fall by equal steps, as naturalness does.
    assert refined["reward", "naturalness"] == refined["reward", "reward_model"] == 1.0
    assert refined["naturalness", "reward_model"] == 1.0
    assert refined["coherence", "understandability"] is None


def test_dataset_lineage(made: Warehouse) -> None:
    by_text = {row["instruction"]: row for row in _rows(made, "FROM marts.dataset_lineage")}
    ids = dict(made.query("SELECT instruction, row_id FROM filtered_instructions").rows())
    candidates = dict(made.query("SELECT slot, row_id FROM raw_instructions").rows())
    assert set(by_text) == {"Name a colour.", "Count the letters of the word."}
    colour, letters = by_text["Name a colour."], by_text["Count the letters of the word."]
    for row in (colour, letters):
        assert row["instruction_id"] == ids[row["instruction"]]
        assert row["candidate_id"] == candidates[row["slot"]]
        assert (row["proposed_by"], row["policy"], row["judge"]) == (BASE, POLICY, JUDGE)
        assert row["policy_id"] == made.read("rl_policy_checkpoint")["row_id"].item()
        assert row["judge_id"] == made.read("feedback_judge")["row_id"].item()
        assert row["instance_seeds_shown"] == ["s3"]
    assert (colour["slot"], colour["round"]) == ("0000/0000/00", 0)
    assert (colour["seeds_shown"], colour["machine_shown"]) == (["s1", "s2"], [])
    assert (letters["slot"], letters["round"]) == ("0001/0000/00", 1)
    assert (letters["seeds_shown"], letters["seeds_shown_count"]) == (["s3"], 1)
    assert letters["machine_shown"] == [candidates["0000/0000/00"]]


def test_staging_views(made: Warehouse) -> None:
    gains = made.query(
        "SELECT arm, task, rouge_l_over_base FROM staging.stg_evaluation_report ORDER BY arm, task"
    ).rows()
    assert gains == [
        ("base", "t1", 0.0),
        ("base", "t2", 0.0),
        ("refine_af", "t1", 5.5),
        ("refine_af", "t2", -2.0),
    ]
    smooth = made.query(
        "SELECT step, reward_smooth FROM staging.stg_rl_policy_checkpoint_steps ORDER BY step"
    ).rows()
    assert smooth == [(1, 0.5), (2, 1.0)]
    seed = _rows(made, "FROM staging.stg_seed_tasks WHERE seed_id = 's1'")[0]
    assert (seed["first_word"], seed["instruction_words"], seed["has_input"]) == (
        "reverse",
        6,
        True,
    )
    shown = made.query(
        "SELECT slot, seeds_shown FROM staging.stg_raw_instructions ORDER BY slot"
    ).rows()
    assert [count for _, count in shown] == [2, 2, 2, 1, 1, 1]


def test_materializations_view_ignores_repeated_runs(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    model = next(m for m in read_models() if m.name == "stg_materializations")
    first = materialize(warehouse, model)
    seeds = warehouse.read("seed_tasks").to_dicts()
    commit(warehouse, "seed_tasks", {"seed_tasks": seeds})
    assert materialize(warehouse, model).content_hash == first.content_hash
    commit(warehouse, "seed_tasks", {"seed_tasks": seeds[:2]})
    after = materialize(warehouse, model)
    assert (after.rows, after.content_hash != first.content_hash) == (first.rows + 1, True)
