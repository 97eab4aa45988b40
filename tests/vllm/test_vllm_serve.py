"""`vllm serve` takes an exported model as it is, and answers a chat as transformers does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.home import Home
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, loaded_model
from refine_dagster.prompts.example import zero_shot_prompt
from refine_dagster.publishing.model_folder import export_model
from tests.builders.model_home import model_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
READY_S = 600
TOKENS = 12


@pytest.fixture(scope="module")
def made(
    tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Home, dict[str, ModelRef]]:
    return model_home(tmp_path_factory.mktemp("models") / "home", tiny_model_folder)


@contextmanager
def served(folder: Path, log: Path, *options: str) -> Iterator[str]:
    """The address of a server of the model in `folder`, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` starts. The command itself asks for the version of a package `vllm`, and the
    # build for CPUs has another name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "256"]
    command += ["--dtype", "float32", "--enforce-eager", "--served-model-name", "model", *options]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w", encoding="utf-8") as written:
        server = subprocess.Popen(command, stdout=written, stderr=written, env=environment)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, server, log)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(encoding="utf-8")[-4000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    pytest.fail(f"no answer in {READY_S} s: {log.read_text(encoding='utf-8')[-4000:]}")


def chat(address: str, model: str, content: str) -> str:
    """The greedy answer of a served model to one message."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        text: str = json.load(answer)["choices"][0]["message"]["content"]
    return text


def answer(ref: ModelRef, device: Device) -> str:
    """The same by transformers, with the words of the training's prompt."""
    with loaded_model(ref, device) as loaded:
        prompt = zero_shot_prompt("Count the words.", "cat dog sun")
        asked = loaded.tokenizer(prompt, return_tensors="pt")
        written = loaded.model.generate(**asked, max_new_tokens=TOKENS, do_sample=False)
        length = asked["input_ids"].shape[1]
        text: str = loaded.tokenizer.decode(written[0, length:], skip_special_tokens=True)
        return text


def test_a_merged_model(
    made: tuple[Home, dict[str, ModelRef]], device: Device, tmp_path: Path
) -> None:
    home, refs = made
    folder = export_model(home, "refine_af", tmp_path / "merged").folder
    with served(folder, tmp_path / "server.log") as address:
        said = chat(address, "model", "Count the words.\n\ncat dog sun")
    assert said.strip() == answer(refs["refine_af"], device).strip()


def test_an_adapter_on_its_base(
    made: tuple[Home, dict[str, ModelRef]], device: Device, tmp_path: Path
) -> None:
    home, refs = made
    folder = export_model(home, "refine_af", tmp_path / "adapter", layout="adapter").folder
    lora = "--enable-lora", "--lora-modules", f"refine_af={folder}"
    with served(folder / "base", tmp_path / "server.log", *lora) as address:
        question = "Count the words.\n\ncat dog sun"
        adapted, plain = (chat(address, name, question) for name in ("refine_af", "model"))
    assert adapted.strip() == answer(refs["refine_af"], device).strip()
    assert plain.strip() == answer(refs["base"], device).strip()
