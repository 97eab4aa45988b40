"""`docs/commands.md` names every command; links in README and docs lead to files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer import Typer
from typer.main import get_command

from refine_dagster.cli import app

ROOT = Path(__file__).parents[2]
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md")
    for page in ROOT.glob(pattern)
)


def commands(group: Typer) -> dict[str, list[str]]:
    """Every command as it is typed -> its options."""
    found = {}
    waiting = [("refine-dagster", get_command(group))]
    while waiting:
        typed, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            found[typed] = [option for one in command.params for option in one.opts]
        else:
            waiting += [(f"{typed} {name}", one) for name, one in inner.items()]
    return found


def test_every_command_and_option_is_in_the_table() -> None:
    rows = {
        command: next((row for row in COMMANDS.splitlines() if f"| `{command}" in row), "")
        for command in commands(app)
    }
    assert len(rows) >= 16
    assert [command for command, row in rows.items() if not row] == []
    for command, options in commands(app).items():
        named = re.findall(r"(?<!\w)--[\w-]+", rows[command])
        wanted = [option for option in options if option.startswith("--") and option != "--help"]
        assert [option for option in wanted if option not in named] == [], command
        assert [option for option in named if option not in wanted] == [], command


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
