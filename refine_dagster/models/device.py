"""Where models run: one session on one device, which leaves the process as it found it.

A session chooses device and threads, turns PyTorch's deterministic mode on, bounds the share of a
card's memory, and at its end restores each setting and releases the memory. What it records of
itself (`DeviceUse`) stands beside a materialization and enters no data version or manifest.
"""

from __future__ import annotations

import atexit
import gc
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from refine_dagster import progress
from refine_dagster.config.models import DeviceConfig
from refine_dagster.errors import RefineError
from refine_dagster.models.dtype import fastest_dtype

if TYPE_CHECKING:
    import torch

# cuBLAS is deterministic only with a workspace of fixed size, set before its first use.
CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_WORKSPACE = ":4096:8"


class DeviceError(RefineError):
    """The device that was asked for is not there."""


@dataclass
class DeviceUse:
    """What a session records of itself; seconds and peak memory once it ended.

    Attributes:
        batch_sizes: work -> the largest batch known to fit, once memory ran out.
        backed_off: a sentence for each time memory ran out.
        budgets: title -> memory budget as a Markdown table.
    """

    hardware: str = ""
    driver: str | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    batch_sizes: dict[str, int] = field(default_factory=dict)
    backed_off: list[str] = field(default_factory=list)
    budgets: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=monotonic)

    def back_off(self, work: str, batch: int, smaller: int, besides: str = "") -> None:
        """Keep `smaller` as the batch size of `work`, record that memory ran out, and say so."""
        self.batch_sizes[work] = smaller
        note = f"{work}: out of memory with a batch of {batch}, going on with {smaller}{besides}"
        self.backed_off.append(note)
        progress.note(note)


@dataclass(frozen=True)
class Device:
    """The device of a session: `cpu`, `cuda` or `mps`.

    Attributes:
        dtype: PyTorch's name of the dtype of weights and activations.
        deterministic: whether operations without a deterministic implementation are refused.
        quantization: `none`, or `nf4`: language models' weights are held in four bits.
        memory_share: largest share of a card's memory that the session may take.
    """

    name: str
    dtype: str
    threads: int
    deterministic: bool
    quantization: str = "none"
    memory_share: float = 1.0
    use: DeviceUse = field(default_factory=DeviceUse, compare=False, repr=False)

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


@contextmanager
def device_session(config: DeviceConfig) -> Iterator[Device]:
    """Open a session on a device; restore threads and modes and release memory at the end.

    Raises:
        DeviceError: the device is not available, or quantization without bitsandbytes is asked for.
    """
    import torch

    name = _choose(config.device)
    if config.quantization != "none" and find_spec("bitsandbytes") is None:
        raise DeviceError(
            "weights of four bits need the package bitsandbytes",
            where="config field device.quantization",
            fix="install `refine-dagster[4bit]`, or set device.quantization to `none`",
        )
    hardware = hardware_name(name)
    device = Device(
        name,
        dtype=fastest_dtype(name, hardware) if config.dtype == "auto" else config.dtype,
        threads=config.threads or _free_threads(),
        use=DeviceUse(hardware, driver_version(name)),
        **config.model_dump(include={"deterministic", "quantization", "memory_share"}),
    )
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    with restored_variables([CUBLAS_VARIABLE]):
        torch.set_num_threads(device.threads)
        if device.deterministic:
            os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_WORKSPACE)
            torch.use_deterministic_algorithms(True)
        if name == "cuda":
            torch.cuda.set_per_process_memory_fraction(config.memory_share)
            torch.cuda.reset_peak_memory_stats()
        elif name == "mps":
            torch.mps.set_per_process_memory_fraction(config.memory_share)
        try:
            yield device
        finally:
            device.use.seconds = monotonic() - device.use.started
            device.use.peak_memory_mb = peak_memory_mb(device)
            torch.set_num_threads(threads)
            torch.set_deterministic_debug_mode(mode)
            release_memory(device)
            if name == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def restored_variables(names: Collection[str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def opened_device(device: Device | None) -> AbstractContextManager[Device]:
    """A device that is open already; for None, a session with the default config."""
    return nullcontext(device) if device else device_session(DeviceConfig())


def release_memory(device: Device) -> None:
    import torch

    gc.collect()
    _set_imports_aside_once()
    if device.name == "cuda":
        torch.cuda.empty_cache()
    elif device.name == "mps":
        torch.mps.empty_cache()


def set_imports_aside() -> None:
    """Exclude what is alive now, above all imported libraries, from garbage collection.

    Going through their million objects takes half a second each time. It ends at exit.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)


_set_imports_aside_once = cache(set_imports_aside)


def peak_memory_mb(device: Device) -> float:
    """Most memory held so far, in MiB.

    On `cuda` by tensors of this session, on `mps` by the driver now, on `cpu` by the process.
    """
    import torch

    if device.name == "cuda":
        return float(torch.cuda.max_memory_allocated()) / 2**20
    if device.name == "mps":
        return float(torch.mps.driver_allocated_memory()) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def free_memory(device: Device) -> int:
    """Bytes that new tensors can take now, within the session's share of a card.

    What PyTorch has cached and does not use counts as free; on `cpu`, no swap does.
    """
    import torch

    if device.name == "cuda":
        free, total = torch.cuda.mem_get_info()
        held, cached = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        return max(0, min(free + cached - held, int(total * device.memory_share) - held))
    if device.name == "mps":
        most = int(torch.mps.recommended_max_memory() * device.memory_share)
        return max(0, most - torch.mps.current_allocated_memory())
    import psutil

    return int(psutil.virtual_memory().available)


def session_figures(device: Device) -> dict[str, Any]:
    """What the ledger keeps of a session so far; JSON values."""
    use = device.use
    peak = peak_memory_mb(device) if use.peak_memory_mb is None else use.peak_memory_mb
    seconds = monotonic() - use.started if use.seconds is None else use.seconds
    names = ("name", "dtype", "threads", "deterministic", "quantization")
    figures: dict[str, Any] = {
        **{name: getattr(device, name) for name in names},
        "hardware": use.hardware,
        "driver": use.driver,
        "peak_memory_mb": round(peak),
        "seconds": round(seconds, 3),
    }
    if use.backed_off:
        figures |= {"batch_sizes": dict(use.batch_sizes), "backed_off": list(use.backed_off)}
    return figures


def _choose(wanted: str) -> str:
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, there in available.items() if there)
    if not available[wanted]:
        names = ", ".join(name for name, there in available.items() if there)
        raise DeviceError(
            f"this machine has no {wanted} device that PyTorch can use",
            where="config field device.device",
            fix=f"choose `auto` or one of: {names}",
        )
    return wanted


def _free_threads() -> int:
    """OMP_NUM_THREADS where it is a positive number, else the cores this process may use."""
    declared = os.environ.get("OMP_NUM_THREADS", "")
    if declared.isdigit() and int(declared) > 0:
        return int(declared)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


CPU_FACTS = Path("/proc/cpuinfo")
NVIDIA_FACTS = Path("/proc/driver/nvidia/version")


@cache
def hardware_name(device: str) -> str:
    """The name of the card, or of the processor where `device` is `cpu` or `mps`."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    if CPU_FACTS.is_file():
        for line in CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or f"{platform.machine()} ({sys.platform})"


@cache
def driver_version(device: str) -> str | None:
    """The version of the card's driver; None where there is none, or if unknown."""
    if device != "cuda":
        return None
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(ask[0]):
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False)
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.splitlines()[0].strip()
    if NVIDIA_FACTS.is_file():
        return NVIDIA_FACTS.read_text(encoding="utf-8").splitlines()[0].strip()
    return None
