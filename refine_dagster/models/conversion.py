"""A .gguf file made into a model folder in Hugging Face format, and checked.

Weights are dequantised, the tokenizer is built from the file (`gguf_tokenizer`), and what was
written is read again: text must survive encoding and decoding, and the model must find a plain
paragraph likely. A folder appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from refine_dagster import progress
from refine_dagster.errors import first_line
from refine_dagster.hashing import file_hash, readable_json
from refine_dagster.home import cache_folder
from refine_dagster.models.files import ModelError
from refine_dagster.models.gguf_file import GgufFile, read_gguf
from refine_dagster.models.gguf_tokenizer import cut_is_known, gguf_tokenizer

Dtype = Literal["float32", "bfloat16"]
# Raised where an equal file would be converted to other content: names of cached folders have it.
REVISION = 1
RECORD = "conversion.json"
SUFFIX = ".gguf"

PARAGRAPH = (
    "The capital of France is Paris. It lies on the river Seine, and it is the largest city of the "
    "country. Many people visit it every year to see the Eiffel Tower, the Louvre and the "
    "cathedral of Notre-Dame. Water boils at a temperature of 100 degrees Celsius at sea level. "
    "When it is heated further, it turns into steam. When it is cooled below zero degrees, it "
    "becomes ice."
)
# A vocabulary of so many tokens has English words; it needs at most so many tokens a character
# for English (a good one 0.2 to 0.25), or words fall into letters.
WORDS_FROM, MOST_TOKENS_A_CHARACTER = 2000, 0.5
# The largest loss, as a share of that of a uniform guess over the vocabulary.
MOST_LOSS = 0.75


@dataclass(frozen=True)
class Conversion:
    """A finished conversion, as its folder records it.

    Attributes:
        source: sha256 of the .gguf file, 64 hex digits.
        loss: nats a token on `PARAGRAPH`.
        tokens: of `PARAGRAPH`, the start token included.
    """

    source: str
    dtype: str
    revision: int
    loss: float
    tokens: int

    @classmethod
    def of(cls, folder: Path) -> Conversion | None:
        """What a folder records of itself; None where it is no finished conversion."""
        try:
            return cls(**json.loads((folder / RECORD).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def converted(path: Path, local: bool = False) -> Path:
    """The folder in the user's cache that a .gguf file was converted to, converted if need be.

    Raises:
        ModelError: with `local`, it was not converted yet.
    """
    read_gguf(path)
    source = file_hash(path)
    folder = cache_folder() / "converted" / f"{source[:32]}-float32-{REVISION}"
    if Conversion.of(folder) is None:
        if local:
            raise ModelError("this file was not converted yet", where=str(path))
        convert(path, folder, "float32", source)
    return folder


def convert(
    path: Path, folder: Path, dtype: Dtype = "float32", source: str | None = None
) -> Conversion:
    """Convert a .gguf file to a model folder, or find that it has been.

    Args:
        dtype: of the weights on disk; bfloat16 needs half the room and rounds them.
        source: sha256 of the file, where it is known.

    Raises:
        ModelError: the file cannot be converted, the result does not pass its checks, or there is
            another folder.
    """
    file = read_gguf(path)
    source = source or file_hash(path)
    if folder.exists():
        done = Conversion.of(folder)
        if done and (done.source, done.dtype, done.revision) == (source, dtype, REVISION):
            return done
        raise ModelError(
            "the folder exists, and is no conversion of this file to this dtype",
            where=str(folder),
            fix="name another folder, or remove it",
        )
    if not cut_is_known(file):
        progress.note("the file cuts texts in a way that is unknown here: GPT-2's is taken")
    progress.note(f"{path.name}: converting to {dtype}, about a minute for 300 million weights")
    with _appearing(folder) as partial, _quiet():
        _write(file, partial, dtype)
        loss, tokens = _checked(file, partial)
        done = Conversion(source, dtype, REVISION, loss, tokens)
        (partial / RECORD).write_text(readable_json(asdict(done)), encoding="utf-8")
    return done


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Give a folder to fill; at the end it takes the place of `folder`, after an error it goes."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise ModelError(
            f"cannot write: {error.strerror or first_line(error)}",
            where=str(folder),
            fix="make room, or name a folder that can be written",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and warnings of transformers, which would break the display of progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with redirect_stderr(StringIO()):
        yield


def _write(file: GgufFile, folder: Path, dtype: Dtype) -> None:
    """Write config, dequantised weights and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = gguf_tokenizer(file)
    try:
        read = AutoModelForCausalLM.from_pretrained(
            str(file.path.parent), gguf_file=file.path.name, dtype=getattr(torch, dtype)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise ModelError(
            f"transformers cannot read a .gguf file of the architecture {file.architecture!r}: "
            f"{first_line(error)[:200]}",
            where=str(file.path),
            fix="take the model in Hugging Face format",
        ) from error
    # transformers refuses to save a model whose config says that it was quantized.
    values = read.config.to_dict()
    for name in ("quantization_config", "_model_name_or_path"):
        values.pop(name, None)
    config = type(read.config).from_dict(values)
    config.update(_special_ids(tokenizer))
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    whole.load_state_dict(read.state_dict(), assign=True)
    whole.tie_weights()
    whole.generation_config.update(**_special_ids(tokenizer))
    whole.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _special_ids(tokenizer: Any) -> Mapping[str, int | None]:
    return {
        f"{one}_token_id": getattr(tokenizer, f"{one}_token_id") for one in ("bos", "eos", "pad")
    }


def _checked(file: GgufFile, folder: Path) -> tuple[float, int]:
    """Read what was written, and return the loss and the tokens of `PARAGRAPH`.

    Raises:
        ModelError: text does not survive, takes too many tokens, or is found unlikely.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def refused(what: str) -> ModelError:
        return ModelError(
            f"converted, and not usable: {what}",
            where=str(file.path),
            fix="take the model in Hugging Face format",
        )

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    ids: list[int] = tokenizer(PARAGRAPH)["input_ids"]
    if tokenizer.decode(ids, skip_special_tokens=True) != PARAGRAPH:
        raise refused("a paragraph changes when it is encoded and decoded")
    if len(tokenizer) > WORDS_FROM and len(ids) > MOST_TOKENS_A_CHARACTER * len(PARAGRAPH):
        raise refused(f"its tokenizer cuts words into letters ({len(ids)} tokens for a paragraph)")
    if file.metadata.get("tokenizer.ggml.add_bos_token") and ids[0] != tokenizer.bos_token_id:
        raise refused("its tokenizer puts no start token in front")
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True
    ).eval()
    batch = torch.tensor([ids])
    with torch.inference_mode():
        loss = float(model(input_ids=batch, labels=batch).loss)
    uniform = math.log(model.get_input_embeddings().num_embeddings)
    if not loss < MOST_LOSS * uniform:
        raise refused(
            f"its loss on a plain paragraph is {loss:.2f} nats a token, and a uniform guess has "
            f"{uniform:.2f}"
        )
    return round(loss, 4), len(ids)
