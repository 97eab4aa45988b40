"""One decoder, for requests and for rollouts: each completion draws from noise of its own.

`model.generate` draws one stream of noise for a whole batch, so a completion there depends on its
neighbours. Here a completion owns its noise: one uniform number a token, turned into that token by
the inverse of the row's cumulative distribution.

Rollouts are completions sampled from a policy while it is being trained, token ids kept. TRL
decodes to the end-of-sequence token only, while a policy prompt's completion also ends at a stop
string; what a model writes after it is no part of the completion and must get no gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refine_dagster.errors import RefineError
from refine_dagster.generation.model_text import ModelText
from refine_dagster.generation.request import Completion, FinishReason, Sampling
from refine_dagster.models.padding import Padded, pad_left, positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import DynamicCache

# Names of a model's cache: keys and values of each token, or a state of fixed size (Mamba).
KEYS, STATES = "past_key_values", "cache_params"
# Tokens from which on a second call of the model is worth it.
SHORTEST = 16


@dataclass
class Writing:
    """A completion being written: its tokens, the last one included, and why it has ended.

    `noise` gives a uniform number in [0, 1) for each sampled token.
    """

    prompt: list[int]
    sampling: Sampling
    noise: Iterator[float]
    written: list[int] = field(default_factory=list)
    finish: FinishReason | None = None

    def add(self, token: int, text: ModelText) -> None:
        """Append a token, and note whether the completion ends with it."""
        self.written.append(token)
        if token in text.eos:
            self.finish = "eos"
        elif self._at_stop(text) or text.at_list_end(self.prompt, self.written, self.sampling):
            self.finish = "stop"
        elif len(self.written) >= self.sampling.max_new_tokens:
            self.finish = "length"

    def completion(self, text: ModelText) -> Completion:
        assert self.finish is not None
        return text.completion(self.prompt, self.written, self.sampling, self.finish)

    def _at_stop(self, text: ModelText) -> bool:
        if not self.sampling.stop:
            return False
        # A stop string of n bytes spans at most n tokens; earlier ones were looked at before.
        reach = max(len(stop.encode()) for stop in self.sampling.stop) + 1
        tail = text.decode(self.written[-reach:])
        return any(stop in tail for stop in self.sampling.stop)


class Sequences:
    """Sequences that a model reads step by step: their key-value cache, mask and positions.

    Attributes:
        logits: those after the last token read, shape (rows, vocabulary).

    Args:
        prompts: padded on the left.
        steps: most tokens that are read after the prompts.
        cache: of the first `seen` columns, where these were read before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Padded,
        steps: int,
        cache: DynamicCache | None = None,
        seen: int = 0,
    ) -> None:
        import torch

        self._model = model
        self._cache_name, self._cache = KEYS, cache
        self._seen = seen
        mask = np.pad(prompts.mask, ((0, 0), (0, steps)), constant_values=1)
        self._mask = torch.from_numpy(mask).to(model.device)
        self._positions = positions(self._mask)
        self.read(prompts.ids[:, seen:])

    def read(self, ids: NDArray[np.int64]) -> None:
        """Read the next columns, shape (rows, columns)."""
        import torch

        end = self._seen + ids.shape[1]
        # A state space keeps nothing of the columns before that a mask could hide.
        first = self._seen if self._cache_name == STATES else 0
        answer = self._model(
            input_ids=torch.from_numpy(ids).to(self._model.device),
            attention_mask=self._mask[:, first:end],
            position_ids=self._positions[:, self._seen : end],
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: self._cache},
        )
        self._cache_name, self._cache = _cache_of(answer)
        self._seen = end
        self.logits: NDArray[np.float32] = answer.logits[:, -1].float().cpu().numpy()

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; a row named twice is copied."""
        import torch

        index = torch.tensor(rows, device=self._model.device)
        assert self._cache is not None
        self._cache.reorder_cache(index)
        self._mask, self._positions = self._mask[index], self._positions[index]
        self.logits = self.logits[rows]


def write(
    rows: Sequence[Writing], sequences: Sequences, text: ModelText, *, drop_ended: bool = False
) -> None:
    """Write every row to its end.

    Args:
        rows: row i continues sequence i. Sequences after them are dummies.
        drop_ended: go on without the rows that have ended. This changes the shape of the rest, and
            with it their rounding.
    """
    current = list(rows)
    going = list(range(len(current)))
    while True:
        chosen = np.zeros((len(sequences.logits), 1), dtype=np.int64)
        chosen[going, 0] = next_tokens([current[at] for at in going], sequences.logits[going])
        for at in going:
            current[at].add(int(chosen[at, 0]), text)
        going = [at for at in going if current[at].finish is None]
        if not going:
            return
        if drop_ended and len(going) < len(current):
            sequences.select(going)
            current, chosen = [current[at] for at in going], chosen[going]
            going = list(range(len(current)))
        sequences.read(chosen)


def next_tokens(rows: Sequence[Writing], logits: NDArray[np.float32]) -> list[int]:
    """The next token of each row by its own noise; greedy rows draw none."""
    return choose_tokens(
        logits,
        [row.written for row in rows],
        [row.sampling for row in rows],
        [next(row.noise) if row.sampling.temperature > 0 else 0.0 for row in rows],
    )


def request_noise(seed: int) -> Iterator[float]:
    """Uniform numbers in [0, 1) without end: Philox counters keyed by the seed."""
    source = np.random.Philox(key=seed)
    while True:
        # The upper 53 bits, a double's worth.
        yield from ((source.random_raw(64) >> np.uint64(11)) * 2.0**-53).tolist()


def choose_tokens(
    logits: NDArray[np.float32],
    written: Sequence[Collection[int]],
    samplings: Sequence[Sampling],
    uniforms: Sequence[float],
) -> list[int]:
    """The token at `uniform` of each row's cumulative next-token distribution, in float64.

    A row's token depends on that row alone: the same bits come out in any company. Temperature 0
    takes the likeliest token, the lowest id where several are. The nucleus is the shortest start
    whose probabilities reach `top_p` of the list of tokens, likeliest first, equal ones by id.

    Args:
        logits: shape (rows, vocabulary).
        written: tokens of each row's completion so far; each is penalised once.
        uniforms: numbers in [0, 1).
    """
    scores = logits.astype(np.float64)
    for row, (tokens, sampling) in enumerate(zip(written, samplings, strict=True)):
        if sampling.presence_penalty and tokens:
            scores[row, list(set(tokens))] -= sampling.presence_penalty
    temperatures = [row.temperature if row.temperature > 0 else 1.0 for row in samplings]
    weights = scores - scores.max(axis=1, keepdims=True)
    weights /= np.array(temperatures)[:, np.newaxis]
    np.exp(weights, out=weights)
    return [
        _token_at(weights[row], sampling.top_p, uniform)
        if sampling.temperature > 0
        else int(scores[row].argmax())
        for row, (sampling, uniform) in enumerate(zip(samplings, uniforms, strict=True))
    ]


def _token_at(weights: NDArray[np.float64], top_p: float, uniform: float) -> int:
    if top_p >= 1:
        cumulative = weights.cumsum()
        at = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
        # Rounding may put the product on the last sum itself.
        return min(at, weights.size - 1)
    total = weights.sum()
    # Tokens under this share of the mass together weigh less than what the nucleus leaves out.
    ids = (weights >= total * (1 - top_p) / weights.size).nonzero()[0]
    likely = weights[ids]
    order = (-likely).argsort(kind="stable")
    cumulative = likely[order].cumsum()
    cumulative = cumulative[: int(cumulative.searchsorted(total * top_p)) + 1]
    at = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
    return int(ids[order[min(at, cumulative.size - 1)]])


def shared_start(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, the last token of each left out.

    0 where there are fewer than two prompts or fewer than `SHORTEST` tokens.

    >>> shared_start([list(range(20)) + [7], list(range(20)) + [8, 9]])
    20
    """
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    shared = min(sum(1 for _ in alike), min(map(len, prompts)) - 1)
    return shared if shared >= SHORTEST else 0


