"""`refine-dagster ui`: the Dagster UI on this project."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from refine_dagster.home import find_home

DEFINITIONS = "refine_dagster.definitions"


def ui(
    port: Annotated[int, typer.Option(help="Port of the web server.")] = 3000,
    host: Annotated[str, typer.Option(help="Address of the web server.")] = "127.0.0.1",
) -> None:
    """Open the Dagster UI on this project, with runs kept under REFINE_HOME.

    Example: refine-dagster ui --port 3001
    """
    from refine_dagster.run import prepare_dagster_home

    home = find_home()
    prepare_dagster_home(home)
    os.environ["REFINE_HOME"] = str(home.root)
    command = [sys.executable, "-m", "dagster", "dev", "--host", host, "--port", str(port)]
    workspace = Path("workspace.yaml")
    ours = workspace.is_file() and DEFINITIONS in workspace.read_text(encoding="utf-8")
    command += ["-w", "workspace.yaml"] if ours else ["-m", DEFINITIONS]
    os.execv(sys.executable, command)
