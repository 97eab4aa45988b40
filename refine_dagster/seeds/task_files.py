"""SUPER-NI task files as seeds: `Definition` is the instruction, examples are the instances.

The id is the file's stem. `Positive Examples` become the instances. `Instances` are what the
SUPER-NI protocol scores (docs/methods.md, section 4.1); the first of them serve only where a file
has no positive examples. A task counts as classification when its outputs repeat: at least
`LABELLED_INSTANCES` outputs, at most half of them different.
"""

from __future__ import annotations

from refine_dagster.seeds.problems import Findings
from refine_dagster.seeds.records import ID_DIGITS, check_text, kind, read_instance
from refine_dagster.seeds.task import SeedInstance, SeedTask, normal_line, task_content
from refine_dagster.seeds.text import decode, whole_json

MAX_INSTANCES = 5
LABELLED_INSTANCES = 4


def task_file_seed(data: bytes, stem: str, findings: Findings) -> SeedTask | None:
    """The seed of a task file; None (and findings) where it has an error."""
    text = decode(data, findings).text
    value = whole_json(text, findings)
    if findings.has_error:
        return None
    if not isinstance(value, dict):
        actual = "nothing" if value is None else kind(value)
        fix = "write a SUPER-NI task file, or move the file out of the folder"
        findings.error(1, None, f"expected one object, found {actual}", fix)
        return None
    instruction = _definition(value, _line(text, "Definition"), findings)
    examples = value.get("Positive Examples")
    section = "Positive Examples" if examples else "Instances"
    line = _line(text, section)
    items = value.get(section)
    if not isinstance(items, list) or not items:
        actual = "none" if not items else kind(items)
        fix = 'add `Positive Examples`: [{"input": "...", "output": "..."}]'
        findings.error(line, section, f"expected a list of examples, found {actual}", fix)
        return None
    if section == "Instances":
        items = items[:MAX_INSTANCES]
    instances = tuple(
        read_instance(_with_first_output(item), f"{section}[{index}]", line, findings)
        for index, item in enumerate(items)
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


def _with_first_output(item: object) -> object:
    """An instance with the first of its reference outputs."""
    if isinstance(item, dict) and isinstance(item.get("output"), list) and item["output"]:
        return {**item, "output": item["output"][0]}
    return item


def _is_classification(task: dict[str, object], instances: tuple[SeedInstance, ...]) -> bool:
    outputs = [instance.output for instance in instances]
    scored = task.get("Instances")
    for item in map(_with_first_output, scored if isinstance(scored, list) else []):
        output = item.get("output") if isinstance(item, dict) else None
        if isinstance(output, str):
            outputs.append(output.strip())
    return len(outputs) >= LABELLED_INSTANCES and 2 * len(set(outputs)) <= len(outputs)


def _line(text: str, section: str) -> int:
    """The line on which a section of the file begins; 1 where it is absent."""
    at = text.find(f'"{section}"')
    return 1 if at < 0 else 1 + text.count("\n", 0, at)
