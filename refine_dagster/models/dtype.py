"""The dtype in which a device multiplies fastest, for `device.dtype: auto`."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from time import perf_counter

from refine_dagster import progress
from refine_dagster.hashing import readable_json
from refine_dagster.home import cache_folder, write_atomically

# bfloat16 keeps 8 bits of a number, float32 24: it has to be worth that.
WORTH = 1.2
# Rows, inner size and columns of the product that is timed: a prompt through a layer of some width.
SHAPE = (128, 640, 2048)
REPEATS = 7
FILE = "dtypes.json"


def fastest_dtype(device: str, hardware: str) -> str:
    """`bfloat16` where its matrix products take clearly less time than those of `float32`.

    Measured once for each processor or card and version of PyTorch, in some 0.1 s, and kept in the
    user's cache: what a run computes must not depend on how busy the machine was.
    """
    import torch

    path, key = cache_folder() / FILE, f"{hardware}, torch {torch.__version__}"
    known = _read(path)
    if key not in known:
        seconds = {name: _seconds(name, device) for name in ("float32", "bfloat16")}
        ratio = seconds["float32"] / seconds["bfloat16"]
        known[key] = "bfloat16" if ratio >= WORTH else "float32"
        progress.note(f"bfloat16 is {ratio:.1f} times as fast as float32 here, so {known[key]}")
        write_atomically(path, readable_json(known))
    return known[key]


def _read(path: Path) -> dict[str, str]:
    """The measurements so far; a damaged file has none."""
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    dtypes = ("float32", "bfloat16")
    return {key: dtype for key, dtype in dict(known).items() if dtype in dtypes}


def _seconds(dtype: str, device: str) -> float:
    """Median time of one product."""
    import torch

    rows, inner, columns = SHAPE
    left = torch.ones(rows, inner, dtype=getattr(torch, dtype), device=device)
    right = torch.ones(columns, inner, dtype=getattr(torch, dtype), device=device)
    times = []
    for _ in range(1 + REPEATS):
        started = perf_counter()
        # The number is read back, so that the product has ended.
        float(torch.nn.functional.linear(left, right)[0, 0])
        times.append(perf_counter() - started)
    return median(times[1:])
