"""The primer: small instruction tasks with correct outputs, which teach the offline base model.

The offline profile has no network and so no pretrained model. Its base model learns from these
generated tasks instead: word and list operations, arithmetic, short question answering and writing
on a closed set of topics, labels, edits, and the rewrites of TeaMs-RL's six operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from refine_dagster.offline.language_families import LANGUAGE_FAMILIES, REWRITES
from refine_dagster.offline.rule_families import RULE_FAMILIES
from refine_dagster.offline.world import Family, pick, wordings
from refine_dagster.prompts.example import Example

# Share of tasks by form: a third has no input, a quarter is classification, an eighth rewrites.
FORM_SHARES = {
    ("inline", "classification"): 0.06,
    ("inline", "open"): 0.28,
    ("given", "classification"): 0.19,
    ("given", "rewrite"): 0.12,
    ("given", "open"): 0.35,
}
# A draw that repeats an earlier task, or whose input is its output, is drawn again this often.
REDRAWS = 50
ALL_FAMILIES: Mapping[str, Family] = {**RULE_FAMILIES, **LANGUAGE_FAMILIES, **REWRITES}
# Families with many right answers: another task's answer may be right as well.
OPEN_FAMILIES = frozenset(
    {"write_sentence", "write_two", "greeting", "slogan", "tip", "list_three", *REWRITES}
)
CLOSED_FAMILIES = frozenset(ALL_FAMILIES) - OPEN_FAMILIES
CLASSIFICATION_FAMILIES = frozenset(
    family for family, entry in wordings().items() if entry.classification
)


@dataclass(frozen=True)
class PrimerTask:
    """A task of the primer and its family (a key of `primer_templates.yaml`)."""

    example: Example
    family: str


def primer_tasks(count: int, seed: int) -> list[PrimerTask]:
    """The first `count` tasks of the endless sequence of `seed`.

    Tasks differ from each other as long as the families have new ones; a task's input is never its
    output.
    """
    if count < 0:
        raise ValueError(f"count is {count}; it is a number of tasks, 0 or more")
    random = Random(seed)
    seen: set[Example] = set()
    tasks: list[PrimerTask] = []
    for _ in range(count):
        task = _draw(random)
        for _ in range(REDRAWS):
            if task.example not in seen:
                break
            task = _draw(random)
        seen.add(task.example)
        tasks.append(task)
    return tasks


def _draw(random: Random) -> PrimerTask:
    forms = _families_by_form()
    form = random.choices(list(FORM_SHARES), weights=list(FORM_SHARES.values()))[0]
    family = pick(random, forms[form])
    entry = wordings()[family]
    templates = entry.inline if form[0] == "inline" else entry.given
    draft = ALL_FAMILIES[family](random)
    while draft.given == draft.output:
        draft = ALL_FAMILIES[family](random)
    template = pick(random, templates)
    instruction = template.format_map({**draft.slots, "x": draft.given})
    given = "" if form[0] == "inline" else draft.given
    return PrimerTask(Example(instruction, given, draft.output), family)


@lru_cache(maxsize=1)
def _families_by_form() -> dict[tuple[str, str], list[str]]:
    forms: dict[tuple[str, str], list[str]] = {form: [] for form in FORM_SHARES}
    for family, entry in wordings().items():
        answer = "rewrite" if entry.rewrite else "open"
        if entry.classification:
            answer = "classification"
        for material, templates in (("inline", entry.inline), ("given", entry.given)):
            if templates:
                forms[material, answer].append(family)
    return forms
