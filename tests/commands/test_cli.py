"""The command line without a run: help, seed files, exit codes."""

from __future__ import annotations

import json
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
    "arguments", [["nonsense"], ["show"], ["export", "--format", "csv", "--to", "x"]]
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
