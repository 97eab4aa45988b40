"""The executor: a language model that applies operations, through the completions store."""

from __future__ import annotations

from collections.abc import Sequence

from refine_dagster.generation.request import Complete, Request, Sampling, request_seed
from refine_dagster.teams_rl.chain import Chain, Execution
from refine_dagster.teams_rl.operations import OPERATIONS, one_line

STOP = ("\n\n", "\nInstruction:", "\nInput:")


class ModelExecutor:
    """Asks a model for rewrites (implements `chain.Executor`).

    Noise is named by seed, text, operation and step, not by episode: a chain that comes to the same
    place again asks the same again, and the store answers.

    Args:
        complete: the completions store's door, or any other source of completions.
        salt: seeds all sampling noise.
        max_new_tokens, temperature, top_p: how a rewrite is decoded.
    """

    def __init__(
        self,
        complete: Complete,
        salt: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.7,
        top_p: float = 0.95,
    ) -> None:
        self._complete = complete
        self._salt = salt
        self._sampling = Sampling(max_new_tokens, temperature, top_p, stop=STOP)

    def execute(self, chains: Sequence[Chain], operations: Sequence[int]) -> list[Execution]:
        """One request a chain, role `rewrite`, in one batch."""
        requests = [
            self.request(chain, operation)
            for chain, operation in zip(chains, operations, strict=True)
        ]
        return [
            Execution(one_line(done.text), done.finish_reason != "length", request)
            for request, done in zip(requests, self._complete(requests), strict=True)
        ]

    def request(self, chain: Chain, operation: int) -> Request:
        """What is asked for one operation (a place in `OPERATIONS`) on one chain."""
        chosen = OPERATIONS[operation]
        seed = request_seed(self._salt, "rewrite", chosen.name, chain.seed_id, chain.step)
        return Request("rewrite", chosen.prompt(chain.text), self._sampling, seed)
