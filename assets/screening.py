"""Checks of the dataset before it leaves. They warn: whether a finding matters is for people."""

import dagster as dg

from refine_dagster.evaluation.super_ni import load_tasks
from refine_dagster.language import language_of
from refine_dagster.screening.screening import CHECKS, Check, screen
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

NAMES: dict[Check, str] = {
    "contamination": "free_of_contamination",
    "private_data": "free_of_private_data",
    "near_duplicates": "free_of_near_duplicates",
    "language": "in_its_language",
}
MEANINGS: dict[Check, str] = {
    "contamination": "No row holds text of the run's own held-out tasks: a run of 8 words, or a "
    "field whose ROUGE-L F with a definition or an input is 0.7.",
    "private_data": "No row holds an e-mail address, telephone, card or account number, public IP "
    "address, key or token. Names and postal addresses are not looked for.",
    "near_duplicates": "No row's instruction and input have a ROUGE-L F of 0.9 with an earlier "
    "row's.",
    "language": "Every field is written in the script of the run's language.",
}
SHOWN = 5


def screening_checks() -> list[dg.AssetChecksDefinition]:
    return [_check(check) for check in CHECKS]


def _check(check: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="instruction_dataset", name=NAMES[check], description=MEANINGS[check], blocking=False
    )
    def screened(warehouse: WarehouseResource, profile: ProfileResource) -> dg.AssetCheckResult:
        config = profile.load()
        evaluation = config.evaluation
        tasks = (
            load_tasks(evaluation.tasks, evaluation.max_instances, evaluation.split)
            if check == "contamination"
            else []
        )
        rows = warehouse.open().read("instruction_dataset").to_dicts()
        others = [name for name in CHECKS if name != check]
        made = screen(rows, tasks, language_of(config.language), others)
        examples = "; ".join(
            f"{one.row_id[:12]} {one.field}: {one.text!r} ({one.rule} {one.against})".strip()
            for one in made.findings[:SHOWN]
        )
        return dg.AssetCheckResult(
            passed=not made.findings,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "rows": made.rows,
                "rows_named": made.rows_with(check),
                "examples": examples or "none",
            },
        )

    return screened
