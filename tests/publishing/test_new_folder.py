"""A folder is there whole or as it was, and nobody else's is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.hashing import file_hash
from refine_dagster.home import Home
from refine_dagster.publishing.new_folder import (
    FolderError,
    new_folder,
    read_manifest,
    whole_path,
    write_manifest,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    root = tmp_path / "home"
    root.mkdir()
    return Home(root)


def write(to: Path, home: Home, text: str, *, overwrite: bool = False) -> None:
    with new_folder(to, home, overwrite=overwrite) as folder:
        (folder / "a.txt").write_text(text, encoding="utf-8")
        write_manifest(folder, {"kind": "test"})


def test_it_is_named_with_its_files_and_replaced_on_demand(tmp_path: Path, home: Home) -> None:
    to = tmp_path / "deep" / "out"
    write(to, home, "first")
    assert read_manifest(to) == {"kind": "test", "files": {"a.txt": file_hash(to / "a.txt")}}
    with pytest.raises(FolderError, match="--overwrite"):
        write(to, home, "second")
    assert (to / "a.txt").read_text(encoding="utf-8") == "first"
    write(to, home, "second", overwrite=True)
    assert (to / "a.txt").read_text(encoding="utf-8") == "second"
    assert [path.name for path in to.parent.iterdir()] == ["out"]


def test_what_fails_leaves_what_was_there(tmp_path: Path, home: Home) -> None:
    to = tmp_path / "out"
    write(to, home, "first")
    with pytest.raises(UnicodeEncodeError):
        write(to, home, "half a pair: \ud800", overwrite=True)
    assert (to / "a.txt").read_text(encoding="utf-8") == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_nobody_elses_folder_is_replaced(tmp_path: Path, home: Home) -> None:
    to = tmp_path / "papers"
    to.mkdir()
    (to / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FolderError, match="no export"):
        write(to, home, "x", overwrite=True)
    assert [path.name for path in to.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("inside", [".", "checkpoints", "..", "a/../b"])
def test_the_home_is_left_alone(home: Home, inside: str) -> None:
    with pytest.raises(FolderError, match="home"):
        write(home.root / inside, home, "x", overwrite=True)
    assert list(home.root.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path, home: Home) -> None:
    (tmp_path / "out").write_text("x", encoding="utf-8")
    with pytest.raises(FolderError, match="is a file"):
        write(tmp_path / "out", home, "x", overwrite=True)


def test_an_empty_folder_is_filled(tmp_path: Path, home: Home) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", home, "x")
    assert read_manifest(tmp_path / "out")


def test_the_users_folder_is_meant_by_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert whole_path(Path("~/out")) == tmp_path / "out"
