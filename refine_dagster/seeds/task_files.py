"""SUPER-NI task files as seeds: `Definition` is the instruction, examples are the instances.

The id is the file's stem. `Positive Examples` become the instances; `Instances` are what the
SUPER-NI protocol scores (methods B), so they serve only where a file has no positive examples, and
then only the first of them. A task counts as classification when its outputs repeat: at least
`LABELLED_INSTANCES` outputs, among them at most half as many different ones.
"""

from __future__ import annotations

from refine_dagster.seeds.problems import Findings
from refine_dagster.seeds.records import ID_DIGITS, check_text, kind
from refine_dagster.seeds.task import SeedInstance, SeedTask, normal_line, task_content
from refine_dagster.seeds.text import decode, whole_json

MAX_INSTANCES = 5
LABELLED_INSTANCES = 4


def task_file_seed(data: bytes, stem: str, findings: Findings) -> SeedTask | None:
    """The seed of one task file; None (and findings) where it has an error."""
    text = decode(data, findings).text
    value = whole_json(text, findings)
    if findings.has_error:
        return None
    if not isinstance(value, dict):
        found = "nothing" if value is None else kind(value)
        findings.error(
            1,
            None,
            f"expected one object, found {found}",
            "write a SUPER-NI task file, or move the file out of the folder",
        )
        return None
    instruction = _definition(value, _line(text, "Definition"), findings)
    examples = value.get("Positive Examples")
    section = "Positive Examples" if examples else "Instances"
    line = _line(text, section)
    chosen = value.get(section)
    if not isinstance(chosen, list) or not chosen:
        found = "none" if not chosen else kind(chosen)
        findings.error(
            line,
            section,
            f"expected a list of examples, found {found}",
            'add `Positive Examples`: [{"input": "...", "output": "..."}]',
        )
        return None
    shown = chosen if section == "Positive Examples" else chosen[:MAX_INSTANCES]
    instances = tuple(
        _instance(item, f"{section}[{place}]", line, findings) for place, item in enumerate(shown)
    )
    if findings.has_error:
        return None
    seed_id = normal_line(stem) or f"task-{task_content(instruction, instances)[:ID_DIGITS]}"
    return SeedTask(seed_id, seed_id, instruction, instances, _is_classification(value, instances))


def _definition(task: dict[str, object], line: int, findings: Findings) -> str:
    if "Definition" not in task:
        findings.error(line, "Definition", "missing", "add `Definition`, what the task asks for")
        return ""
    definition = task["Definition"]
    if isinstance(definition, list) and definition:
        definition = definition[0]  # as SUPER-NI's own code reads it
    return check_text(definition, line, "Definition", findings, required=True)


def _instance(item: object, where: str, line: int, findings: Findings) -> SeedInstance:
    if not isinstance(item, dict):
        findings.error(
            line,
            where,
            f"expected an object, found {kind(item)}",
            'write {"input": "...", "output": "..."}',
        )
        return SeedInstance("", "")
    output = item.get("output")
    if isinstance(output, list) and output:
        output = output[0]  # the first reference
    return SeedInstance(
        check_text(item.get("input"), line, f"{where}.input", findings, required=False),
        check_text(output, line, f"{where}.output", findings, required=True),
    )


def _is_classification(task: dict[str, object], instances: tuple[SeedInstance, ...]) -> bool:
    outputs = [one.output for one in instances]
    every = task.get("Instances")
    for item in every if isinstance(every, list) else []:
        output = item.get("output") if isinstance(item, dict) else None
        first = output[0] if isinstance(output, list) and output else output
        if isinstance(first, str):
            outputs.append(first.strip())
    return len(outputs) >= LABELLED_INSTANCES and 2 * len(set(outputs)) <= len(outputs)


def _line(text: str, section: str) -> int:
    """The line on which a section of the file begins; 1 where it is absent."""
    at = text.find(f'"{section}"')
    return 1 if at < 0 else 1 + text.count("\n", 0, at)
