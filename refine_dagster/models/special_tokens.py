"""The special tokens of a tokenizer, made such that every caller can rely on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# A word that no tokenizer turns into a special token.
_WORD = "a"


def settle(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Give a tokenizer an end and a padding token within the embedding, and left padding.

    A text gets no end token behind it: a model that reads one behind its prompt has been told that
    the text is over. A start token in front stays.

    Raises:
        ValueError: there is no end token, or it has no row in the embedding, or it cannot be kept
            from being put behind a text.
    """
    if tokenizer.eos_token_id is None:
        ends = getattr(config, "eos_token_id", None)
        end = ends[0] if isinstance(ends, (list, tuple)) and ends else ends
        if not isinstance(end, int):
            raise ValueError("it has no end-of-sequence token")
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    rows = getattr(config, "vocab_size", None)
    if rows is not None and tokenizer.eos_token_id >= rows:
        raise ValueError(
            f"its end-of-sequence token {tokenizer.eos_token!r} is number "
            f"{tokenizer.eos_token_id}, and the model knows {rows} tokens"
        )
    # A model is masked from padding, so any token that it knows will do.
    pad = tokenizer.pad_token_id
    if pad is None or (rows is not None and pad >= rows):
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if _ends(tokenizer):
        _leave_end_out(tokenizer)
    if _ends(tokenizer):
        raise ValueError("it puts an end-of-sequence token behind every text")


def start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts in front of every text."""
    with_start: list[int] = tokenizer(_WORD)["input_ids"]
    plain: list[int] = tokenizer(_WORD, add_special_tokens=False)["input_ids"]
    return with_start[: len(with_start) - len(plain)]


def _ends(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text ends in a token of its own."""
    return bool(tokenizer(_WORD)["input_ids"][-1] == tokenizer.eos_token_id)


def _leave_end_out(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers.processors import TemplateProcessing

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    ids: list[int] = tokenizer(_WORD)["input_ids"]
    plain: list[int] = tokenizer(_WORD, add_special_tokens=False)["input_ids"]
    start = tokenizer.convert_ids_to_tokens(ids[: ids.index(plain[0])])
    # Otherwise it would be put back when the tokenizer is saved and read.
    tokenizer.add_eos_token = False
    backend.post_processor = TemplateProcessing(
        single=[*start, "$A"],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in start],
    )
