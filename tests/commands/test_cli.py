"""The command line without a run: help, seed files, exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from refine_dagster import cli
from refine_dagster.errors import RefineError

GOOD = {
    "id": "plural",
    "name": "plural",
    "instruction": "Make it plural.",
    "instances": [{"input": "hen", "output": "hens"}],
    "is_classification": False,
}


def commands() -> Iterator[tuple[list[str], Any]]:
    """Every command with the words that call it, those of groups included."""
    waiting: list[tuple[list[str], Any]] = [([], typer.main.get_command(cli.app))]
    while waiting:
        words, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            yield words, command
        else:
            waiting += [([*words, name], one) for name, one in inner.items()]


def test_every_command_has_help_and_an_example() -> None:
    found = {" ".join(words): command for words, command in commands()}
    assert {"run", "status", "show", "export", "ui", "seeds check"} <= set(found)
    for words, command in found.items():
        lines = [line.strip() for line in (command.help or "").splitlines()]
        assert lines, words
        assert lines[0].endswith("."), words
        examples = [line for line in lines if line.startswith("Example: ")]
        assert any(line.startswith(f"Example: refine-dagster {words}") for line in examples), words
        for option in command.params:
            assert getattr(option, "help", None) or option.name == "help", f"{words} {option.name}"
        shown = CliRunner().invoke(cli.app, [*words.split(), "--help"])
        assert shown.exit_code == 0
        assert "Example: refine-dagster" in shown.stdout


def test_a_good_seed_file(tmp_path: Path) -> None:
    path = tmp_path / "good.jsonl"
    path.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    result = CliRunner().invoke(cli.app, ["seeds", "check", str(path)])
    assert result.exit_code == 0, result.output
    assert "1 seed tasks, 0 warnings" in result.stdout


def test_every_problem_of_a_bad_seed_file_has_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [
        json.dumps(GOOD),
        json.dumps({**GOOD, "id": "second", "instruction": ""}),
        json.dumps({**GOOD, "id": "third", "instances": [{"input": "a", "output": 7}]}),
        "{not json",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = CliRunner().invoke(cli.app, ["seeds", "check", str(path)])
    assert result.exit_code == 1
    told = result.stdout.splitlines()
    for line, field in ((2, "`instruction`"), (3, "`instances[0].output`"), (4, "")):
        (problem,) = [one for one in told if one.startswith(f"{path}:{line}: error:")]
        assert field in problem


def test_the_packaged_seeds_pass() -> None:
    result = CliRunner().invoke(cli.app, ["seeds", "check", "packaged"])
    assert result.exit_code == 0, result.output


def test_a_setting_without_a_value() -> None:
    result = CliRunner().invoke(cli.app, ["run", "--set", "target"])
    assert isinstance(result.exception, RefineError)
    assert "--set: 'target' sets no config field" in str(result.exception)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["show"], ["export", "--format", "xml", "--to", "x"]]
)
def test_wrong_usage_is_told_and_ends_with_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output


def test_a_mendable_error_ends_with_1_and_interruption_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, code, told in (
        (RefineError("no [bold] room", where="here", fix="make room"), 1, "no [bold] room"),
        (KeyboardInterrupt(), 130, "run again to continue"),
    ):

        def fail(error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(cli, "app", fail)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
        assert told in capsys.readouterr().err


def test_a_number_that_no_table_has_room_for_is_wrong_usage() -> None:
    result = CliRunner().invoke(cli.app, ["show", "seed_tasks", "--limit", "9" * 23])
    assert result.exit_code == 2
    assert CliRunner().invoke(cli.app, ["ui", "--port", "99999"]).exit_code == 2


def test_ctrl_c_while_the_command_is_loaded() -> None:
    code = """
import builtins, os, signal
from refine_dagster import start
load = builtins.__import__
def interrupted(name, *rest):
    if name.endswith(".cli"):
        os.kill(os.getpid(), signal.SIGINT)
    return load(name, *rest)
builtins.__import__ = interrupted
start.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped\n")


class StartedError(Exception):
    """Instead of a web server."""


def test_the_ui_imports_nothing_from_the_folder_it_is_called_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def start(program: str, command: list[str]) -> None:
        started.extend(command)
        raise StartedError

    monkeypatch.setattr(os, "execv", start)
    monkeypatch.chdir(tmp_path)
    for name in ("REFINE_HOME", "DAGSTER_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    (tmp_path / "workspace.yaml").write_text("# refine_dagster.definitions", encoding="utf-8")
    (tmp_path / "dagster.py").write_text("print('not this')", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        refused = CliRunner().invoke(cli.app, ["ui", "--port", port])
        assert isinstance(refused.exception, RefineError)
        assert f"cannot listen on 127.0.0.1, port {port}" in str(refused.exception)
    assert not started
    assert isinstance(CliRunner().invoke(cli.app, ["ui", "--port", port]).exception, StartedError)
    assert os.environ["PYTHONSAFEPATH"]
    assert "workspace.yaml" not in started
    folder = Path(started[started.index("-d") + 1])
    assert (folder / "assets" / "graph.py").is_file()
    where = "import importlib.util as u; print(u.find_spec('dagster').origin)"
    found = subprocess.run([*started[:2], "-c", where], capture_output=True, text=True, check=True)
    assert not found.stdout.startswith(str(tmp_path))
