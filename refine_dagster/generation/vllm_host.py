"""What vLLM changes in the process that starts it, and how each of it is put back.

In this process vLLM sets torch's threads, modes and random state, and logs to the terminal; what it
starts reads the environment.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refine_dagster.device import Device


@contextmanager
def vllm_logging(log: Path) -> Iterator[Path]:
    """Have vLLM, here and in its processes, log to a file.

    Args:
        log: the file.

    Yields:
        A file with settings for `logging.config`, beside the log.
    """
    settings = log.with_suffix(".json")
    settings.write_text(json.dumps(_to_file(log)), encoding="utf-8")
    logger = logging.getLogger("vllm")
    try:
        yield settings
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        # What vLLM says without an engine is dropped.
        logger.addHandler(logging.NullHandler())


@contextmanager
def torch_as_found(device: Device) -> Iterator[None]:
    """Let vLLM change torch's settings and random state in this process, and put them back."""
    import random

    import numpy as np
    import torch
    import torch._dynamo

    mode = torch.get_deterministic_debug_mode()
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    compiles_nothing = torch._dynamo.config.disable
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # In deterministic mode torch fills every new tensor, the cache included, with NaN.
    torch.set_deterministic_debug_mode(0)
    # On a CPU, compiling a handful of small functions takes a C++ compiler and minutes.
    torch._dynamo.config.disable = compiles_nothing or device.name == "cpu"
    try:
        yield
    finally:
        # On a CPU vLLM puts a function in its place that does nothing.
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch._dynamo.config.disable = compiles_nothing
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _to_file(log: Path) -> dict[str, Any]:
    """A `logging.config` that writes what vLLM says to a file."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(process)d %(levelname)s %(message)s"}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": str(log),
                "formatter": "plain",
                "encoding": "utf-8",
            }
        },
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
