"""A file is replaced as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.home import replacing, write_atomically


def test_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "note.json"
    write_atomically(file, "é")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "note.json"
    write_atomically(file, "old")

    def interrupted() -> None:
        with replacing(file) as partial:
            partial.write_text("ne", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]
