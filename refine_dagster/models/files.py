"""The files of a language model: which there are, what they are called by content, downloads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from refine_dagster.errors import RefineError
from refine_dagster.hashing import json_hash, unchanged_file_hash

CONFIG = ("config.json", "generation_config.json")
SAFETENSORS = ("model*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
TOKENIZER_EXTRAS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# What Git LFS leaves in place of a large file begins with this.
LFS_START = b"version https://git-lfs"


class ModelError(RefineError):
    """A model cannot be found, is not whole, or cannot be loaded."""


def fingerprint_of(folder: Path, shown: str) -> str:
    """Hash the files that decide what the model says; `shown` names the folder in errors."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    weights = _matching(names, SAFETENSORS) or _matching(names, PICKLED)
    missing = []
    if "config.json" not in names:
        missing.append("config.json")
    if not any(name.endswith((".safetensors", ".bin")) for name in weights):
        missing.append("weights (model.safetensors or pytorch_model.bin)")
    if not _matching(names, TOKENIZER):
        missing.append("a tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    missing += [f"weight file {name}" for name in _absent_shards(folder, weights)]
    if missing:
        hint = "an adapter's folder cannot stand alone; " if ADAPTER_CONFIG in names else ""
        raise ModelError(
            f"not a whole model, missing: {', '.join(missing)}",
            where=shown,
            fix=f"{hint}name a folder that `save_pretrained` of model and tokenizer wrote",
        )
    chosen = sorted({*weights, *_matching(names, CONFIG + TOKENIZER + TOKENIZER_EXTRAS)})
    if pointers := [name for name in chosen if is_lfs_pointer(folder / name)]:
        raise lfs_pointer_error(pointers, where=shown)
    return json_hash({name: unchanged_file_hash(folder / name) for name in chosen})


def _matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def _absent_shards(folder: Path, weights: list[str]) -> list[str]:
    """Weight files that an index lists and the folder lacks."""
    absent: set[str] = set()
    for name in weights:
        if name.endswith(".index.json"):
            try:
                shards = set(json.loads((folder / name).read_text("utf-8"))["weight_map"].values())
            except (json.JSONDecodeError, KeyError, AttributeError) as error:
                raise ModelError(
                    f"the weight index is not readable: {error}",
                    where=str(folder / name),
                    fix="download the model again",
                ) from error
            absent |= {shard for shard in shards if not (folder / shard).is_file()}
    return sorted(absent)


def download(name: str, revision: str | None, local: bool = False) -> Path:
    """Fetch a Hugging Face id's files (or find them in the cache) and return their folder.

    With `local` they are only looked for in the cache.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        for weights in (SAFETENSORS, PICKLED):
            wanted = [*CONFIG, *weights, *TOKENIZER, *TOKENIZER_EXTRAS]
            # Models lie at the top of a repository; other formats lie in its folders.
            folder = snapshot_download(
                name,
                revision=revision,
                allow_patterns=wanted,
                ignore_patterns=["*/*"],
                local_files_only=local,
            )
            if any(Path(folder).glob("*.safetensors")):
                break
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        httpx.TransportError,
    ) as error:
        what = (
            "the model is not in the local cache and Hugging Face cannot be reached "
            f"({type(error).__name__})"
        )
        fix = (
            "go online (and unset HF_HUB_OFFLINE), name a model folder, or take base_model.id "
            "`offline`"
        )
        if isinstance(error, GatedRepoError):
            what, fix = "the model is gated", "accept its licence and log in with `hf auth login`"
        elif isinstance(error, RevisionNotFoundError):
            what, fix = f"there is no revision {revision!r}", "correct base_model.revision"
        elif isinstance(error, (RepositoryNotFoundError, HFValidationError)):
            what, fix = "neither a folder nor a Hugging Face id that can be read", "check the name"
        raise ModelError(what, where=name, fix=fix) from error
    return Path(folder)


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git left a pointer where the file's content belongs."""
    with path.open("rb") as stream:
        return stream.read(len(LFS_START)) == LFS_START


def lfs_pointer_error(names: Sequence[str], where: str) -> ModelError:
    """The error for files of which only pointers are there."""
    return ModelError(
        f"only Git LFS pointers, not their content: {', '.join(names)}",
        where=where,
        fix="run `git lfs pull` in that folder, or download the files again",
    )
