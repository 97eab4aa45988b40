"""Every package and root module stands in one layer of the floor plan, and no file in a cycle."""

from __future__ import annotations

import ast
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The package itself is the public face: it imports lazily.
FACE = "refine_dagster"


def _contracts() -> list[dict[str, list[str]]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, list[str]]] = settings["tool"]["importlinter"]["contracts"]
    return contracts


def _layers() -> list[list[str]]:
    return [[name.strip() for name in layer.split("|")] for layer in _contracts()[0]["layers"]]


def _rooms() -> set[str]:
    """Packages and modules right under `refine_dagster`."""
    folder = ROOT / FACE
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    names |= {path.parent.name for path in folder.glob("*/__init__.py")}
    return {f"{FACE}.{name}" for name in names}


def test_every_room_stands_in_one_layer() -> None:
    named = [name for layer in _layers() for name in layer]
    assert sorted(named) == sorted(_rooms() | {"assets", "resources"})


def test_the_engine_is_all_that_lies_below_the_resources() -> None:
    layers = _layers()
    below = [name for layer in layers[layers.index(["resources"]) + 1 :] for name in layer]
    assert sorted(_contracts()[1]["source_modules"]) == sorted(below)


def test_no_file_imports_itself_through_others() -> None:
    """Imports inside functions and under TYPE_CHECKING count."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in (FACE, "assets", "resources")
        for path in (ROOT / package).rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                inner = members & paths.keys()
                imported |= inner if inner == members else {node.module, *inner}
        graph[module] = (imported & paths.keys()) - {module}
    assert len(graph) > 100
    # Raises CycleError, which names the cycle.
    assert set(TopologicalSorter(graph).static_order()) == set(graph)
