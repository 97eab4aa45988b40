"""Seeds that are not in the language of the run are warned of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.language import language_of
from refine_dagster.seeds.language_fit import misfit
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.seeds.task import SeedInstance, SeedTask

CASES = Path(__file__).parents[3] / "shared" / "cases"
TEXTS = {
    "zh": ["列出三种水果。", "写一首关于春天的诗。", "用 Python 求平均值。"],
    "de": [
        "Nenne eine Stadt mit einem Hafen.",
        "Schreibe einen Satz über den Winter.",
        "Wie ist das?",
    ],
    "fr": [
        "Écris une phrase avec le mot été.",
        "Donne le nom d'une ville.",
        "Quel est le plus long ?",
    ],
    "es": [
        "Escribe una frase con la palabra sol.",
        "¿Cuál es el antónimo?",
        "Di los días que faltan.",
    ],
    "en": ["Name three fruits.", "Write a poem about the spring.", "What is the mean of the list?"],
    "hi": ["तीन फलों के नाम लिखो।", "इस शब्द का विलोम बताओ।"],
}


def seeds_of(texts: list[str]) -> list[SeedTask]:
    instances = (SeedInstance("", "x"),)
    return [SeedTask(f"s{n}", "s", text, instances, False) for n, text in enumerate(texts)]


@pytest.mark.parametrize("written", TEXTS)
@pytest.mark.parametrize("code", TEXTS)
def test_what_is_written_in_another_language_does_not_fit(written: str, code: str) -> None:
    found = misfit(seeds_of(TEXTS[written]), language_of(code))
    if written == code:
        assert found is None
    else:
        assert found is not None
        assert f"`language: {written}`" in found


def test_a_few_others_fit() -> None:
    assert (
        misfit(seeds_of([*TEXTS["en"] * 7, "Translate: 苹果", "列出水果。"]), language_of("en"))
        is None
    )


def test_the_packaged_seeds_are_english() -> None:
    assert misfit(read_seeds("packaged").seeds, language_of("en")) is None


def test_seeds_check_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFINE_LANGUAGE", raising=False)
    path = tmp_path / "seeds.jsonl"
    lines = [json.dumps({"instruction": text, "output": "x"}) for text in TEXTS["zh"]]
    path.write_text("\n".join(lines))
    check = ["seeds", "check", str(path)]
    found = CliRunner().invoke(app, check)
    assert "3 of 3 seed instructions are not in the letters of English" in found.output
    assert "set `language: zh` for Chinese" in found.output
    assert "3 seed tasks, 1 warnings" in found.output
    assert "0 warnings" in CliRunner().invoke(app, [*check, "--language", "zh"]).output
    assert "0 warnings" in CliRunner().invoke(app, check, env={"REFINE_LANGUAGE": "zh"}).output


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")
@pytest.mark.parametrize(
    ("name", "count"), [("zh_seeds", "16 of 16"), ("multilingual_seeds", "25 of 30")]
)
def test_cases_of_languages(name: str, count: str) -> None:
    seeds = read_seeds(str(CASES / f"{name}.jsonl")).seeds
    found = misfit(seeds, language_of("en"))
    assert found is not None
    assert found.startswith(count)
    if name == "zh_seeds":
        assert misfit(seeds, language_of("zh")) is None
