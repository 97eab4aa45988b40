"""Ancestors and descendants are the graph's own, and every way of showing a trace tells it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from refine_dagster.lineage.trace import RowError, Trace, trace
from refine_dagster.lineage.trace_text import (
    Branch,
    as_dot,
    as_json,
    as_markdown,
    as_mermaid,
    as_tree,
    outline,
)
from refine_dagster.warehouse.rows import Parent, Row
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.rows import row, seed_row
from tests.builders.small_warehouse import small_warehouse
from tests.builders.warehouse import commit, new_warehouse

Edges = Mapping[str, Iterable[str]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return small_warehouse(tmp_path_factory.mktemp("trace") / "w.duckdb")


def only(warehouse: Warehouse, table: str, where: str) -> str:
    found = warehouse.query(f"SELECT row_id FROM main.{table} WHERE {where}")["row_id"]
    assert len(found) == 1
    return str(found[0])


def dataset_row(warehouse: Warehouse) -> str:
    return only(warehouse, "instruction_dataset", "instruction LIKE 'Count the letters%'")


def closure(edges: Edges, start: str) -> dict[str, int]:
    """Every node that can be reached, with the length of the shortest way; the start left out."""
    depths, level = {start: 0}, [start]
    while level:
        level = [
            other
            for node in level
            for other in edges.get(node, ())
            if other not in depths and depths.setdefault(other, depths[node] + 1)
        ]
    return {node: depth for node, depth in depths.items() if node != start}


def stored_edges(warehouse: Warehouse) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Parents and children of every row, from the rows' own lists of parents."""
    up: dict[str, set[str]] = {}
    down: dict[str, set[str]] = {}
    for table in set(warehouse.query("SELECT DISTINCT table_name FROM lineage.rows")["table_name"]):
        rows = warehouse.query(f"SELECT row_id, parents FROM history.{table}")
        for row_id, parents in rows.rows():
            for parent in parents:
                up.setdefault(row_id, set()).add(parent["row_id"])
                down.setdefault(parent["row_id"], set()).add(row_id)
    return up, down


def test_trace_reaches_policy_judge_prompt_and_seeds(small: Warehouse) -> None:
    found = trace(small, dataset_row(small))
    assert found.rows["table"][0] == "instruction_dataset"
    by_table = found.rows.group_by("table").len().sort("table").rows()
    assert by_table == [
        ("base_model", 1),
        ("feedback_judge", 1),
        ("filtered_instructions", 1),
        ("instruction_dataset", 1),
        ("raw_instructions", 2),
        ("rl_policy_checkpoint", 1),
        ("seed_tasks", 3),
    ]
    labels = set(found.rows["label"])
    assert "s3: Count the words." in labels
    assert "Count the letters of the word." in labels
    assert "offline, base-model" in labels
    assert "grpo, refine_af, refined-poli" in labels


def test_trace_matches_the_rows_own_parents(small: Warehouse) -> None:
    up, down = stored_edges(small)
    for row_id in (dataset_row(small), only(small, "seed_tasks", "seed_id = 's3'")):
        for walk, edges in ((False, up), (True, down)):
            rows = trace(small, row_id, down=walk).rows
            told = dict(rows.filter(pl.col("depth") > 0).select("row_id", "depth").rows())
            assert told == closure(edges, row_id)


def test_edges_join_rows_that_are_told(small: Warehouse) -> None:
    found = trace(small, dataset_row(small))
    up, _ = stored_edges(small)
    ids = found.rows["row_id"].to_list()
    told = {(ids[child], ids[parent]) for child, parent, _ in found.edges.rows()}
    assert told == {(one, other) for one in ids for other in up.get(one, ())}


def test_a_prefix_names_a_row(small: Warehouse) -> None:
    row_id = dataset_row(small)
    assert trace(small, row_id[:10].upper()).asked.row_id == row_id


@pytest.mark.parametrize("text", ["abc12", "not hex at all", "", "f" * 33])
def test_what_is_no_id_is_refused(small: Warehouse, text: str) -> None:
    with pytest.raises(RowError, match="is no row id"):
        trace(small, text)


