"""What a session did with its device: recorded beside a materialization, part of no result.

It names the hardware and its driver, counts seconds and memory, keeps the batch sizes that were
found to fit, and says where memory ran out. None of it enters a data version or a manifest.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import monotonic

from refine_dagster import progress

CPU_FACTS = Path("/proc/cpuinfo")
NVIDIA_FACTS = Path("/proc/driver/nvidia/version")
DRIVER_SECONDS = 20


@dataclass
class DeviceUse:
    """A session's own account of itself.

    Attributes:
        hardware: the card's or the processor's name.
        driver: version of the card's driver; None on a CPU, or where nothing tells it.
        seconds: how long the session lasted; None while it does.
        peak_memory_mb: most memory held, MiB (`device.peak_memory_mb`); None while it lasts.
        batch_sizes: work -> the largest batch that is known to fit, once memory ran out.
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
        told = f"{work}: out of memory with a batch of {batch}, going on with {smaller}{besides}"
        self.backed_off.append(told)
        progress.note(told)


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
    """The version of the card's driver; None on a device without one, or where nothing tells it."""
    if device != "cuda":
        return None
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=DRIVER_SECONDS,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip():
            return asked.stdout.splitlines()[0].strip()
    if NVIDIA_FACTS.is_file():
        return NVIDIA_FACTS.read_text(encoding="utf-8").splitlines()[0].strip()
    return None
