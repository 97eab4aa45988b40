"""A small home that older code wrote (`data/README.md`), unpacked for a test."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from refine_dagster.home import Home

DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, Any] = json.loads((DATA / "old_home.json").read_text(encoding="utf-8"))
# Config fields by the names of the code that wrote it -> their names today.
RENAMED_FIELDS = {
    "look_back_heads": "previous_token_heads",
    "own_answers": "on_policy_negatives",
}


def unpack(folder: Path) -> Home:
    """The old home in a folder; its seed file is `seeds.jsonl` and its profile `profile.yaml`."""
    with tarfile.open(DATA / "old_home.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    profile = (folder / "old_home.yaml").read_text(encoding="utf-8")
    for old, new in RENAMED_FIELDS.items():
        assert profile.count(f"{old}:") == 1
        profile = profile.replace(f"{old}:", f"{new}:")
    (folder / "profile.yaml").write_text(profile, encoding="utf-8")
    return Home(folder / "home")
