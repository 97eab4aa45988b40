"""The README names every command, and every file that it points to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer import Typer

from refine_dagster.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
    assert [one for one in typed if f"| `{one}" not in README] == []


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_links_to_files_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [one for one in links if not (ROOT / page).parent.joinpath(one).exists()] == []
