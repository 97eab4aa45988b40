"""A session sets the process up and leaves it as it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from refine_dagster.config.models import DeviceConfig
from refine_dagster.models import dtype
from refine_dagster.models.device import (
    DeviceError,
    device_session,
    peak_memory_mb,
    session_figures,
)


def test_session_sets_and_restores() -> None:
    import torch

    threads = torch.get_num_threads()
    with device_session(DeviceConfig(device="cpu", threads=threads + 1)) as device:
        assert (device.name, device.dtype, device.threads) == ("cpu", "float32", threads + 1)
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
        assert device.torch_dtype is torch.float32
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_settings_come_back_after_an_error() -> None:
    import torch

    threads = torch.get_num_threads()
    with (
        pytest.raises(ZeroDivisionError),
        device_session(DeviceConfig(device="cpu", threads=threads + 1)),
    ):
        raise ZeroDivisionError
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_threads_default_to_the_declared_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with device_session(DeviceConfig(device="cpu")) as device:
        assert device.threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with device_session(DeviceConfig(device="cpu")) as device:
        assert 1 <= device.threads <= (os.cpu_count() or 1)


def test_nondeterministic_session_leaves_the_mode_off() -> None:
    import torch

    with device_session(DeviceConfig(device="cpu", deterministic=False)) as device:
        assert not device.deterministic
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_missing_card_is_named_with_what_is_there() -> None:
    import torch

    missing = "mps" if torch.cuda.is_available() else "cuda"
    with (
        pytest.raises(DeviceError, match=r"device\.device.*no " + missing) as caught,
        device_session(DeviceConfig.model_validate({"device": missing})),
    ):
        pass
    assert "cpu" in str(caught.value.fix)


def test_peak_memory_is_this_process_s() -> None:
    with device_session(DeviceConfig(device="cpu")) as device:
        held = bytearray(64 * 2**20)
        held[::4096] = b"x" * len(held[::4096])
        # An interpreter with PyTorch takes between 100 MB and a few GB.
        assert 100 < peak_memory_mb(device) < 20_000


def test_a_session_s_figures_stand_still_once_it_is_over() -> None:
    import torch

    with device_session(DeviceConfig(device="cpu", threads=1)) as device:
        first = session_figures(device)["seconds"]
        torch.ones(64, 64).matmul(torch.ones(64, 64))
        time.sleep(0.01)
        assert session_figures(device)["seconds"] > first
    over = session_figures(device)
    assert over == session_figures(device)
    assert over["name"] == "cpu"
    assert over["hardware"]
    assert over["driver"] is None
    assert over["seconds"] >= 0.01
    assert 100 < over["peak_memory_mb"] < 20_000
    # What a session did is no part of what its device is.
    with device_session(DeviceConfig(device="cpu", threads=1)) as other:
        other.use.back_off("work", 4, 2)
    assert other == device
    assert session_figures(other)["batch_sizes"] == {"work": 2}


def test_the_faster_dtype_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seconds = {"float32": 2.0, "bfloat16": 1.0}
    monkeypatch.setattr(dtype, "_seconds", lambda name, device: seconds[name])
    with device_session(DeviceConfig(device="cpu", dtype="auto")) as device:
        assert device.dtype == "bfloat16"
        assert session_figures(device)["dtype"] == "bfloat16"
    # Another measurement on a busy machine would say otherwise.
    seconds["bfloat16"] = 3.0
    assert dtype.fastest_dtype("cpu", device.use.hardware) == "bfloat16"
    assert dtype.fastest_dtype("cpu", "another processor") == "float32"
    (tmp_path / "refine-dagster" / dtype.FILE).write_text("[", encoding="utf-8")
    assert dtype.fastest_dtype("cpu", device.use.hardware) == "float32"


def test_both_dtypes_take_some_time() -> None:
    assert dtype._seconds("float32", "cpu") > 0
    assert dtype._seconds("bfloat16", "cpu") > 0
