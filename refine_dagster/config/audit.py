"""Config of the audit."""

from __future__ import annotations

from pathlib import Path

from refine_dagster.config.section import ConfigSection, setting


class AuditConfig(ConfigSection):
    """Where heads of the ledger are noted."""

    witness: str | None = setting(
        None,
        "A file outside the home to which every run appends the ledger's head, and with which "
        "`audit verify` compares the home (docs/trust.md). Fixed when the code location is loaded.",
    )

    @property
    def witness_file(self) -> str | None:
        """The file's absolute path."""
        return None if self.witness is None else str(Path(self.witness).expanduser().absolute())
