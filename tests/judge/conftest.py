"""The base model of the judges that tests train."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.models.language_model import ModelRef, resolve_model


@pytest.fixture(scope="module")
def base(tiny_model_folder: Path) -> ModelRef:
    return resolve_model(str(tiny_model_folder))
