"""Which checks end a run with an error: those that did not pass and do not only warn."""

from __future__ import annotations

import dagster as dg

from refine_dagster.run import not_passed

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def _evaluation(
    name: str, severity: dg.AssetCheckSeverity, *, passed: bool = False
) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("instruction_dataset"),
        check_name=name,
        passed=passed,
        metadata={},
        severity=severity,
    )


def test_a_warning_is_told_from_a_failure() -> None:
    checks = [
        _evaluation("free_of_contamination", WARN),
        _evaluation("in_its_language", WARN, passed=True),
        _evaluation("descends_from_seeds", ERROR),
        _evaluation("funnel_adds_up", ERROR, passed=True),
    ]
    assert not_passed(checks, WARN) == ["instruction_dataset: free_of_contamination"]
    assert not_passed(checks, ERROR) == ["instruction_dataset: descends_from_seeds"]
