"""The tokens of a prompt and of the answer behind it, as training and measuring read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def answer_tokens(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str
) -> tuple[list[int], list[int]]:
    """Tokens of a prompt, and of an answer that begins with its space.

    The prompt ends in a colon. Its tokens are those that it has at inference; where the tokenizer
    agrees, the two are tokenised as one text.
    """
    before: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
    joint: list[int] = tokenizer(prompt + answer, verbose=False)["input_ids"]
    if tokenizer.eos_token_id is not None and joint[-1:] == [tokenizer.eos_token_id]:
        joint = joint[:-1]
    if joint[: len(before)] == before:
        return before, joint[len(before) :]
    return before, tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
