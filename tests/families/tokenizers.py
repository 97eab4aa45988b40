"""Tiny tokenizers of the kinds that published models have, made in milliseconds.

They differ in what goes wrong: whether a start token stands in front of a text, how blanks and
unknown characters are written, and which of the start, end and padding tokens there are.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tests.builders.word_requests import WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ENTRIES = 400
_TEXTS = tuple(
    f"Instruction: Write about the {word} and the {other}.\nInput: <noinput>\nOutput: the {word}\n"
    for word in WORDS
    for other in WORDS
)
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def byte_level(
    *, end: str | None = None, start: str | None = None, pad: str | None = None
) -> PreTrainedTokenizerFast:
    """GPT-2's kind: bytes are written as letters, and a blank belongs to the word behind it."""
    return _tokenizer("byte level", end, start, pad)


def byte_fallback(
    *, end: str | None = None, start: str | None = None, pad: str | None = None
) -> PreTrainedTokenizerFast:
    """Llama's and Gemma's kind: a blank is `▁`, and unknown characters are spelled in bytes."""
    return _tokenizer("byte fallback", end, start, pad)


def appending_end(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, with the end token behind every text."""
    _put_around(tokenizer, tokenizer.bos_token, tokenizer.eos_token)
    return tokenizer


def _tokenizer(
    kind: str, end: str | None, start: str | None, pad: str | None
) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = tuple(dict.fromkeys(token for token in (pad, end, start) if token))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(kind, special)),
        eos_token=end,
        bos_token=start,
        pad_token=pad,
    )
    _put_around(tokenizer, start, None)
    return tokenizer


def _put_around(tokenizer: PreTrainedTokenizerFast, before: str | None, after: str | None) -> None:
    from tokenizers.processors import TemplateProcessing

    template = [token for token in (before, "$A", after) if token]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join(template),
        special_tokens=[
            (token, tokenizer.convert_tokens_to_ids(token)) for token in template if token != "$A"
        ],
    )


@lru_cache
def _trained(kind: str, special: tuple[str, ...]) -> str:
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    spelled = kind == "byte fallback"
    if spelled:
        tokenizer = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        first, alphabet = [*special, "<unk>", *_BYTES], []
        # Words are split before training only: what it learns must not cross them.
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    else:
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        first, alphabet = list(special), pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _TEXTS,
        BpeTrainer(
            vocab_size=ENTRIES, special_tokens=first, initial_alphabet=alphabet, show_progress=False
        ),
    )
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    # The bytes' names are ordinary entries, not marks to be found in a text.
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["content"] not in _BYTES
    ]
    return json.dumps(state)
