"""A program that asks vLLM for many completions and keeps them, for tests that kill it.

`python -m tests.vllm.asking MODEL WAREHOUSE`; prints `batch` for each batch that is kept, then
`done`, or the error that ended it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from refine_dagster import progress
from refine_dagster.config.models import DeviceConfig, GeneratorConfig
from refine_dagster.errors import RefineError
from refine_dagster.generation.completions import CompletionsStore, open_generator
from refine_dagster.generation.request import Request, Sampling
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import resolve_model
from refine_dagster.seeding import request_seed
from refine_dagster.warehouse.warehouse import Warehouse

BATCH = 8
ASKED = [
    Request(
        "propose",
        f"Instruction: Count the words {number}.\nInput:",
        Sampling(max_new_tokens=96, temperature=1.5),
        request_seed("asking", number),
    )
    for number in range(240)
]


class _Batches:
    """Prints a line for each batch (`progress.Reporter`)."""

    def start(self, description: str, total: int | None) -> int:
        return 0

    def advance(self, handle: int, steps: int, figures: dict[str, progress.Figure]) -> None:
        print("batch", steps, flush=True)

    def finish(self, handle: int) -> None:
        pass

    def note(self, message: str) -> None:
        pass


def main(model: str, warehouse: str) -> None:
    """Ask, and keep what comes back."""
    store = CompletionsStore(Warehouse(Path(warehouse)), "first")
    config = GeneratorConfig(backend="vllm", batch_size=BATCH)
    with (
        device_session(DeviceConfig(device="cpu", threads=1)) as device,
        progress.reporting(_Batches()),
        open_generator(resolve_model(model), device, store, config) as session,
    ):
        session.complete(ASKED)
    print("done", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RefineError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(1)