def test_an_unknown_id_is_refused(small: Warehouse) -> None:
    with pytest.raises(RowError, match="begins with 00000000"):
        trace(small, "0" * 32)


def test_a_prefix_of_several_rows_names_them(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    commit(warehouse, "seed_tasks", {"seed_tasks": [seed_row("a")]})
    ids = ["abcdef00" + "0" * 24, "abcdef11" + "0" * 24]
    with warehouse.connect() as connection:
        for row_id in ids:
            connection.execute(
                "INSERT INTO history.seed_tasks BY NAME "
                "SELECT * REPLACE (? AS row_id) FROM history.seed_tasks LIMIT 1",
                [row_id],
            )
    with pytest.raises(RowError) as caught:
        trace(warehouse, "abcdef")
    assert all(row_id in str(caught.value) for row_id in ids)
    assert trace(warehouse, "abcdef1").asked.row_id == ids[1]


def test_completion_behind_a_row(small: Warehouse) -> None:
    candidate = only(small, "raw_instructions", "slot = '0001/0000/00'")
    found = trace(small, candidate)
    assert found.completion is not None
    assert found.completion["role"] == "propose"
    assert found.completion["sampling"] == {}
    assert (found.completion["prompt"], found.completion["text"]) == ("a prompt", "an answer")
    assert found.rows["note"][0] == "propose by base-model"
    assert trace(small, only(small, "seed_tasks", "seed_id = 's1'")).completion is None


def test_the_server_behind_a_completion(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    candidate = only(warehouse, "raw_instructions", "slot = '0001/0000/00'")
    plain = trace(warehouse, candidate).completion
    assert plain is not None
    assert "server" not in plain
    with warehouse.connect() as connection:
        connection.execute("INSERT INTO store.answers VALUES (?, 's', 'slow')", [plain["key"]])
        connection.execute(
            "INSERT INTO store.servers VALUES "
            "('s', 'http://a/v1', 'vllm', '1', 'm', 'f', 'completions', true, true, NULL)"
        )
    served = trace(warehouse, candidate).completion
    assert served is not None
    assert (served["server"]["url"], served["server"]["problem"]) == ("http://a/v1", "slow")
    assert served["model"] == plain["model"]


def test_removed_and_readded_rows(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    first, second = seed_row("a"), seed_row("b")
    child = candidate("0", [first, second])
    commit(warehouse, "seed_tasks", {"seed_tasks": [first, second]})
    commit(warehouse, "raw_instructions", {"raw_instructions": [child]})
    commit(warehouse, "seed_tasks", {"seed_tasks": [second]})
    found = trace(warehouse, child["row_id"])
    lives = dict(found.rows.select("row_id", "removed_in").rows())
    assert lives == {child["row_id"]: None, first["row_id"]: 3, second["row_id"]: None}
    commit(warehouse, "seed_tasks", {"seed_tasks": [first, second]})
    found = trace(warehouse, child["row_id"])
    assert found.rows.height == 3
    assert set(found.rows["removed_in"]) == {None}
    assert ancestors(warehouse, child["row_id"]) == {first["row_id"]: 1, second["row_id"]: 1}
    down = trace(warehouse, first["row_id"], down=True)
    assert down.rows["row_id"].to_list() == [first["row_id"], child["row_id"]]


def test_a_row_that_history_dropped_is_still_told(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    one = seed_row("a")
    child = candidate("0", [one])
    commit(warehouse, "seed_tasks", {"seed_tasks": [one]})
    commit(warehouse, "raw_instructions", {"raw_instructions": [child]})
    with warehouse.connect() as connection:
        connection.execute("DELETE FROM history.seed_tasks")
    found = trace(warehouse, child["row_id"])
    assert found.rows["added_in"].to_list() == [2, None]
    assert "no longer in history" in rendered(found)


# The outline and its renders.


def branches(root: Branch) -> Iterator[Branch]:
    yield root
    for one in root.branches:
        yield from branches(one)


def rendered(found: Trace, *, everything: bool = False) -> str:
    console = Console(width=1000)
    with console.capture() as capture:
        console.print(as_tree(found, everything=everything))
    return capture.get()


def test_outline_opens_each_row_once(small: Warehouse) -> None:
    found = trace(small, dataset_row(small))
    told = list(branches(outline(found, everything=True)))
    opened = [one.row.place for one in told if one.row and one.branches]
    assert len(opened) == len(set(opened))
    assert {one.row.place for one in told if one.row} == set(found.rows["place"])
    arrows = sum(len(one.branches) for one in told)
    assert arrows == found.edges.height
    seeds = [one for one in told if one.table == "seed_tasks"]
    assert not any(one.again for one in seeds)


def test_large_groups_are_counted_unless_all_is_asked(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    seeds = [seed_row(f"s{number}") for number in range(30)]
    child = candidate("0", seeds)
    commit(warehouse, "seed_tasks", {"seed_tasks": seeds})
    commit(warehouse, "raw_instructions", {"raw_instructions": [child]})
    found = trace(warehouse, child["row_id"])
    root = outline(found)
    assert [(one.count, one.table, one.role, one.row) for one in root.branches] == [
        (30, "seed_tasks", "demonstration", None)
    ]
    assert "30 seed_tasks (demonstration)" in rendered(found)
    assert "30 seed_tasks" in as_mermaid(found)
    assert "s29: " not in rendered(found)
    whole = outline(found, everything=True)
    assert sorted(one.row.label for one in whole.branches if one.row) == sorted(
        f"s{number}: Name a fruit." for number in range(30)
    )
    assert "s29: " in rendered(found, everything=True)


def test_long_chains_are_cut_unless_all_is_asked(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    chain = [candidate("0", [])]
    while len(chain) < 250:
        chain.append(candidate(str(len(chain)), [chain[-1]]))
    commit(warehouse, "raw_instructions", {"raw_instructions": chain})
    found = trace(warehouse, chain[99]["row_id"])
    assert found.rows.height == 100
    assert "and its 1 nearest ancestors" in rendered(found)
    assert chain[0]["row_id"][:12] not in rendered(found)
    assert chain[0]["row_id"][:12] in rendered(found, everything=True)
    assert len(as_markdown(found).splitlines()) < 60
    longest = trace(warehouse, chain[-1]["row_id"])
    assert longest.rows.height == len(chain)
    assert f"r{len(chain) - 1} ->" in as_dot(longest, everything=True)


def test_json_is_whole(small: Warehouse) -> None:
    found = trace(small, dataset_row(small))
    told = json.loads(json.dumps(as_json(found)))
    assert told["direction"] == "ancestors"
    assert told["asked"]["row_id"] == told["rows"][0]["row_id"]
    ids = {row["row_id"] for row in told["rows"]}
    assert len(told["edges"]) == found.edges.height
    assert {end for edge in told["edges"] for end in (edge["child"], edge["parent"])} == ids
    assert {edge["role"] for edge in told["edges"]} >= {"policy", "judge", "demonstration"}


@pytest.mark.parametrize("down", [False, True])
def test_pictures_are_well_formed(tmp_path: Path, down: bool) -> None:
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    nasty = seed_row("s", 'Say "hi" \\ to <b>#1</b> & `all`;\n]["|{}')
    child = candidate("0", [nasty])
    commit(warehouse, "seed_tasks", {"seed_tasks": [nasty]})
    commit(warehouse, "raw_instructions", {"raw_instructions": [child]})
    found = trace(warehouse, (nasty if down else child)["row_id"], down=down)
    head, style, *lines = as_mermaid(found).splitlines()
    assert (head, style.split()[0]) == ("flowchart LR", "classDef")
    box = re.compile(r'    r\d+\["[^"<>`\\]+(<br/>[^"<>`\\]+)*"\](:::removed)?')
    arrow = re.compile(r'    r\d+ -- "[a-z_]+" --> r\d+')
    assert [bool(box.fullmatch(line)) for line in lines] == [True, True, False]
    assert arrow.fullmatch(lines[2])
    # From the seed to what was made of it, whichever way was asked.
    seed_box, row_box = ("r0", "r1") if down else ("r1", "r0")
    assert lines[2] == f'    {seed_box} -- "demonstration" --> {row_box}'
    dot = as_dot(found)
    assert dot.startswith("digraph trace {")
    assert dot.endswith("}\n")
    assert f'    {seed_box} -> {row_box} [label="demonstration"];' in dot
    text = r'"(?:[^"\\]|\\.)*"'
    for line in dot.splitlines()[3:-1]:
        assert re.fullmatch(rf"    r\d( -> r\d)? \[label={text}(, style=dashed)?\];", line)


def test_markdown_is_an_indented_list(small: Warehouse) -> None:
    lines = as_markdown(trace(small, dataset_row(small))).splitlines()
    assert lines[0].startswith("- **instruction_dataset** `")
    assert any(line.startswith("    - *policy*: **rl_policy_checkpoint** `") for line in lines)
    listed = [line for line in lines if line.strip().startswith("-")]
    depths = [(len(line) - len(line.lstrip())) // 4 for line in listed]
    assert all(after <= before + 1 for before, after in pairwise(depths))


# Views and macros.


def ancestors(warehouse: Warehouse, row_id: str) -> dict[str, int]:
    rows = warehouse.query(
        "SELECT ancestor_id, depth FROM lineage.ancestors WHERE row_id = ?", [row_id]
    )
    assert rows["ancestor_id"].n_unique() == rows.height
    return dict(rows.rows())


def candidate(slot: str, shown: Iterable[Row]) -> Row:
    tables = {True: "seed_tasks", False: "raw_instructions"}
    prompt = [Parent(tables["seed_id" in one], one["row_id"], "demonstration") for one in shown]
    return row("raw_instructions", prompt, slot=slot, instruction=f"Instruction {slot}")


@st.composite
def graphs(draw: st.DrawFn) -> list[set[int]]:
    """Node n's parents among nodes 0 to n - 1; the first nodes have none."""
    size = draw(st.integers(2, 12))
    return [draw(st.sets(st.integers(0, node - 1))) if node else set() for node in range(size)]


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(graphs())
def test_views_macros_and_trace_equal_a_plain_closure(
    tmp_path_factory: pytest.TempPathFactory, graph: list[set[int]]
) -> None:
    warehouse = new_warehouse(tmp_path_factory.mktemp("graph") / "w.duckdb")
    rows: list[Row] = []
    for node, parents in enumerate(graph):
        made = [rows[parent] for parent in parents]
        rows.append(candidate(str(node), made) if made else seed_row(str(node)))
    tables = {
        "seed_tasks": [row for row in rows if "seed_id" in row],
        "raw_instructions": [row for row in rows if "slot" in row],
    }
    for _ in range(2):  # the second time every row comes back from the dead
        for table, of in tables.items():
            commit(warehouse, table, of)
            commit(warehouse, table, [])
    up = {
        rows[node]["row_id"]: {rows[one]["row_id"] for one in parents}
        for node, parents in enumerate(graph)
    }
    down = {
        row["row_id"]: {child for child, parents in up.items() if row["row_id"] in parents}
        for row in rows
    }
    for relation, far, edges in (
        ("ancestors", "ancestor", up),
        ("descendants", "descendant", down),
    ):
        expected = {
            (row["row_id"], other, depth)
            for row in rows
            for other, depth in closure(edges, row["row_id"]).items()
        }
        whole = warehouse.query(f"SELECT row_id, {far}_id, depth FROM lineage.{relation}").rows()
        assert len(whole) == len(expected)
        assert set(whole) == expected
        beside = warehouse.query(
            f"SELECT DISTINCT asked.row_id, found.{far}_id, found.depth "
            f"FROM lineage.rows AS asked, lineage.{relation}_of(asked.row_id) AS found"
        ).rows()
        assert set(beside) == expected
    last = rows[-1]["row_id"]
    assert ancestors(warehouse, last) == closure(up, last)
    single = warehouse.query(f"SELECT ancestor_id, depth FROM lineage.ancestors_of('{last}')")
    assert dict(single.rows()) == closure(up, last)
    told = trace(warehouse, last).rows
    assert dict(told.select("row_id", "depth").rows()) == {last: 0, **closure(up, last)}
    first = rows[0]["row_id"]
    told = trace(warehouse, first, down=True).rows
    assert dict(told.select("row_id", "depth").rows()) == {first: 0, **closure(down, first)}