def read_once(
    model: PreTrainedModel, start: Sequence[int], rows: int, columns: int
) -> DynamicCache | None:
    """The cache of a start of all rows, computed once; None where the model's cannot be repeated.

    The values are those of each prompt read alone, up to the rounding of another shape.

    Args:
        columns: most that will be read, the start, padding and new tokens included.
    """
    import torch
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    # A sliding window counts the padding behind the start, so no row may grow beyond it.
    window = getattr(model.config.get_text_config(decoder=True), "sliding_window", None)
    if window is not None and columns > window:
        return None
    ids = torch.tensor([list(start)], device=model.device)
    with torch.inference_mode():
        _, cache = _cache_of(model(input_ids=ids, use_cache=True, logits_to_keep=1))
    # A state space has no keys to repeat.
    known = DynamicLayer, DynamicSlidingWindowLayer
    if any(type(layer) not in known for layer in cache.layers):
        return None
    cache.batch_repeat_interleave(rows)
    return cache


def _cache_of(answer: Any) -> tuple[str, DynamicCache]:
    for name in (KEYS, STATES):
        cache = getattr(answer, name, None)
        if hasattr(cache, "layers"):
            return name, cache
    raise RefineError(
        "the model keeps no cache of the tokens that it has read",
        where="config field base_model.id",
        fix="take a model that `generate` of transformers runs with a cache",
    )


@dataclass(frozen=True)
class Rollout:
    """One sampled completion.

    `completion_ids` include the token that ended it, `text` neither a stop string nor the
    end-of-sequence token. `finished` is False where the length limit ended it.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    text: str
    finished: bool


def sample_rollouts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    stop: Sequence[str],
) -> list[Rollout]:
    """Sample from the whole next-token distribution (no nucleus: the loss assumes none).

    A rollout for each of a prompt's seeds, prompt by prompt; a prompt is read once, and its
    key-value cache copied. An adapter stays active.
    """
    import torch

    text = ModelText.of(model, tokenizer)
    sampling = Sampling(max_new_tokens, temperature, stop=tuple(stop))
    prompt_ids = [text.prompt(prompt) for prompt in prompts]
    rows = [
        Writing(ids, sampling, iter(np.random.default_rng(seed).random(max_new_tokens).tolist()))
        for ids, group in zip(prompt_ids, seeds, strict=True)
        for seed in group
    ]
    with torch.no_grad(), _evaluating(model):
        sequences = Sequences(model, pad_left(prompt_ids, tokenizer.pad_token_id), max_new_tokens)
        sequences.select([number for number, group in enumerate(seeds) for _ in group])
        write(rows, sequences, text, drop_ended=True)
    return [
        Rollout(row.prompt, row.written, row.completion(text).text, row.finish != "length")
        for row in rows
    ]


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Eval mode inside the block: no dropout, and a cache even under gradient checkpointing."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
