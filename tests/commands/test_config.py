"""`config show` and `config describe`: every field, where its value stands, and what it means.

`REFRESH_SNAPSHOT=1 python -m pytest tests/commands/test_config.py` writes the fields into
docs/config.md.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.config.profile import Profile, read_config
from refine_dagster.config.section import ConfigSection, described, fields_of, sections_of
from refine_dagster.errors import RefineError

FIELDS = {name: described(name, field) for name, field in fields_of(Profile).items()}
PAGE = Path(__file__).parents[2] / "docs" / "config.md"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REFINE_PROFILE", "REFINE_SEEDS", "REFINE_BASE_MODEL"):
        monkeypatch.delenv(name, raising=False)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["config", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def shown(*arguments: str) -> dict[str, dict[str, Any]]:
    answer: dict[str, dict[str, Any]] = json.loads(call("show", "--format", "json", *arguments))
    return answer


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_means(name: str) -> None:
    field = FIELDS[name]
    assert field.type
    assert len(field.meaning) > 10
    assert field.meaning.endswith("."), field.meaning


def test_every_section_says_what_it_sets() -> None:
    for name, section in sections_of(Profile).items():
        assert section.__doc__ != ConfigSection.__doc__, name
        assert (section.__doc__ or "").endswith("."), name


def test_types_ranges_and_defaults_are_in_words() -> None:
    found = {name: (one.type, one.range, one.default) for name, one in FIELDS.items()}
    assert found["device.dtype"] == ("choice", "float32, bfloat16, float16, auto", "float32")
    assert found["generator.batch_size"] == ("integer or null", "at least 1", 32)
    assert found["generator.backend"] == ("choice", "endpoint, transformers, vllm", "transformers")
    assert found["device.memory_share"] == ("number", "above 0 and at most 1", 0.9)
    assert found["teams_rl.gae_lambda"] == ("number", "0 to 1", 0.97)
    assert found["teams_rl.hidden"] == ("list of integers", "", [64, 64])
    assert found["reward.whiten"] == ("true or false", "", True)
    assert found["base_model.revision"] == ("text or null", "", None)
    assert found["name"] == ("text", "", None)


def test_show_has_every_field_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("judge:\n  steps: 5\n")
    monkeypatch.setenv("REFINE_ROUNDS", "2")
    answer = shown("--profile", str(path), "--set", "reward.diversity=0.5", "--seeds", "x.jsonl")
    assert list(answer) == list(FIELDS)
    assert answer["judge.steps"] == {"value": 5, "source": "mine.yaml:2"}
    assert answer["rounds"] == {"value": 2, "source": "REFINE_ROUNDS"}
    assert answer["reward.diversity"] == {"value": 0.5, "source": "--set"}
    assert answer["seeds.path"] == {"value": "x.jsonl", "source": "--set"}
    assert answer["teams_rl.hidden"] == {"value": [64, 64], "source": "default"}
    defaults = {name for name, one in answer.items() if one["source"] == "default"}
    assert all(answer[name]["value"] == FIELDS[name].default for name in defaults)


def test_what_show_prints_can_be_set() -> None:
    """Every value of the packaged profiles, as `config show` prints it, reads back as the same."""
    for profile in ("offline", "laptop", "gpu"):
        config = read_config(profile, environment={})
        answer = shown("--profile", profile)
        texts = {
            name: one["value"] if isinstance(one["value"], str) else json.dumps(one["value"])
            for name, one in answer.items()
        }
        assert read_config("offline", texts, {}).profile == config.profile


def test_show_of_a_section_is_a_table() -> None:
    lines = call("show", "device").splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert [row[0] for row in rows] == [name for name in FIELDS if name.startswith("device.")]
    assert ["device.device", "cpu", "offline.yaml:4"] in rows


def test_describe_a_section_a_field_or_all() -> None:
    text = call("describe", "judge")
    assert text.startswith("judge: Offline or published judge")
    assert "  judge.kind (choice of offline, published; default offline)\n" in text
    assert "reward.preset" not in text
    assert "  judge.steps (integer, at least 1; default 400)\n" in call("describe", "judge.steps")
    everything = call("describe")
    assert all(f"  {name} (" in everything for name in FIELDS)
    answer = json.loads(call("describe", "--format", "json"))
    assert [field["name"] for field in answer] == list(FIELDS)
    assert answer[1] == vars(FIELDS["run_seed"])


@pytest.mark.parametrize("command", ["show", "describe"])
def test_an_unknown_section_lists_those_there_are(command: str) -> None:
    with pytest.raises(RefineError, match="there is no section or field 'jugde'") as raised:
        call(command, "jugde")
    assert str(raised.value.fix).startswith("did you mean 'judge'? the sections are seeds, device,")


def test_the_page_lists_the_fields_as_they_are() -> None:
    printed = call("describe", "--format", "markdown")
    before, heading, fields = PAGE.read_text(encoding="utf-8").partition("### run\n")
    if os.environ.get("REFRESH_SNAPSHOT"):
        fields = printed.removeprefix(heading)
        PAGE.write_text(f"{before}{heading}{fields}".rstrip() + "\n", encoding="utf-8")
    assert f"{heading}{fields}".strip() == printed.strip(), __doc__
