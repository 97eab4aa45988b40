"""Checkpoints: folders named by the hash of their content, found by their manifest.

A checkpoint is a function of its manifest: what it learnt from, the config, the base model, the run
seed. What training reports (steps, accuracies) is kept in the folder as `record.json`, so that a
reused checkpoint has the same figures as the run that made it.

Which checkpoint a manifest has is registered in the warehouse. The folder is not believed: every
file is hashed before a checkpoint is used, and the note of a manifest is there for people.

Layout under the artifact root: `<asset>/<first 16 digits of content hash>/...` and
`<asset>/manifests/<manifest hash>.json`. Folders appear by rename, complete or not at all. A
training that can go on after a kill keeps its state in `<asset>/resume/<manifest hash>/`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from refine_dagster import progress
from refine_dagster.errors import RefineError
from refine_dagster.hashing import canonical_json, folder_files, json_hash, unchanged_file_hash
from refine_dagster.home import write_atomically

RECORD = "record.json"
_PARTIAL = ".partial-"
_RESUME = "resume"


class CheckpointError(RefineError):
    """A checkpoint cannot be stored, or is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A published folder; hashes have 64 hex digits.

    Attributes:
        content_hash: sha256 over the names and hashes of its files.
        manifest, record: JSON values.
        relative_path: the folder relative to the artifact root.
        files: relative path -> sha256.
        reused: whether it was there before.
    """

    asset: str
    content_hash: str
    manifest: Mapping[str, Any]
    manifest_hash: str
    path: Path
    relative_path: str
    files: Mapping[str, str]
    record: dict[str, Any]
    reused: bool


class Trainings(Protocol):
    """Registers which checkpoint a training left (`warehouse.warehouse.Warehouse`)."""

    def checkpoints_of(self, asset: str, manifest_hash: str) -> Sequence[str]:
        """Content hashes of the checkpoints that were trained from a manifest, the last first."""

    def register_training(self, asset: str, manifest_hash: str, content_hash: str) -> None:
        """Register a finished training, whose folder is in place."""


class TrainingsOfProcess:
    """Registers trainings in memory: what another process left is trained again."""

    def __init__(self) -> None:
        self._checkpoints: dict[tuple[str, str], str] = {}

    def checkpoints_of(self, asset: str, manifest_hash: str) -> list[str]:
        """The last one registered."""
        found = self._checkpoints.get((asset, manifest_hash))
        return [] if found is None else [found]

    def register_training(self, asset: str, manifest_hash: str, content_hash: str) -> None:
        """Register it in place of the one before."""
        self._checkpoints[asset, manifest_hash] = content_hash


class CheckpointStore:
    """The artifact root, and the register of what was trained."""

    def __init__(self, root: Path, trainings: Trainings | None = None) -> None:
        self.root = root
        self._trainings = trainings or TrainingsOfProcess()

    def train_or_reuse(
        self,
        asset: str,
        manifest: Mapping[str, Any],
        train: Callable[[Path], dict[str, Any]],
    ) -> Checkpoint:
        """The checkpoint of `manifest`: the stored one if it is whole, a newly trained one if not.

        A stored folder is compared byte by byte with the hash that it is named by.

        Args:
            train: fills the folder given to it and returns what to keep as its record.

        Raises:
            CheckpointError: the disk is full or the root cannot be written.
        """
        stored = self.find(asset, manifest)
        if stored is not None:
            return stored
        try:
            (self.root / asset).mkdir(parents=True, exist_ok=True)
            # What killed trainings left: a run has its home, and so this folder, alone.
            for folder in (self.root / asset).glob(f"{_PARTIAL}*"):
                shutil.rmtree(folder)
            partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.root / asset))
        except OSError as error:
            raise _unwritable(self.root, error) from error
        try:
            record = train(partial)
            (partial / RECORD).write_text(canonical_json(record) + "\n", encoding="utf-8")
            checkpoint = self._publish(asset, manifest, partial, record)
            shutil.rmtree(self.root / asset / _RESUME, ignore_errors=True)
            return checkpoint
        except RefineError:
            raise
        except OSError as error:
            raise _unwritable(self.root, error) from error
        except Exception as error:
            # Libraries written in Rust report an error of the system in words only.
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            code = int(number[1])
            raise _unwritable(self.root, OSError(code, os.strerror(code))) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def find(self, asset: str, manifest: Mapping[str, Any]) -> Checkpoint | None:
        """The checkpoint registered for a manifest; None where there is none or it is damaged."""
        for content_hash in self._trainings.checkpoints_of(asset, hash_manifest(manifest)):
            if self.is_whole(asset, content_hash):
                path = self.path_of(asset, content_hash)
                files = folder_files(path, unchanged_file_hash)
                record = json.loads((path / RECORD).read_text(encoding="utf-8"))
                return self._describe(asset, manifest, content_hash, files, record, reused=True)
            progress.note(f"{asset}: checkpoint {content_hash[:16]} is gone or damaged")
        return None

    def is_whole(self, asset: str, content_hash: str) -> bool:
        """Whether the checkpoint's folder is there, and its files give the hash; reads them all."""
        path = self.path_of(asset, content_hash)
        if not path.is_dir():
            return False
        return hash_files(folder_files(path, unchanged_file_hash)) == content_hash

    def verified_folder(self, asset: str, content_hash: str) -> Path:
        """The folder of a checkpoint that is to be used.

        Raises:
            CheckpointError: it is gone, or its files do not give the hash.
        """
        path = self.path_of(asset, content_hash)
        if not self.is_whole(asset, content_hash):
            what = "its files are not those that were registered"
            raise CheckpointError(
                what if path.is_dir() else "the checkpoint's folder is gone",
                where=str(path),
                fix=f"put the files back, or materialise {asset} again: its manifest says how it "
                "was trained",
            )
        return path

    def path_of(self, asset: str, content_hash: str) -> Path:
        return self.root / asset / content_hash[:16]

    def resume_folder(self, asset: str, manifest: Mapping[str, Any]) -> Path:
        """The folder in which a training of `manifest` may keep its state; not created here.

        It outlives a killed process, and is removed once any checkpoint of the asset is published.
        """
        return self.root / asset / _RESUME / hash_manifest(manifest)

    def _publish(
        self, asset: str, manifest: Mapping[str, Any], partial: Path, record: dict[str, Any]
    ) -> Checkpoint:
        files = folder_files(partial)
        content_hash = hash_files(files)
        path = self.path_of(asset, content_hash)
        if path.is_dir() and folder_files(path) != files:
            shutil.rmtree(path)
        if not path.is_dir():
            partial.rename(path)
        note = self._note(asset, hash_manifest(manifest))
        named = {"content_hash": content_hash, "manifest": dict(manifest)}
        write_atomically(note, canonical_json(named) + "\n")
        self._trainings.register_training(asset, hash_manifest(manifest), content_hash)
        return self._describe(asset, manifest, content_hash, files, record, reused=False)

    def _describe(
        self,
        asset: str,
        manifest: Mapping[str, Any],
        content_hash: str,
        files: Mapping[str, str],
        record: dict[str, Any],
        *,
        reused: bool,
    ) -> Checkpoint:
        path = self.path_of(asset, content_hash)
        return Checkpoint(
            asset=asset,
            content_hash=content_hash,
            manifest=manifest,
            manifest_hash=hash_manifest(manifest),
            path=path,
            relative_path=path.relative_to(self.root).as_posix(),
            files=files,
            record=record,
            reused=reused,
        )

    def _note(self, asset: str, manifest_hash: str) -> Path:
        return self.root / asset / "manifests" / f"{manifest_hash}.json"


def hash_manifest(manifest: Mapping[str, Any]) -> str:
    return json_hash(dict(manifest))


def hash_files(files: Mapping[str, str]) -> str:
    """The content hash of a folder with these files (`hashing.folder_files`)."""
    return json_hash(dict(files))


def _unwritable(root: Path, error: OSError) -> CheckpointError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return CheckpointError(
        "the disk is full" if full else f"cannot write: {error.strerror}",
        where=str(error.filename or root),
        fix="make room and run again; what was finished before is kept",
    )
