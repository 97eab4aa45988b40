"""Whether a language model can be used for all that a run does, seen before the run pays for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from refine_dagster import progress
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import (
    LoadedModel,
    ModelRef,
    load_config,
    load_tokenizer,
    loaded_model,
)
from refine_dagster.models.refusals import CAUSAL, Problem, raise_problems

SENTENCE = "The ship left the harbour in the morning, and the sea was calm."
# Mean differences of logits, as shares of their spread: between two passes of one shape, and
# between a pass in two parts and in one, in any dtype.
MOST_OF_LATER_TOKENS, MOST_OF_ROUNDING = 0.01, 0.2


def check_model(ref: ModelRef, device: Device) -> None:
    """Load a model once and try on a sentence what a run needs of it.

    Its config and its tokenizer are checked before the weights are read: an end token, a start
    token that the embedding has, and the place of each token in the text. Then: it is causal, its
    cache gives what a whole pass gives, and the sentence's loss is a number.

    Raises:
        ModelError: with every problem and what to do about each.
    """
    config = load_config(ref)
    rows = int(getattr(config, "vocab_size", None) or 0)
    if not rows:
        raise_problems([Problem("config.json states no vocab_size", "state it there")], ref.path)
    raise_problems(list(_tokenizer_problems(load_tokenizer(ref), rows)), ref.path)
    progress.note(f"base_model: {config.model_type}, tried on a sentence before it is used")
    with loaded_model(ref, device) as loaded:
        problems = list(_reading_problems(loaded))
    raise_problems(problems, ref.path)


def _tokenizer_problems(tokenizer: Any, rows: int) -> Iterator[Problem]:
    """What is wrong with a tokenizer for an embedding of so many rows."""
    ids = tokenizer(SENTENCE)["input_ids"]
    if not tokenizer.is_fast:
        yield Problem(
            "its tokenizer does not give the place of each token in the text",
            "take a model that has a tokenizer.json",
        )
    else:
        places = tokenizer(SENTENCE, return_offsets_mapping=True)["offset_mapping"]
        if max(end for _, end in places) != len(SENTENCE):
            yield Problem(
                "its tokenizer gives wrong places of tokens in the text",
                "correct tokenizer.json, or take another model",
            )
    bos = tokenizer.bos_token_id
    special = set(tokenizer.all_special_ids) - {bos}
    beyond = max(token for token in tokenizer.get_vocab().values() if token not in special)
    if beyond >= rows:
        yield Problem(
            f"its tokenizer has a token {beyond}, and the model knows {rows} tokens",
            "take the tokenizer that belongs to the weights",
        )
    if len(ids) > len(SENTENCE):
        yield Problem(
            "its tokenizer makes more tokens of a sentence than it has characters",
            "correct tokenizer.json, or take another model",
        )


def _reading_problems(loaded: LoadedModel) -> Iterator[Problem]:
    import torch

    model, device = loaded.model, loaded.device
    ids: list[int] = loaded.tokenizer(SENTENCE)["input_ids"]

    def read(tokens: list[int], **more: Any) -> tuple[Any, Any]:
        answer = model(input_ids=torch.tensor([tokens], device=device.name), **more)
        return answer, answer.logits[0].float()

    half = len(ids) // 2
    with torch.inference_mode():
        start, _ = read(ids[:half], use_cache=True)
        _, whole = read(ids, use_cache=False)
        _, other = read([*ids[:-1], ids[0]], use_cache=False)
        scores = whole[:-1].log_softmax(-1)
        loss = -scores.gather(1, torch.tensor(ids[1:], device=device.name)[:, None]).mean()
        if not torch.isfinite(whole).all() or not torch.isfinite(loss):
            yield Problem(
                f"its loss on a sentence is {float(loss)}",
                "set device.dtype to `float32` or `bfloat16`; if that does not help, its weights "
                "are damaged: download them again",
            )
            return
        spread = float(whole.std())
        if float((other[:-1] - whole[:-1]).abs().mean()) > MOST_OF_LATER_TOKENS * spread:
            yield Problem("it is not causal: later tokens change what it says", CAUSAL)
        cache = getattr(start, "past_key_values", None)
        if cache is not None:
            _, rest = read(ids[half:], past_key_values=cache, use_cache=True)
            if float((rest - whole[half:]).abs().mean()) > MOST_OF_ROUNDING * spread:
                yield Problem("its cache does not give what a whole pass gives", CAUSAL)
        elif getattr(start, "cache_params", None) is None:
            yield Problem("it keeps no cache of the tokens that it has read", CAUSAL)
