"""`docs/commands.md` names every command; links in README and docs lead to files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer import Typer

from refine_dagster.cli import app

ROOT = Path(__file__).parents[1]
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md")
    for page in ROOT.glob(pattern)
)


def commands(group: Typer, before: str = "refine-dagster") -> list[str]:
    """Every command as it is typed."""
    found = []
    for command in group.registered_commands:
        assert command.callback is not None
        found.append(f"{before} {command.name or command.callback.__name__}")
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        found += commands(inner.typer_instance, f"{before} {inner.name}")
    return found


def test_every_command_is_in_the_table() -> None:
    typed = commands(app)
    assert len(typed) >= 14
    assert [command for command in typed if f"| `{command}" not in COMMANDS] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]
    assert [page for page in pages if page != "index.md" and page not in index] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
