"""The offline base model's tokenizer: byte-level BPE, trained on the spot.

Two choices serve a small model that lives on few-shot prompts. A line break is always a token of
its own, so a prompt that ends where a completion begins is cut into the same tokens as the joined
text of training. A digit is a token of its own, so numbers are spelt out the same way everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

END = "<|end|>"
PAD = "<|pad|>"

# In order: a line break; an English contraction; a word, one digit or a run of signs, each with the
# blank before it; other blanks.
PIECES = r"\n|'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|[^\S\n]+"


def train_tokenizer(texts: Iterable[str], vocab_size: int, context_length: int) -> Any:
    """Train a tokenizer on `texts`; equal texts give equal files.

    Args:
        vocab_size: entries wanted, the 256 bytes and 2 special tokens included; texts too small for
            as many give fewer.
        context_length: recorded as the longest sequence.

    Returns:
        A `transformers.PreTrainedTokenizerFast` that pads on the left.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=context_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
